"""The morphology map: nucleus images where their cells lie on a 2-D map of the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.docs import doc
from lemon_sc._core.table import as_table
from lemon_sc.pl._base import (
    axes_or_new,
    crops_of,
    has_nucleus,
    label_axes,
    manifold,
    note,
    noun_of,
    positive,
    styled,
)
from lemon_sc.pl._colors import add_key, coloring

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

FRAME_PX = 3
"""Width of the coloured frame around each image."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MapGrid:
    """Which cell stands in which bin.

    Attributes
    ----------
    rows
        Table row per bin, int64 (grid, grid), -1 for an empty bin. ``rows[iy, ix]``: iy grows with y, as in a scatter
        plot.
    extent
        (x0, x1, y0, y1) of the square that the bins cover, in the coordinates of the map.
    """

    rows: NDArray[np.int64]
    extent: tuple[float, float, float, float]


def map_grid(xy: NDArray[np.float64], *, grid: int, usable: NDArray[np.bool_]) -> MapGrid:
    """Lay a square of ``grid x grid`` bins over points and pick the one nearest to each bin's centre.

    The square is centred on the 1st to 99th percentile of the usable points and as wide as the wider of the two
    ranges. A cell stands for its bin only if it is within half a bin of the bin's centre, so it stands for one bin at
    most.

    Parameters
    ----------
    xy
        Points, (n, 2); not finite ones are left out.
    grid
        Bins along each side.
    usable
        Which points may be shown, (n,).
    """
    rows = np.flatnonzero(usable & np.isfinite(xy).all(axis=1))
    if not len(rows):
        msg = "No cell has both a place on the map and a usable nucleus, so there is nothing to draw."
        raise ValueError(msg)
    points = xy[rows]
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    side = float((high - low).max()) or 1.0
    corner = (low + high) / 2 - side / 2
    at = (points - corner) * (grid / side)  # in bins
    col, row = np.floor(at).astype(np.int64).T
    away = np.linalg.norm(at - np.floor(at) - 0.5, axis=1)
    kept = (away <= 0.5) & (col >= 0) & (col < grid) & (row >= 0) & (row < grid)
    rows, away, bins = rows[kept], away[kept], (row * grid + col)[kept]
    order = np.lexsort((rows, away, bins))
    first = np.unique(bins[order], return_index=True)[1]
    chosen = np.full(grid * grid, -1, dtype=np.int64)
    chosen[bins[order][first]] = rows[order][first]
    x0, y0 = (float(c) for c in corner)
    return MapGrid(rows=chosen.reshape(grid, grid), extent=(x0, x0 + side, y0, y0 + side))


def paint(cells: NDArray[np.int64], crops: NDArray[np.uint8], frame: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    """Canvas (grid * S, grid * S, 3), top row first as an image is: y of the map points up, empty bins are white.

    Parameters
    ----------
    cells
        ``MapGrid.rows``.
    crops
        Images of the cells in ``cells[cells >= 0]``, in that order, (k, S, S, 3).
    frame
        Colour of a frame around each, in [0, 1] (k, 4), or None.
    """
    size = crops.shape[1]
    tiles = np.full((*cells.shape, size, size, 3), 255, dtype=np.uint8)
    images = crops.copy()
    if frame is not None:
        inner = slice(FRAME_PX, size - FRAME_PX)
        images[:] = np.round(frame[:, None, None, :3] * 255).astype(np.uint8)
        images[:, inner, inner] = crops[:, inner, inner]
    tiles[cells >= 0] = images
    n_rows, n_cols = cells.shape
    return tiles[::-1].transpose(0, 2, 1, 3, 4).reshape(n_rows * size, n_cols * size, 3)


@doc
@styled
def morphology_map(
    data: AnnData | SpatialData,
    *,
    basis: str | None = None,
    grid: int = 40,
    color: str | None = None,
    layer: str | None = None,
    table_key: str = "table",
    ax: Axes | None = None,
) -> Axes:
    """Map of nuclear morphology: a grid of nucleus images on a 2-D map of the embedding.

    Each bin of a square grid shows the cell nearest to its centre, if there is one within half a bin; each cell is
    shown at most once and empty bins are white. The square spans the 1st to 99th percentile of the map and its axes
    point as those of a scatter plot of the same map. At most ``grid ** 2`` nuclei are read, whatever the size of the
    table.

    Parameters
    ----------
    %(data)s
    basis
        2-D map in ``adata.obsm``, for instance ``"X_umap"`` from neighbours of the morphology embedding; ``None``
        takes UMAP or t-SNE, whichever is there.
    grid
        Bins along each side.
    color
        Column of ``adata.obs``, or a gene: draws a frame in its colour around each nucleus.
    %(layer)s
    %(table_key)s
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        A map, column or gene that is not there.
    ValueError
        No cell has both a place on the map and a usable nucleus.
    """
    adata = as_table(data, table_key=table_key)
    name, xy = manifold(adata, basis)
    cells = map_grid(xy, grid=positive("grid", grid), usable=has_nucleus(adata))
    shown = cells.rows[cells.rows >= 0]
    colors = None if color is None else coloring(adata, color, layer=layer)
    crops, mpp = crops_of(data, shown, table_key=table_key)
    ax = axes_or_new(ax, 5.0, 5.0)
    ax.imshow(paint(cells.rows, crops, None if colors is None else colors.rgba[shown]), extent=cells.extent)
    label_axes(ax, name)
    ax.set(xlim=cells.extent[:2], ylim=cells.extent[2:], aspect="equal", adjustable="box")
    note(ax, f"{len(shown):,} {noun_of(adata)}, each image {crops.shape[1] * mpp:.3g} µm wide")
    if colors is not None:
        add_key(ax, colors)
    return ax
