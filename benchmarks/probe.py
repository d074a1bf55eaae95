"""Linear probe: ours against scikit-learn's nested cross-validation, and against the products that cannot be avoided.

    python benchmarks/probe.py [--slides 20] [--cells 2000] [--outer 1] [--repeat 3] [--json FILE]
    python benchmarks/probe.py --cells 10000 --outer 0

Each slide is held out once, the penalty of the ridge (13 of them) is chosen by leaving out each training slide in turn,
and 50 genes are predicted from 384 features. Compared in the same run, on the same numbers:

(a) scikit-learn: ``GridSearchCV`` over ``StandardScaler`` and ``Ridge`` with ``LeaveOneGroupOut``, scored by the mean
    Pearson correlation over genes. Every held-out slide takes it the same time, so it is timed on `--outer` of them
    (0 leaves it out), and scaled; these are also compared number by number;
(b) the floor: the products X'X and X'Y of every cell, once, at the rate of the fastest matrix product measured here;
(c) that, and one eigendecomposition for each training set: every pair of slides left out, and every slide.

All use all processors: scikit-learn by the threads of BLAS, ours, (b) and (c) by one job on each. The best of
`--repeat` runs counts for ours, (b) and (c). Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lemon_sc.analysis.probe import ridge_probe
from lemon_sc.analysis.splits import leave_one_group_out
from lemon_sc.analysis.threads import threads

FEATURES, GENES, LATENT = 384, 50, 20
ALPHAS = np.logspace(-2, 6, 13)


def make_data(n_slides, n_cells):
    """Embedding (N, 384) float32 and log counts (N, 50), both driven by 20 latents, and the slide of each cell."""
    rng = np.random.default_rng(0)
    slide = np.repeat(np.arange(n_slides), n_cells)
    latent = rng.standard_normal((len(slide), LATENT))
    x = latent @ rng.standard_normal((LATENT, FEATURES)) + rng.standard_normal((n_slides, FEATURES))[slide]
    x += 2 * rng.standard_normal(x.shape)
    rate = np.exp(0.2 * latent @ rng.standard_normal((LATENT, GENES)))
    return x.astype(np.float32), np.log1p(rng.poisson(rate)).astype(np.float64), slide


def timed(function, repeat):
    """Best wall time of `repeat` calls in seconds, and what the last one gave."""
    best = np.inf
    for _ in range(repeat):
        start = time.perf_counter()
        made = function()
        best = min(best, time.perf_counter() - start)
    return best, made


def ours(x, y, slide, *, n_null=0):
    """The whole nested probe."""
    folds = leave_one_group_out(slide)
    return ridge_probe(x, y, folds, rng=np.random.default_rng(0), n_null=n_null, alpha=ALPHAS)


def per_gene(truth, predicted):
    """Pearson correlation of each column."""
    a, b = truth - truth.mean(axis=0), predicted - predicted.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))


def with_sklearn(x, y, slide, held_out):
    """One held-out slide: (penalty, predictions, correlation of each gene)."""
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": ALPHAS},
        cv=LeaveOneGroupOut(),
        scoring=make_scorer(lambda truth, predicted: per_gene(truth, predicted).mean()),
    )
    train, test = slide != held_out, slide == held_out
    search.fit(x[train], y[train], groups=slide[train])
    predicted = search.predict(x[test])
    return search.best_params_["ridge__alpha"], predicted, per_gene(y[test], predicted)


def against_sklearn(result, x, y, slide, n_outer):
    """Seconds of scikit-learn for all slides, and the largest difference from `result`."""
    wide = x.astype(np.float64)  # in float32 it would differ by the rounding of its own sums
    names, off = np.unique(slide.astype(str)), {"pcc": 0.0, "prediction": 0.0, "penalty": 0.0}
    total = 0.0
    for f in range(n_outer):
        held_out = int(names[f])
        seconds, (alpha, predicted, pcc) = timed(lambda held_out=held_out: with_sklearn(wide, y, slide, held_out), 1)
        total += seconds
        now = {
            "pcc": np.abs(result.pcc[f] - pcc).max(),
            "prediction": np.abs(result.predictions[slide == held_out] - predicted).max(),
            "penalty": abs(result.alpha[f] / alpha - 1),
        }
        off = {key: max(value, float(now[key])) for key, value in off.items()}
    return total * len(names) / n_outer, off


def floor(x, n_slides, repeat):
    """Seconds of the products at the measured rate, and of all eigendecompositions, on all processors."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 1024, 1024))
    z = rng.standard_normal((4 * FEATURES, FEATURES))
    gram = z.T @ z
    n = 4 * (os.cpu_count() or 1)
    with threads() as each:
        product, _ = timed(lambda: list(each(lambda _: a @ b, range(n))), repeat + 2)
        decomposition, _ = timed(lambda: list(each(lambda _: np.linalg.eigh(gram), range(n))), repeat + 2)
    products = 2 * len(x) * FEATURES * (FEATURES + GENES) / (2 * 1024**3) * product / n
    return products, decomposition / n * (n_slides * (n_slides - 1) // 2 + n_slides)


def measure(n_slides, n_cells, n_outer, repeat):
    """All figures, in seconds."""
    x, y, slide = make_data(n_slides, n_cells)
    seconds, result = timed(lambda: ours(x, y, slide), repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # scikit-learn comes after
    with_null, _ = timed(lambda: ours(x, y, slide, n_null=20), 1)
    gram, decompositions = floor(x, n_slides, repeat)
    found = {"ours": seconds, "ours_with_null": with_null, "gram": gram, "decompositions": decompositions}
    if n_outer:
        found["sklearn"], found["difference"] = against_sklearn(result, x, y, slide, n_outer)
    return found | {"peak_GiB": peak, "data_GiB": (x.nbytes + y.nbytes) / 2**30}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--cells", type=int, default=2000, help="per slide")
    parser.add_argument("--outer", type=int, default=1, help="held-out slides that scikit-learn does, 0 for none")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    s = measure(args.slides, args.cells, min(args.outer, args.slides), args.repeat)
    size = f"{args.slides} slides x {args.cells} cells x {FEATURES} features x {GENES} genes x {len(ALPHAS)} penalties"
    print(f"{size}, {os.cpu_count()} cores, peak {s['peak_GiB']:.1f} GiB with {s['data_GiB']:.2f} GiB of data")
    if "sklearn" in s:
        worst = ", ".join(f"{name} {value:.1e}" for name, value in s["difference"].items())
        print(f"(a) scikit-learn, {args.outer} of {args.slides} slides: {s['sklearn'] / s['ours']:.0f}x faster")
        print(f"    largest difference: {worst} (penalty: relative)")
    print(f"(b) products alone: {s['ours'] / s['gram']:.1f}x time")
    print(f"(c) products and eigendecompositions: {s['ours'] / (s['gram'] + s['decompositions']):.2f}x time")
    print(f"20 shuffles add {s['ours_with_null'] / s['ours'] - 1:.0%}")
    if args.json:
        args.json.write_text(json.dumps({"slides": args.slides, "cells": args.cells, **s}, indent=1))


if __name__ == "__main__":
    main()
