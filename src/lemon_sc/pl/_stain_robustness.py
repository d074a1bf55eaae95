"""How far an embedding moves when the nuclei are shown in other stains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.record import read_record
from lemon_sc._core.table import as_table
from lemon_sc.pl._base import GREY, new_figure, note, styled
from lemon_sc.pl._colors import OKABE_ITO

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

OWN = "own"
LABELS = {
    "rmse": ("RMSE (sd)", "0: no change"),
    "cosine": ("cosine", "1: no change"),
    "knn_overlap": ("neighbours that stay", "line: chance"),
    "score": ("score", "line: without a shift"),
}


@doc
@styled
def stain_robustness(adata: AnnData, *, key: str = keys.STAIN_ROBUSTNESS) -> Figure:
    """Bars of RMSE, cosine and overlap of neighbours by reference stain, and of the score where a target was given.

    The grey bar is the slide in its own stains, re-rendered: what the method loses by itself.

    Parameters
    ----------
    %(adata)s
    key
        The ``key_added`` of `lm.tl.stain_robustness`.

    Returns
    -------
    The figure.

    Raises
    ------
    MissingKeyError
        `lm.tl.stain_robustness` has not been run under this key.
    """
    adata = as_table(adata)
    record = read_record(adata, keys.STAIN_ROBUSTNESS, key=key, fix="Run `lm.tl.stain_robustness` first.")
    table = record["references"]
    names = [str(name) for name in table.index]
    metrics = [name for name in LABELS if name in table]
    figure = new_figure(1.2 + 1.5 * len(metrics), 0.2 * len(names) + 0.8)
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    at, colors = np.arange(len(names)), [GREY if name == OWN else OKABE_ITO[0] for name in names]
    for ax, metric in zip(axes, metrics, strict=True):
        label, remark = LABELS[metric]
        ax.barh(at, table[metric].to_numpy(dtype=float), color=colors, height=0.7)
        if metric in {"cosine", "knn_overlap"}:
            ax.set_xlim(min(0.0, float(table[metric].min())), 1)
        line = {"knn_overlap": record["chance"], "score": record.get("score_original")}.get(metric)
        if line is not None:
            ax.axvline(float(line), color="black", linewidth=0.8)
        ax.set_xlabel(label)
        note(ax, remark)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(at, names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    return figure
