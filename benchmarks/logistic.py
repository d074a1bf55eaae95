"""Probe of types: ours against scikit-learn's logistic regression, in time and in how near each comes to the optimum.

    python benchmarks/logistic.py [--cells 2000] [--folds 5] [--repeat 3]

Embeddings of an untrained ViT-S/8 (384 features, strongly correlated, as those of any encoder are) of the nuclei of the
phantom, its seven types as classes, stratified folds, features standardised in the training folds. Compared in the same
run, on the same numbers:

(a) scikit-learn's ``LogisticRegression(C=1)``, lbfgs, at its default tolerance;
(b) the same problem solved by scikit-learn's Newton method to a tolerance of 1e-10: the optimum, for one fold.

The best of `--repeat` runs counts. Differences are the largest over cells and classes of held-out probabilities.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm
from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.analysis.splits import stratified
from lemon_sc.bench.encoders import untrained

MAX_ITER = 5000


def features(n_cells):
    """Embeddings and types of the nuclei of a phantom."""
    sdata = lm.datasets.phantom(n_cells=n_cells)
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata, model=untrained())
    table = sdata["table"]
    ok = np.isfinite(table.obsm["X_lemon"]).all(axis=1)
    return table.obsm["X_lemon"][ok], table.obs["truth_type"].to_numpy(str)[ok]


def best(function, repeat):
    """What a function gives, and the least of its times."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        made = function()
        times.append(time.perf_counter() - start)
    return made, min(times)


def theirs(z, labels, folds, **options):
    """Held-out probabilities of scikit-learn, (n, K)."""
    made = np.full((len(z), len(np.unique(labels))), np.nan)
    for fold in folds:
        train = np.setdiff1d(np.arange(len(z)), fold)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, **options)).fit(z[train], labels[train])
        made[fold] = model.predict_proba(z[fold])
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    z, labels = features(args.cells)
    split = stratified(labels, n_folds=args.folds, rng=np.random.default_rng(0))
    held_out = [np.flatnonzero(split.codes == k) for k in range(len(split.names))]
    print(f"{len(z)} cells, {z.shape[1]} features, {len(np.unique(labels))} types, {len(held_out)} folds")

    def ours():
        return logistic_probe(z, labels, split, rng=np.random.default_rng(0), n_null=0).probability

    own, own_s = best(ours, args.repeat)
    default, default_s = best(lambda: theirs(z, labels, held_out, max_iter=MAX_ITER), args.repeat)
    first = held_out[:1]
    optimum = theirs(z, labels, first, max_iter=MAX_ITER, solver="newton-cg", tol=1e-10)[first[0]]
    print(f"ours takes {own_s / default_s:.2f} of the time of (a), scores and folds included")
    for name, made in (("ours", own), ("(a)", default)):
        print(f"{name:>5}: probabilities are up to {np.abs(made[first[0]] - optimum).max():.1e} from (b)")


if __name__ == "__main__":
    main()
