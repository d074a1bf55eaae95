"""A small table as `lm.bench.run` gives it, with planted scores."""

import pandas as pd

from lemon_sc.bench.rows import COLUMNS

ENCODERS = {"morphometry": 0.60, "random_vit_s8": 0.55, "ours": 0.72}
FOLDS = (-0.02, -0.01, 0.0, 0.01, 0.02)


def rows(task, encoder, protocol, metric, values, *, n=100):
    """One row for each fold of `values` ({fold: value})."""
    for fold, value in values.items():
        made = (task, 1, encoder, 8, protocol, fold, metric, value, n, 4 * n, 0.1, "measured")
        yield dict(zip(COLUMNS, made, strict=True))


def classes(task, *, protocols=("stratified", "slide")):
    """Scores of a task with classes, the same spread in all folds; controls at chance."""
    for encoder, mean in ENCODERS.items():
        for protocol in protocols:
            for metric, more in (("balanced_accuracy", 0.0), ("auc", 0.1)):
                yield from rows(task, encoder, protocol, metric, {str(k): mean + more + d for k, d in enumerate(FOLDS)})
            yield from rows(task, encoder, protocol, "null_balanced_accuracy", dict.fromkeys("01234", 0.5))
            yield from rows(task, encoder, protocol, "n_overlapping", {"pooled": 0.0})
        yield from rows(task, encoder, "control", "slide_identity", {"pooled": 0.25})


def stability():
    """Robustness to six references, and a probe on originals and on restained nuclei."""
    for encoder, mean in ENCODERS.items():
        for metric in ("rmse", "cosine", "knn_overlap"):
            yield from rows("stain_robustness", encoder, "stain", metric, {f"r{k}": mean + 0.01 * k for k in range(6)})
        shown = {"original": 0.9, **{f"r{k}": 0.6 for k in range(6)}}
        yield from rows("stain_robustness", encoder, "stain_probe", "balanced_accuracy", shown)


def markers():
    """Moran's I of two genes."""
    for encoder, mean in ENCODERS.items():
        yield from rows("xenium_markers", encoder, "graph", "I", {"EPCAM": mean, "CD3E": 0.0})
        yield from rows("xenium_markers", encoder, "graph", "pval_sim", {"EPCAM": 0.001, "CD3E": 0.6})


def costs():
    """Two encoders with a network, one without, and one whose weights are not here."""
    for encoder, gmacs, millions in (("random_vit_s8", 0.55, 21.4), ("ours", 0.15, 5.5), ("uni", 59.65, 303.0)):
        yield from rows("cost", encoder, "card", "gmacs", {"": gmacs}, n=0)
        yield from rows("cost", encoder, "card", "million_parameters", {"": millions}, n=0)
    for encoder in ENCODERS:
        yield from rows("cost", encoder, "card", "nuclei_per_second", {"": 1234.5}, n=256)


def corpora():
    """Three sizes of corpus."""
    for encoder, count in (("morphometry", 1000), ("random_vit_s8", 10_000), ("ours", 100_000)):
        for protocol, many in (("size", count), ("slides", count // 100)):
            yield from rows("composition", encoder, protocol, "balanced_accuracy", {str(many): 0.6}, n=3)
            yield from rows("composition", encoder, protocol, "standard_error", {str(many): 0.02}, n=3)


def whole():
    """A run of a task of each kind, two of the same, one published, and one of a user's own."""
    parts = [classes("amibr"), classes("atnorm", protocols=("stratified",)), classes("consep"), stability(), markers()]
    parts += [costs(), corpora(), classes("of_my_own", protocols=("blocks",))]
    table = pd.DataFrame([row for part in parts for row in part], columns=list(COLUMNS))
    table.attrs["skipped"] = [
        {
            "task": "pannuke",
            "encoder": "",
            "reason": "No data for 'pannuke': 'data/pannuke' does not exist. They are published at example.org",
        }
    ]
    return table
