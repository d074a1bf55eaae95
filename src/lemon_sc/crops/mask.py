"""Keep the nucleus, or keep what surrounds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
from skimage.draw import polygon2mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mask = Literal["nucleus", "ring"]
MASKS: tuple[str, ...] = ("nucleus", "ring")
WHITE = 255
"""Masked pixels become glass, not black: black would be the densest stain."""


def outline_masks(
    outlines: NDArray[Any], xy: NDArray[np.float64], *, scale: tuple[float, float], size_px: int
) -> NDArray[np.bool_]:
    """Rasterise outlines into the frames of their crops, (n, S, S); a pixel is in if its centre is.

    Parameters
    ----------
    outlines
        Shapely polygons in image px; an empty one gives an empty mask.
    xy
        Crop centres in image px, (n, 2).
    scale
        Image px per crop px, (x, y).
    size_px
        Side of the crops.
    """
    masks = np.zeros((len(outlines), size_px, size_px), dtype=np.bool_)
    for mask, outline, centre in zip(masks, outlines, xy, strict=True):
        for part in shapely.get_parts(outline):
            if part.is_empty:
                continue
            ring = shapely.get_coordinates(shapely.get_exterior_ring(part))
            at = (ring - centre) / scale + size_px / 2
            mask |= polygon2mask((size_px, size_px), at[:, ::-1] - 0.5)
    return masks


def apply_mask(crops: NDArray[np.uint8], masks: NDArray[np.bool_], mask: Mask) -> NDArray[np.uint8]:
    """White out what is not the nucleus (``"nucleus"``), or the nucleus itself (``"ring"``); returns a copy."""
    keep = masks if mask == "nucleus" else ~masks
    return np.where(keep[..., None], crops, np.uint8(WHITE))
