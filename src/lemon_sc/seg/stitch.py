"""Nuclei of overlapping tiles made one set.

A nucleus near a seam is found by two tiles or more, whole in one and perhaps cut in another. Of nuclei of different
tiles that are the same, the one that lies deepest in its own tile is kept. One that is left out leaves out no other, so
a chain of nuclei that touch stays a chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import shapely

from lemon_sc._core.errors import bad_value
from lemon_sc.geometry.outlines import repair

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Rows = NDArray[np.intp]

IOU = 0.3
COVER = 0.5
"""Two nuclei are one if they share this part of their union, or of the smaller of the two."""


def border_distance(bounds: ArrayLike, tile_box: ArrayLike) -> NDArray[np.float64]:
    """How deep nuclei lie in their tile.

    Parameters
    ----------
    bounds
        (n, 4) x0, y0, x1, y1 of the nuclei, in px.
    tile_box
        (4,) those of the tile in the same frame, or (n, 4) of each one's tile.

    Returns
    -------
    (n,) px from the box of each to the nearest border of the tile; 0 for one that the tile cuts.
    """
    box, tile = np.asarray(bounds, dtype=np.float64).reshape(-1, 4), np.asarray(tile_box, dtype=np.float64)
    inside = np.concatenate([box[:, :2] - tile[..., :2], tile[..., 2:] - box[:, 2:]], axis=1)
    return inside.min(axis=1)


def stitch(
    polygons: ArrayLike, *, tile: ArrayLike, border: ArrayLike, iou: float = IOU, cover: float = COVER
) -> NDArray[np.bool_]:
    """Choose one of each nucleus that several tiles found.

    Nuclei are gone through from the deepest in its tile to the shallowest, the larger first among equals; one is left
    out if it is the same as one of another tile that was kept. Nuclei of one tile are never compared.

    Parameters
    ----------
    polygons
        (n,) shapely polygons in one frame. Those that cross themselves are compared by their largest valid part.
    tile
        (n,) number of the tile that found each.
    border
        (n,) how deep each lies in its tile: `border_distance`.
    iou, cover
        Two are the same if their intersection is at least `iou` of their union or `cover` of the smaller.

    Returns
    -------
    Bool (n,): kept.

    Raises
    ------
    ValueError
        If lengths differ, or a threshold is not above 0 and at most 1.
    """
    given = np.asarray(polygons, dtype=object)
    tiles, depth = np.asarray(tile), np.asarray(border, dtype=np.float64)
    if not given.shape == tiles.shape == depth.shape or given.ndim != 1:
        msg = (
            "`polygons`, `tile` and `border` must have one entry per nucleus, got shapes "
            f"{given.shape}, {tiles.shape} and {depth.shape}."
        )
        raise ValueError(msg)
    for name, value in (("iou", iou), ("cover", cover)):
        if not 0 < value <= 1:
            raise bad_value(name, must="be above 0 and at most 1", got=value)
    shapes, _ = repair(given)
    area = shapely.area(shapes)
    first, second = _same(shapes, area, tiles, iou=iou, cover=cover)
    return _greedy(first, second, np.lexsort((tiles, -area, -depth)))


def _same(
    shapes: NDArray[Any], area: NDArray[np.float64], tiles: NDArray[Any], *, iou: float, cover: float
) -> tuple[Rows, Rows]:
    """Pairs of nuclei of different tiles that are one."""
    a, b = shapely.STRtree(shapes).query(shapes)
    apart = (a < b) & (tiles[a] != tiles[b])
    a, b = a[apart], b[apart]
    shared = shapely.area(shapely.intersection(shapes[a], shapes[b]))
    smaller = np.minimum(area[a], area[b])
    same = (shared > 0) & ((shared >= iou * (area[a] + area[b] - shared)) | (shared >= cover * smaller))
    return a[same], b[same]


def _greedy(first: Rows, second: Rows, order: Rows) -> NDArray[np.bool_]:
    """Go through nuclei in an order and leave out those that are the same as one that was kept."""
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    swap = place[first] > place[second]
    better, worse = np.where(swap, second, first), np.where(swap, first, second)
    keep = np.ones(len(order), dtype=np.bool_)
    # by the time a pair comes up, all that could have left out its better one has been seen
    for k in np.argsort(place[better], kind="stable"):
        if keep[better[k]]:
            keep[worse[k]] = False
    return keep


@numba.njit(nogil=True, cache=True)
def _paste(canvas: NDArray[np.int32], labels: NDArray[np.int32], x0: int, y0: int, ids: NDArray[np.int32]) -> None:
    """`paste`, compiled."""
    for r in range(max(0, -y0), min(labels.shape[0], canvas.shape[0] - y0)):
        for c in range(max(0, -x0), min(labels.shape[1], canvas.shape[1] - x0)):
            if labels[r, c] and canvas[y0 + r, x0 + c] == 0:
                canvas[y0 + r, x0 + c] = ids[labels[r, c] - 1]


def paste(canvas: NDArray[np.int32], labels: NDArray[np.int32], *, at: tuple[int, int], ids: ArrayLike) -> None:
    """Write the nuclei of a tile into a label image, in place; a pixel that is taken stays as it is.

    Parameters
    ----------
    canvas
        Int32 (H, W), 0 where nothing is yet.
    labels
        (h, w) of the tile, 0 and 1..n.
    at
        (x, y) of the tile's upper left corner in the canvas; what lies outside is left out.
    ids
        (n,) what to write for each label; 0 leaves it out.

    Raises
    ------
    ValueError
        If there are fewer ids than labels, or `canvas` is not int32.
    """
    number = np.asarray(ids, dtype=np.int32)
    most = int(labels.max(initial=0))
    if canvas.dtype != np.int32 or len(number) < most:
        msg = f"`canvas` must be int32, with an id for each of {most} labels; got {canvas.dtype} and {len(number)} ids."
        raise ValueError(msg)
    _paste(canvas, np.ascontiguousarray(labels, dtype=np.int32), int(at[0]), int(at[1]), number)
