"""Keep the nucleus, or keep what surrounds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mask = Literal["nucleus", "ring"]
MASKS: tuple[str, ...] = ("nucleus", "ring")
WHITE = 255
"""Masked pixels become glass, not black: black would be the densest stain."""


@numba.njit(nogil=True, cache=True)
def _fill(xy, ring_start, ring_mask, masks):  # noqa: ANN001, ANN202
    """Fill `masks` (n, S, S) by the even-odd rule.

    Ring r, ``xy[ring_start[r]:ring_start[r + 1]]``, is one of mask ``ring_mask[r]``. Where an edge crosses the line of
    pixel centres of a row, all pixels from there on change sides. An edge owns its upper end and not its lower one, so
    that a vertex on such a line counts once.
    """
    size = masks.shape[1]
    for r in range(len(ring_mask)):
        mask = masks[ring_mask[r]]
        for i in range(ring_start[r], ring_start[r + 1] - 1):
            xa, ya, xb, yb = xy[i, 0], xy[i, 1], xy[i + 1, 0], xy[i + 1, 1]
            if ya > yb:
                xa, ya, xb, yb = xb, yb, xa, ya
            first, last = max(np.ceil(ya - 0.5), 0.0), min(np.ceil(yb - 0.5), size)
            for row in range(int(first), int(last)):
                x = xa + (row + 0.5 - ya) * (xb - xa) / (yb - ya)
                col = int(min(max(np.ceil(x - 0.5), 0.0), size))
                for j in range(col, size):
                    mask[row, j] ^= True


def outline_masks(
    outlines: NDArray[Any], xy: NDArray[np.float64], *, scale: tuple[float, float], size_px: int
) -> NDArray[np.bool_]:
    """Rasterise outlines into the frames of their crops, (n, S, S); a pixel is in if its centre is.

    Parameters
    ----------
    outlines
        Valid shapely polygons or multipolygons in image px, (n,), with or without holes; an empty one gives an empty
        mask.
    xy
        Crop centres in image px, (n, 2).
    scale
        Image px per crop px, (x, y).
    size_px
        Side of the crops.

    Returns
    -------
    bool (n, S, S), True inside.
    """
    parts, part_of = shapely.get_parts(outlines, return_index=True)
    rings, ring_part = shapely.get_rings(parts, return_index=True)
    points, ring_of = shapely.get_coordinates(rings, return_index=True)
    start = np.searchsorted(ring_of, np.arange(len(rings) + 1))
    of = part_of[ring_part]
    at = (points - xy[of[ring_of]]) / scale + size_px / 2
    masks = np.zeros((len(outlines), size_px, size_px), dtype=np.bool_)
    _fill(at, start, of, masks)
    return masks


def apply_mask(crops: NDArray[np.uint8], masks: NDArray[np.bool_], mask: Mask) -> NDArray[np.uint8]:
    """White out what is not the nucleus (``"nucleus"``), or the nucleus itself (``"ring"``); returns a copy.

    Parameters
    ----------
    crops
        uint8 (n, S, S, 3).
    masks
        bool (n, S, S), True inside the nucleus.
    mask
        ``"nucleus"`` or ``"ring"``.

    Returns
    -------
    uint8 (n, S, S, 3).
    """
    keep = masks if mask == "nucleus" else ~masks
    return np.where(keep[..., None], crops, np.uint8(WHITE))
