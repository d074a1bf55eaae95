"""Nuclei by haematoxylin alone, without any training: stain unmixing, a local threshold, and a watershed.

Every step looks at most `REACH_UM` around a px, so that what is found does not depend on the tile it is found in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_opening, distance_transform_edt, gaussian_filter, maximum_filter, uniform_filter

from lemon_sc._core.errors import bad_value
from lemon_sc.models.nucleus_mask import UNIT, optical_density, stains
from lemon_sc.seg.kernels import components
from lemon_sc.seg.measure import measured
from lemon_sc.seg.watershed import watershed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.seg.postprocess import Nuclei

SMOOTH_UM = 0.5
"""Standard deviation of the smoothing of the haematoxylin."""
WINDOW_UM = 24.0
"""Side of the window whose mean a nucleus has to exceed."""
REACH_UM = WINDOW_UM
CONTRAST = 0.06
"""Haematoxylin (optical density) by which a nucleus exceeds its surroundings at least."""
FLOOR = 0.12
"""Haematoxylin below which nothing is a nucleus."""
FULL_CONTRAST = 0.4
"""Excess over the surroundings that is as clear as can be: the score of a nucleus is its mean excess in parts of it."""
MIN_AREA_UM2 = 8.0
MAX_HOLE_UM2 = 12.0
"""Larger holes are no part of a nucleus: a lumen among nuclei that touch stays open."""
OPEN_UM = 0.6
"""Radius of the opening that takes off what is thinner than a nucleus."""
APART_UM = 2.0
"""Centres of touching nuclei are at least this far apart."""
ROUND_UM = 0.75
"""Smoothing of the distance to the border, of which each maximum is a nucleus."""


def excess(pixels: NDArray[np.uint8], *, mpp: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Haematoxylin of an image, and by how much it exceeds its surroundings.

    Parameters
    ----------
    pixels
        Uint8 (h, w, 3).
    mpp
        um per px.

    Returns
    -------
    Optical density of haematoxylin, smoothed, float32 (h, w); and that less the mean of a window of `WINDOW_UM`.
    """
    amount, _ = stains(optical_density(pixels[None]))
    level = np.clip(amount[0].astype(np.float32) / UNIT, 0, None)
    smooth = gaussian_filter(level, SMOOTH_UM / mpp, mode="nearest")
    side = 2 * round(WINDOW_UM / mpp / 2) + 1
    return smooth, smooth - uniform_filter(level, side, mode="nearest")


def _ball(radius: float) -> NDArray[np.bool_]:
    """A disc, (2 r + 1, 2 r + 1), at least 3 px wide."""
    reach = max(int(radius), 1)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x * x + y * y <= max(radius, 1.0) ** 2


def _filled(mask: NDArray[np.bool_], most: float) -> NDArray[np.bool_]:
    """A mask without holes of up to `most` px."""
    large, _ = components((~mask).astype(np.int32), int(most) + 1)
    return large == 0


def _centres(distance: NDArray[np.float32], mask: NDArray[np.bool_], *, mpp: float) -> NDArray[np.int32]:
    """One label per maximum of the smoothed distance, (h, w)."""
    reach = 2 * max(round(APART_UM / mpp), 1) + 1
    peak = mask & (distance == maximum_filter(distance, size=reach, mode="constant"))
    markers, _ = components(peak.astype(np.int32), 1)
    return markers


def segment_haematoxylin(pixels: NDArray[np.uint8], *, mpp: float) -> Nuclei:
    """Outline nuclei by their haematoxylin.

    Parameters
    ----------
    pixels
        H&E, uint8 (h, w, 3), that fits into memory.
    mpp
        um per px.

    Returns
    -------
    The nuclei, without types. ``probability`` is a score, no probability: the mean haematoxylin of the nucleus beyond
    that of its surroundings, 1 at `FULL_CONTRAST`.

    Raises
    ------
    ValueError
        If the image is not uint8 RGB.

    Notes
    -----
    Stain vectors of Ruifrok and Johnston (2001), a threshold against the mean of the surroundings, opening, filling of
    holes, and a watershed from the maxima of the smoothed distance to the border.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise bad_value("pixels", must="be uint8 of shape (h, w, 3)", got=f"{pixels.dtype} {pixels.shape}")
    level, above = excess(pixels, mpp=mpp)
    mask = (level >= FLOOR) & (above >= CONTRAST)
    mask = binary_opening(_filled(mask, MAX_HOLE_UM2 / mpp**2), structure=_ball(OPEN_UM / mpp))
    distance = gaussian_filter(distance_transform_edt(mask).astype(np.float32), ROUND_UM / mpp, mode="constant")
    parts, _ = components(mask.astype(np.int32), 1)
    labels = watershed(-distance, _centres(distance, mask, mpp=mpp), parts=parts)
    return measured(labels, score=np.clip(above / FULL_CONTRAST, 0, 1), least=MIN_AREA_UM2 / mpp**2)
