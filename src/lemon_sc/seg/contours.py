"""Outlines of labelled nuclei, along the edges of their pixels.

A pixel is a square, so an outline encloses exactly the pixels of its nucleus: areas and centroids are those of the
pixels, nuclei that touch share their border, and no shift by half a pixel can arise, as it does where outlines run
through pixel centres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
import shapely

from lemon_sc._core.errors import bad_value
from lemon_sc.geometry.labels import as_labels
from lemon_sc.geometry.outlines import repair
from lemon_sc.seg.kernels import components

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@numba.njit(nogil=True, cache=True)
def _trace(part: NDArray[np.int32], n: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Corners of the outer border of each 4-connected part 1..n of `part` (H, W).

    A border is walked with the part on the right, from the upper left corner of its first pixel. Where two pixels of
    the part meet at a corner only, the walk stays with its own.

    Returns
    -------
    Int32 (V, 2) corners (x, y), those of a part one after the other; int64 (n + 1,) where each part's begin.
    """
    height, width = part.shape
    first = np.full(n + 1, -1, np.int64)
    n_edges = 0
    for r in range(height):
        for c in range(width):
            k = part[r, c]
            if k:
                if first[k] < 0:
                    first[k] = r * width + c
                n_edges += r == 0 or part[r - 1, c] != k
                n_edges += r == height - 1 or part[r + 1, c] != k
                n_edges += c == 0 or part[r, c - 1] != k
                n_edges += c == width - 1 or part[r, c + 1] != k
    corners = np.empty((n_edges, 2), np.int32)
    start = np.zeros(n + 1, np.int64)
    v = 0
    for k in range(1, n + 1):
        y0, x0 = first[k] // width, first[k] % width
        x, y, dx, dy = x0, y0, 1, 0
        while True:
            x, y = x + dx, y + dy
            # pixels ahead of this corner, to the right and to the left of the way
            rr, rc = y + (dx + dy - 1) // 2, x + (dx - dy - 1) // 2
            lr, lc = y + (dy - dx - 1) // 2, x + (dx + dy - 1) // 2
            right = 0 <= rr < height and 0 <= rc < width and part[rr, rc] == k
            left = 0 <= lr < height and 0 <= lc < width and part[lr, lc] == k
            if not right or left:
                corners[v, 0], corners[v, 1] = x, y
                v += 1
                dx, dy = (dy, -dx) if right else (-dy, dx)
            if x == x0 and y == y0 and dx == 1 and dy == 0:
                break
        start[k] = v
    return corners[:v], start


def outlines(
    labels: ArrayLike, *, origin: tuple[float, float] = (0.0, 0.0), simplify_px: float = 0.0
) -> NDArray[np.object_]:
    """Polygons of labelled nuclei.

    Parameters
    ----------
    labels
        (H, W), 0 for background and 1..n. Holes are filled; of a label in several parts the largest is taken.
    origin
        (x, y) of the upper left corner of the array in the frame of the result.
    simplify_px
        How far a simplified outline may lie from the exact one: 0.5 halves the number of corners and more, at the cost
        of small overlaps between nuclei that touch.

    Returns
    -------
    (n,) valid shapely polygons; that of a label between 1 and n that is nowhere is empty.

    Raises
    ------
    ValueError
        If it is no label image, or has a label beyond the range of int32.
    """
    image = as_labels("labels", labels)
    if image.max(initial=0) > np.iinfo(np.int32).max:
        raise bad_value(
            "labels",
            must="be numbered 1..n",
            got=int(image.max()),
            fix="Renumber them with `skimage.segmentation.relabel_sequential`.",
        )
    part, n_parts = components(np.ascontiguousarray(image, dtype=np.int32), 1)
    polygons = np.full(int(image.max(initial=0)), shapely.Polygon(), dtype=object)
    if not n_parts:
        return polygons
    corners, start = _trace(part, n_parts)
    rings = shapely.linearrings(corners + np.asarray(origin), indices=np.repeat(np.arange(n_parts), np.diff(start)))
    flat_part, flat_label = part.ravel(), image.ravel()
    area = np.bincount(flat_part, minlength=n_parts + 1)[1:]
    label_of = np.zeros(n_parts + 1, dtype=np.int64)
    label_of[flat_part] = flat_label
    by_area = np.argsort(area, kind="stable")  # the largest part of a label is written last
    made, touching = repair(shapely.polygons(rings))  # a ring that meets itself at a corner encloses a hole there
    made[touching] = shapely.polygons(shapely.get_exterior_ring(made[touching]))
    if simplify_px:
        made, _ = repair(shapely.simplify(made, simplify_px))
    polygons[label_of[1:][by_area] - 1] = made[by_area]
    return polygons
