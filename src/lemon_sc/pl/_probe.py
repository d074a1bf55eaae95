"""How well the embedding predicts each gene, against the shuffled null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.record import read_record
from lemon_sc.pl._base import GREY, axes_or_new, gene_axis, note, positive, styled
from lemon_sc.pl._colors import OKABE_ITO

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

NULL = "#cfcfcf"


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeRows:
    """What the plot shows.

    Attributes
    ----------
    summary
        Rows of the probe's summary for the genes shown, highest ``pcc`` first.
    scores
        Its scores per group for these genes, with their place in `summary` as column ``at``.
    title
        Score over all genes.
    n_genes, n_undefined
        Genes with a score, and genes without.
    """

    summary: pd.DataFrame
    scores: pd.DataFrame
    title: str
    n_genes: int
    n_undefined: int


def probe_rows(record: dict[str, Any], *, n_top: int) -> ProbeRows:
    """The `n_top` genes that are predicted best."""
    summary = record["summary"]
    valid = summary[summary["pcc"].notna()].sort_values("pcc", ascending=False, kind="stable")
    if not len(valid):
        msg = "The probe has no score for any gene (truth or prediction is constant), so there is nothing to draw."
        raise ValueError(msg)
    top = valid.head(n_top)
    scores = record["scores"]
    scores = scores[scores["gene"].isin(top.index) & scores["pcc"].notna()]
    scores = scores.assign(at=top.index.get_indexer(scores["gene"].astype(str)))
    n_folds = len(record["groups"])
    title = f"mean PCC {record['score']:.3f} (sd {record['score_sd']:.3f}, {n_folds} folds)"
    return ProbeRows(summary=top, scores=scores, title=title, n_genes=len(valid), n_undefined=len(summary) - len(valid))


@doc
@styled
def probe(adata: AnnData, *, key: str = "probe", n_top: int = 30, ax: Axes | None = None) -> Axes:
    """Dot plot of the probe: Pearson correlation per gene on held-out cells, with the shuffled null.

    Large dots are means over folds, small ones the folds, and grey bars the null: mean and two standard deviations of
    the same fits on shuffled expression.

    Parameters
    ----------
    %(adata)s
    key
        The ``key_added`` of `lm.tl.probe`.
    n_top
        How many genes, those predicted best.
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        The probe has not been run under this key.
    ValueError
        No gene has a score.
    """
    record = read_record(adata, keys.PROBE, key=key, fix="Run `lm.tl.probe` first.")
    shown = probe_rows(record, n_top=positive("n_top", n_top))
    genes = [str(g) for g in shown.summary.index]
    ax = axes_or_new(ax, 3.0, 0.16 * len(genes) + 0.9)
    at = np.arange(len(genes))
    mean, half = shown.summary["null_mean"], 2 * shown.summary["null_sd"]
    ax.hlines(at, mean - half, mean + half, color=NULL, linewidth=5, zorder=1)
    ax.axvline(0, color=GREY, linewidth=0.5, zorder=0)
    ax.scatter(shown.scores["pcc"], shown.scores["at"], s=6, color=OKABE_ITO[4], linewidths=0, zorder=2)
    ax.scatter(shown.summary["pcc"], at, s=18, color=OKABE_ITO[0], linewidths=0, zorder=3)
    gene_axis(ax, genes)
    ax.set_xlabel("PCC on held-out cells")
    left_out = f", {shown.n_undefined:,} undefined" if shown.n_undefined else ""
    note(ax, f"{shown.title}\n{len(genes):,} of {shown.n_genes:,} genes{left_out}")
    ax.legend(handles=probe_key(), loc="upper left", bbox_to_anchor=(1, 1), handlelength=1.2)
    return ax


def probe_key() -> list[Line2D]:
    """What the dots and bars stand for."""
    return [
        Line2D([], [], color=OKABE_ITO[0], marker="o", linestyle="", markersize=4, label="mean"),
        Line2D([], [], color=OKABE_ITO[4], marker="o", linestyle="", markersize=2.5, label="fold"),
        Line2D([], [], color=NULL, linewidth=4, label="shuffled"),
    ]
