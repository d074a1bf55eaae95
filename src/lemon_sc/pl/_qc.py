"""How many cells have a usable nucleus, or spots a usable patch, and why the others have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import missing_key
from lemon_sc._core.table import as_table
from lemon_sc.pl._base import axes_or_new, noun_of, styled
from lemon_sc.pl._colors import OKABE_ITO

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData


def qc_counts(adata: AnnData) -> dict[str, int]:
    """Rows per QC category, in the order in which the categories are defined."""
    if keys.NUCLEUS_QC not in adata.obs:
        fix = "Run `lm.pp.extract_nuclei` first, or `lm.pp.extract_patches` for spots and bins."
        raise missing_key(keys.NUCLEUS_QC, where="adata.obs", have=adata.obs.columns, fix=fix)
    found = adata.obs[keys.NUCLEUS_QC].value_counts()
    return {category: int(found.get(category, 0)) for category in keys.QC_CATEGORIES}


def rows_are(adata: AnnData) -> str:
    """What the rows of a table are: ``"cells"``, ``"nuclei"`` that were found in the H&E, or ``"spots or bins"``."""
    if noun_of(adata) == "patches":
        return "spots or bins"
    return "nuclei" if keys.SEGMENT in adata.uns.get(keys.UNS, {}) else "cells"


@doc
@styled
def nucleus_qc(data: AnnData | SpatialData, *, table_key: str = "table", ax: Axes | None = None) -> Axes:
    """Bar plot of ``obs["nucleus_qc"]``: cells with a usable nucleus, and why the others have none.

    In a table of nuclei that were found in the H&E, nuclei are counted; in one of patches, spots or bins.

    Parameters
    ----------
    %(data)s
    %(table_key)s
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        Neither `lm.pp.extract_nuclei` nor `lm.pp.extract_patches` has been run.
    """
    adata = as_table(data, table_key=table_key)
    counts = qc_counts(adata)
    total = max(sum(counts.values()), 1)
    ax = axes_or_new(ax, 3.2, 0.22 * len(counts) + 0.5)
    at = np.arange(len(counts))
    colors = [OKABE_ITO[0] if name == keys.QC_OK else "#b0b0b0" for name in counts]
    ax.barh(at, list(counts.values()), color=colors, height=0.7)
    for y, n in zip(at, counts.values(), strict=True):
        ax.annotate(f"{n:,} ({n / total:.1%})", (n, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
    ax.set_yticks(at, [name.replace("_", " ") for name in counts])
    ax.set(ylim=(len(counts) - 0.5, -0.5), xlabel=rows_are(adata))
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.25)
    return ax
