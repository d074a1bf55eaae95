"""How well the embedding predicts each gene or class, against the shuffled null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.record import read_record
from lemon_sc._core.table import as_table
from lemon_sc.pl._base import GREY, axes_or_new, gene_axis, note, positive, styled
from lemon_sc.pl._colors import OKABE_ITO

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

NULL = "#cfcfcf"
COLUMNS = ("score", "null_mean", "null_sd")
METRIC_NAMES = {
    "auc": "AUC",
    "aupr": "AUPR",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1 macro",
    "f1_weighted": "F1 weighted",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeRows:
    """What the plot shows.

    Attributes
    ----------
    summary
        One row per gene, or per metric and class, from the top: ``score``, ``null_mean``, ``null_sd``. Genes and
        classes fall by score.
    scores
        Scores of the folds: ``at`` (place in `summary`) and ``score``.
    title
        Score over all targets.
    counts
        How many of how many targets are shown.
    x_label
        What the scores are.
    n_metrics
        How many rows on top are metrics over all classes.
    """

    summary: pd.DataFrame
    scores: pd.DataFrame
    title: str
    counts: str
    x_label: str
    n_metrics: int = 0


def probe_rows(record: dict[str, Any], *, n_top: int) -> ProbeRows:
    """The `n_top` genes or classes that are predicted best, and for classes the metrics over all of them above."""
    classes = record["kind"] == "classes"
    column, target, metric = ("auc", "class", "balanced accuracy") if classes else ("pcc", "gene", "PCC")
    summary = record["summary"]
    valid = summary[summary[column].notna()].sort_values(column, ascending=False, kind="stable")
    if not len(valid):
        msg = f"The probe has no score for any {target} (truth or prediction is constant), so there is nothing to draw."
        raise ValueError(msg)
    rows = valid.head(n_top).rename(columns={column: "score"})[[*COLUMNS]]
    scores = record["scores"]
    scores = scores[scores[target].isin(rows.index) & scores[column].notna()]
    folds = pd.DataFrame({"at": rows.index.get_indexer(scores[target].astype(str)), "score": scores[column]})
    n_metrics = 0
    if classes:
        rows, folds, n_metrics = _below_metrics(record, rows, folds)
    n_undefined = len(summary) - len(valid)
    counts = f"{min(n_top, len(valid)):,} of {len(valid):,} {'classes' if classes else 'genes'}"
    return ProbeRows(
        summary=rows,
        scores=folds.reset_index(drop=True),
        title=f"mean {metric} {record['score']:.3f} (sd {record['score_sd']:.3f}, {len(record['groups'])} folds)",
        counts=counts + (f", {n_undefined:,} undefined" if n_undefined else ""),
        x_label=f"{'score' if classes else 'PCC'} on held-out cells",
        n_metrics=n_metrics,
    )


def _below_metrics(
    record: dict[str, Any], rows: pd.DataFrame, folds: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The metrics over all classes, then the rows of the classes; and the number of metrics."""
    metrics = record["metrics"]
    metrics = metrics[metrics["mean"].notna()].rename(columns={"mean": "score"})[[*COLUMNS]]
    names = [str(name) for name in metrics.index]
    by_fold = record["groups"][names].to_numpy(dtype=float)
    of_metrics = pd.DataFrame({"at": np.tile(np.arange(len(names)), len(by_fold)), "score": by_fold.ravel()}).dropna()
    metrics.index = pd.Index([METRIC_NAMES[name] for name in names])
    rows.index = pd.Index([f"{name} (AUC)" for name in rows.index])
    return pd.concat([metrics, rows]), pd.concat([of_metrics, folds.assign(at=folds["at"] + len(names))]), len(names)


@doc
@styled
def probe(adata: AnnData, *, key: str = "probe", n_top: int = 30, ax: Axes | None = None) -> Axes:
    """Dot plot of the probe: scores on held-out cells, with the shuffled null.

    For genes, Pearson correlations. For classes, the metrics over all classes, and below them the area under the ROC
    curve of each class against the rest. Large dots are means over folds, small ones the folds, and grey bars the null:
    mean and two standard deviations of the scores on shuffled expression or labels.

    Parameters
    ----------
    %(adata)s
    key
        The ``key_added`` of `lm.tl.probe`.
    n_top
        How many genes or classes, those predicted best.
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        The probe has not been run under this key.
    ValueError
        No gene or class has a score.
    """
    adata = as_table(adata)
    record = read_record(adata, keys.PROBE, key=key, fix="Run `lm.tl.probe` first.")
    shown = probe_rows(record, n_top=positive("n_top", n_top))
    names = [str(name) for name in shown.summary.index]
    ax = axes_or_new(ax, 3.0, 0.16 * len(names) + 0.9)
    at = np.arange(len(names))
    mean, half = shown.summary["null_mean"], 2 * shown.summary["null_sd"]
    ax.hlines(at, mean - half, mean + half, color=NULL, linewidth=5, zorder=1)
    ax.scatter(shown.scores["score"], shown.scores["at"], s=6, color=OKABE_ITO[4], linewidths=0, zorder=2)
    ax.scatter(shown.summary["score"], at, s=18, color=OKABE_ITO[0], linewidths=0, zorder=3)
    gene_axis(ax, names)
    if shown.n_metrics:
        ax.axhline(shown.n_metrics - 0.5, color=GREY, linewidth=0.5, zorder=0)
        ax.set_xlim(-0.03, 1.03)
        for label in ax.get_yticklabels():
            label.set_fontstyle("normal")  # italics are for genes
    else:
        ax.axvline(0, color=GREY, linewidth=0.5, zorder=0)
    ax.set_xlabel(shown.x_label)
    note(ax, f"{shown.title}\n{shown.counts}")
    ax.legend(handles=probe_key(), loc="upper left", bbox_to_anchor=(1, 1), handlelength=1.2)
    return ax


def probe_key() -> list[Line2D]:
    """What the dots and bars stand for."""
    return [
        Line2D([], [], color=OKABE_ITO[0], marker="o", linestyle="", markersize=4, label="mean"),
        Line2D([], [], color=OKABE_ITO[4], marker="o", linestyle="", markersize=2.5, label="fold"),
        Line2D([], [], color=NULL, linewidth=4, label="shuffled"),
    ]
