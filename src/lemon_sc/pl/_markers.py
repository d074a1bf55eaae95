"""Marker genes on a 2-D map of morphology, each with nuclei of the cells that express it most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.rng import RNG, as_generator, spawn
from lemon_sc._core.table import as_table
from lemon_sc.pl._base import (
    GREY,
    MAX_POINTS,
    bare,
    crops_at_hand,
    crops_of,
    has_nucleus,
    label_axes,
    manifold,
    new_figure,
    noun_of,
    point_size,
    scale_bar,
    styled,
    subsample,
)
from lemon_sc.pl._colors import color_bar, color_range, expression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from spatialdata import SpatialData

CMAP = "viridis"
N_COLUMNS = 4
N_NUCLEI = 6
GAP = 0.06


def gene_names(adata: AnnData, genes: Sequence[str] | str) -> list[str]:
    """The genes to draw, all of them known."""
    names = [genes] if isinstance(genes, str) else list(genes)
    if not names:
        raise bad_value("genes", must="name at least one gene", got=names)
    for name in names:
        if name not in adata.var_names:
            raise missing_key(name, where="adata.var_names", have=adata.var_names)
    return names


def highest(values: NDArray[np.float64], *, usable: NDArray[np.bool_], n: int, rng: RNG) -> NDArray[np.int64]:
    """Rows of the `n` highest positive values, highest first; ties fall at random."""
    rows = np.flatnonzero(usable & (values > 0))
    rows = as_generator(rng).permutation(rows)
    return rows[np.argsort(-values[rows], kind="stable")[:n]]


def draw_order(values: NDArray[np.float64], rows: NDArray[np.integer]) -> NDArray[np.integer]:
    """`rows` by ascending value, so that the few cells that express a gene are not covered by those that do not."""
    return rows[np.argsort(values[rows], kind="stable")]


def moran_of(adata: AnnData, key: str) -> pd.Series:
    """Moran's I per gene where `tl.morans_i` stored it, else nothing."""
    table = adata.uns.get(key)
    return table["I"] if isinstance(table, pd.DataFrame) and "I" in table else pd.Series(dtype=float)


def draw_scatter(ax: Axes, xy: NDArray[np.float64], values: NDArray[np.float64], shown: NDArray[np.integer]) -> None:
    """Cells on the map, coloured by expression and rasterised."""
    norm = color_range(values)
    order = draw_order(values, shown)
    rgba = mpl.colormaps[CMAP](norm(values[order]))
    ax.scatter(xy[order, 0], xy[order, 1], s=point_size(len(order)), c=rgba, linewidths=0, rasterized=True)
    color_bar(ax, norm, cmap=CMAP)


def draw_strip(ax: Axes, crops: NDArray[np.uint8], *, n: int, mpp: float, noun: str = "nuclei") -> None:
    """Images side by side, with a scale bar beneath."""
    for c, crop in enumerate(crops):
        ax.imshow(crop, extent=(c + GAP / 2, c + 1 - GAP / 2, 1 - GAP / 2, GAP / 2), interpolation="bilinear")
    ax.set(xlim=(0, n), ylim=(1, 0), aspect="equal", anchor="N")
    bare(ax)
    ax.set_xlabel(f"{noun}, highest expression first", loc="left", fontsize=6, color=GREY, labelpad=2)
    scale_bar(ax, crops.shape[1] * mpp / (1 - GAP), span=2.5, below=True)


@doc
@styled
def markers(
    data: AnnData | SpatialData,
    *,
    genes: Sequence[str] | str,
    basis: str | None = None,
    layer: str | None = None,
    n_nuclei: int | None = None,
    key: str = keys.MORAN,
    table_key: str = "table",
    rng: RNG = 0,
) -> Figure:
    """Marker genes on a 2-D map of the embedding, with the nuclei of the cells that express them most.

    One panel per gene; beneath it, nuclei from the highest expression downwards. Where `lm.tl.morans_i` was run, the
    panel states the gene's Moran's I. At most 50,000 cells are drawn, at random, and only the nuclei shown are read.

    Parameters
    ----------
    %(data)s
    genes
        Genes in ``adata.var_names``.
    basis
        2-D map in ``adata.obsm``, for instance ``"X_umap"`` from neighbours of the morphology embedding; ``None``
        takes UMAP or t-SNE, whichever is there.
    %(layer)s
    n_nuclei
        Nuclei beneath each panel; 0 for none. ``None`` shows six if nucleus images are at hand.
    key
        The table of `lm.tl.morans_i` in ``adata.uns``.
    %(table_key)s
    %(rng)s

    Returns
    -------
    The figure.

    Raises
    ------
    MissingKeyError
        A gene, layer or map that is not there.
    """
    adata = as_table(data, table_key=table_key)
    names = gene_names(adata, genes)
    basis, xy = manifold(adata, basis)
    if n_nuclei is None:
        n_nuclei = N_NUCLEI if crops_at_hand(data, adata) else 0
    placed = np.flatnonzero(np.isfinite(xy).all(axis=1))
    draws = spawn(rng, len(names) + 1)
    shown = subsample(placed, most=MAX_POINTS, rng=draws[0])
    values = [expression(adata, name, layer=layer) for name in names]
    figure, panels, strips = panel_axes(len(names), strip=n_nuclei > 0)
    for ax, name, value in zip(panels, names, values, strict=True):
        draw_scatter(ax, xy, value, shown)
        label_axes(ax, basis)
        ax.set_title(name, loc="left", fontstyle="italic")
        if name in (moran := moran_of(adata, key)):
            ax.set_title(f"I = {moran[name]:.2f}", loc="right", fontsize=7, color=GREY)
    if n_nuclei:
        usable = has_nucleus(adata)
        top = [highest(v, usable=usable, n=n_nuclei, rng=g) for v, g in zip(values, draws[1:], strict=True)]
        crops, mpp = crops_of(data, np.concatenate(top), table_key=table_key)
        parts = np.split(crops, np.cumsum([len(t) for t in top])[:-1])
        for ax, part in zip(strips, parts, strict=True):
            draw_strip(ax, part, n=n_nuclei, mpp=mpp, noun=noun_of(adata))
    if len(shown) < len(placed):
        figure.supxlabel(f"{len(shown):,} of {len(placed):,} cells drawn", fontsize=6, color=GREY)
    return figure


def panel_axes(n: int, *, strip: bool) -> tuple[Figure, list[Axes], list[Axes]]:
    """A new figure, its axes for `n` panels, and for the strip beneath each."""
    n_cols = min(n, N_COLUMNS)
    n_rows = -(-n // n_cols)
    figure = new_figure(2.3 * n_cols, (2.5 if strip else 2.1) * n_rows)
    ratios = [1, 0.2] if strip else [1]
    grid = figure.add_gridspec(len(ratios) * n_rows, n_cols, height_ratios=ratios * n_rows)
    at = [divmod(k, n_cols) for k in range(n)]
    panels = [figure.add_subplot(grid[len(ratios) * r, c]) for r, c in at]
    strips = [figure.add_subplot(grid[2 * r + 1, c]) for r, c in at] if strip else []
    return figure, panels, strips
