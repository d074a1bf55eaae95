"""What encoders know of nuclei: linear probes on every labelled set of the data folder that nothing was trained on.

    LEMON_SC_DATA=... python benchmarks/encoders.py [--weights PATH ...] [--alone] [--groups slide] [--tasks amibr ...]

Frozen embeddings of crops of 40 px at 0.25 um/px, standardised in the training folds; multinomial logistic regression,
solved to its optimum, with C = 1, or with `--c inner` the C that does best within the training cells; 5 folds
stratified by class, drawn `--draws` times (seeds 0, 1, ..); mean (sd) over all folds, of the scores of `lm.metrics`.
With `--groups slide` no slide is on both sides (5 folds of whole slides, as even in their classes as can be, one draw),
which is what a new slide will see, and scores lower.

    amibr        normal or atypical mitosis, AMi-Br, slides held out from the corpus (`held_out` of `lemon_sc.bench`)
    amibr_all    the same, all slides; an encoder that was trained on the corpus has seen half of them, without labels
    atnorm       the same, TCGA (AtNorM-Br); it names no slides, so there is no `--groups slide` of it
    brecahad     tumour, other, apoptosis, mitosis: the two cases held out from the corpus
    nucls        NuCLS super-classes tumor_any, sTIL, nonTIL_stromal; groups are its 15 tiles
    consep       CoNSeP types: inflammatory, epithelial, spindle, miscellaneous; groups are its 27 images

At most `--most` nuclei of a task are taken, drawn with seed 0. Nuclei whose crop is not wholly inside their image are
left out. AUC is one against the rest, mean over classes; AUPR too, but for the mitoses, where it is that of `normal`,
as in the published tables. Encoders: measurements (`morphometry`), an untrained ViT-S/8, 64 principal components of the
pixels (at 0.5 um/px, of the training folds), histograms of the three colours (16 bins each), and each of `--weights`:
an exported encoder, LEMON's checkpoint, or the folder of a run.

Results go to benchmarks/results/encoders.csv, a row per task, kind of folds, C, encoder and score; rows that are not
computed anew stay.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from corpus import crops_of, home, table_of

import lemon_sc as lm
from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.analysis.splits import stratified
from lemon_sc.bench.encoders import N_PCS, histograms, pixels, untrained
from lemon_sc.bench.encoders import one as read
from lemon_sc.bench.folds import grouped
from lemon_sc.metrics.classification import METRICS

RESULTS = Path(__file__).parent / "results" / "encoders.csv"
SHOWN = ("balanced_accuracy", "auc", "aupr", "f1_macro")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Labelled nuclei: a set, which of its rows, and the class whose precision-recall curve is scored."""

    of: str
    where: str | None = None
    pos_label: str | None = None
    has_slides: bool = True


TASKS = {
    "amibr": Task(of="amibr", where="set == 'AMi-Br' and held_out", pos_label="normal"),
    "amibr_all": Task(of="amibr", where="set == 'AMi-Br'", pos_label="normal"),
    "atnorm": Task(of="amibr", where="set == 'AtNorM-Br'", pos_label="normal", has_slides=False),
    "brecahad": Task(of="brecahad", where="held_out"),
    "nucls": Task(of="nucls_sample", where="type != 'other_nucleus'"),
    "consep": Task(of="consep"),
}


def load(folder, task, most):
    """Crops uint8 (n, 40, 40, 3), their rows, and how many there are before any draw."""
    table = table_of(folder, task.of)
    if task.where is not None:
        table = table.query(task.where)
    drawn = table.sample(min(most, len(table)), random_state=0).sort_index()
    crops, rows = crops_of(folder, task.of, drawn, size_px=40)
    return crops, rows, len(table)


def embedder(model, device):
    """From crops to the embedding of a model."""
    return lambda crops: lm.models.encode(crops, model, device=device)


def encoders(weights, device, *, alone=False):
    """Name, function from crops to features, and principal components that the probe takes of them."""
    found = (
        {}
        if alone
        else {
            "histogram": (histograms, None),
            "pixel_pca": (pixels, N_PCS["pixel_pca"]),
            "random_vit_s8": (embedder(untrained(), device), None),
            "morphometry": (embedder("morphometry", device), None),
        }
    )
    for path in weights:
        encoder = read(path)
        name = encoder.card.name
        found[name if name not in found else str(path)] = (embedder(encoder, device), None)
    return found


def probe(features, labels, draws, *, c, n_pcs, pos_label):
    """Scores (folds of all draws, M), in the order of `METRICS`."""
    options = {"rng": np.random.default_rng(0), "n_null": 0, "c": c, "n_pcs": n_pcs, "pos_label": pos_label}
    return np.concatenate([logistic_probe(features, labels, folds, **options).metrics for folds in draws])


def score(task_name, crops, rows, found, *, by_slide, c=1.0, n_draws=1):
    """Rows of the results of one task."""
    task, labels = TASKS[task_name], rows["type"].to_numpy(str)
    if by_slide:
        draws = [grouped(labels, rows["slide"])]
    else:
        draws = [stratified(labels, rng=np.random.default_rng(seed)) for seed in range(n_draws)]
    for name, (function, n_pcs) in found.items():
        start = time.perf_counter()
        features = function(crops)
        scores = probe(features, labels, draws, c=c, n_pcs=n_pcs, pos_label=task.pos_label)
        for m, metric in enumerate(METRICS):
            yield {
                "task": task_name,
                "folds": "slide" if by_slide else "stratified",
                "c": str(c),
                "draws": len(draws),
                "encoder": name,
                "dim": n_pcs or features.shape[1],
                "n": len(labels),
                "n_classes": len(set(labels)),
                "n_slides": rows["slide"].nunique() if task.has_slides else 0,
                "pos_label": task.pos_label or "macro",
                "metric": metric,
                "mean": scores[:, m].mean(),
                "sd": scores[:, m].std(ddof=1),
            }
        print(f"  {name:<24}{time.perf_counter() - start:>7.1f} s", flush=True)


def show(results):
    """Print mean (sd), one block per task."""
    for (task, n, classes), part in results.groupby(["task", "n", "n_classes"], sort=False):
        pos = part["pos_label"].iloc[0]
        print(
            f"\n{task}: {n} nuclei, {classes} classes, folds {part['folds'].iloc[0]}, C {part['c'].iloc[0]}, AUPR {pos}"
        )
        print(f"{'':<24}{'dim':>6}" + "".join(f"{metric:>19}" for metric in SHOWN))
        for name, own in part.groupby("encoder", sort=False):
            at = own.set_index("metric")
            texts = "".join(f"{at['mean'][m]:>12.3f} ({at['sd'][m]:.3f})" for m in SHOWN)
            print(f"{name:<24}{own['dim'].iloc[0]:>6}{texts}")


def merged(old, new):
    """All results, the new ones in place of old ones of the same task, folds, C, encoder and score."""
    return pd.concat([old, new], ignore_index=True).drop_duplicates(
        ["task", "folds", "c", "encoder", "metric"], keep="last", ignore_index=True
    )


def penalty(text):
    """A number, or the word for the one that is chosen."""
    return text if text == "inner" else float(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="*", default=[], metavar="PATH", help="encoders to compare with the others")
    parser.add_argument("--alone", action="store_true", help="only those of --weights")
    parser.add_argument("--groups", choices=["none", "slide"], default="none", help="what is never on both sides")
    parser.add_argument("--c", type=penalty, default=1.0, help="inverse penalty, or 'inner'")
    parser.add_argument("--draws", type=int, default=1, help="draws of the stratified folds")
    parser.add_argument("--tasks", nargs="*", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--most", type=int, default=5000, help="nuclei of a task")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    folder, by_slide = home(), args.groups == "slide"
    found, rows = encoders(args.weights, args.device, alone=args.alone), []
    for name in args.tasks:
        if by_slide and not TASKS[name].has_slides:
            print(f"{name}: left out, its slides are not known")
            continue
        crops, table, n_all = load(folder, TASKS[name], args.most)
        print(f"{name}: {len(crops)} of {n_all} nuclei ({table['type'].value_counts().to_dict()})", flush=True)
        rows += score(name, crops, table, found, by_slide=by_slide, c=args.c, n_draws=args.draws)
    results = pd.DataFrame(rows)
    show(results)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.is_file():
        results = merged(pd.read_csv(args.out, dtype={"c": str}), results)
    results.to_csv(args.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
