"""Nucleus centres of an H&E image without any annotation: blobs of haematoxylin about as large as a nucleus.

Good enough to choose what to train on, where a crop beside a nucleus costs little; not a segmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_laplace, maximum_filter
from scipy.spatial import cKDTree

from lemon_sc._core.errors import bad_value
from lemon_sc.geometry.windows import check_mpp
from lemon_sc.models.nucleus_mask import BIN_WIDTH, UNIT, histogram, optical_density, otsu, stains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RADII_UM = (3.0, 5.0)
"""Radii of the blobs looked for: a lymphocyte's, and a large epithelial nucleus's."""
APART_UM = 3.0
"""Two centres are at least this far apart."""
THRESHOLD = 0.25
"""Least answer to the blob filter, in parts of the contrast between nuclei and the rest of the image."""
LEAST_CONTRAST = 0.15
"""Haematoxylin (OD) by which nuclei differ from the rest at least: what differs less is noise."""
BRIGHTEST = 1.3
"""Haematoxylin is clipped here, in the same parts: dark nuclei do not hide pale ones beside them."""
SMOOTH_UM = 0.25


def _contrast(pixels: NDArray[np.uint8], *, mpp: float) -> NDArray[np.float32]:
    """Haematoxylin, smoothed, 0 at the mean of what is no nucleus and 1 at that of nuclei by Otsu's method, (h, w).

    Parameters
    ----------
    pixels
        Uint8 (h, w, 3).
    mpp
        um per px.
    """
    level, _ = stains(optical_density(pixels[None]))
    cut = int(otsu(histogram(level))[0]) * BIN_WIDTH
    dark = level >= cut
    low, high = (float(level[part].mean()) / UNIT if part.any() else 0.0 for part in (~dark, dark))
    smooth = gaussian_filter(level[0].astype(np.float32) / UNIT, SMOOTH_UM / mpp, mode="nearest")
    return np.clip((smooth - low) / max(high - low, LEAST_CONTRAST), 0, BRIGHTEST)


def detect_nuclei(
    pixels: NDArray[np.uint8], *, mpp: float | Sequence[float], threshold: float = THRESHOLD
) -> NDArray[np.float64]:
    """Centres of nuclei: maxima of a scale-normalised Laplacian of Gaussian of the haematoxylin, over two sizes.

    Parameters
    ----------
    pixels
        Uint8 (h, w, 3), H&E; an image that fits into memory.
    mpp
        um per px, one number or (x, y) that differ little.
    threshold
        Least answer of the filter; lower finds more, and more that is no nucleus.

    Returns
    -------
    (x, y) in px, float64 (n, 2), clearest first; pixel (r, c) has its centre at (c + 0.5, r + 0.5).

    Raises
    ------
    ValueError
        If the image is not uint8 RGB, or the pixel size is no pixel size.

    Notes
    -----
    Stain vectors are those of Ruifrok and Johnston (2001), the blob filter is Lindeberg's (1998): its answer to a disc
    of radius r is largest at sigma = r / sqrt(2).
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise bad_value("pixels", must="be uint8 of shape (h, w, 3)", got=f"{pixels.dtype} {pixels.shape}")
    side = float(np.sqrt(np.prod(check_mpp(mpp))))
    level = _contrast(pixels, mpp=side)
    answer = np.full(level.shape, -np.inf, dtype=np.float32)
    for radius in RADII_UM:
        sigma = radius / side / np.sqrt(2)
        blob = gaussian_laplace(level, sigma, mode="nearest", truncate=3)
        np.maximum(answer, -(sigma**2) * blob, out=answer)
    reach = 2 * int(APART_UM / side / 2) + 1
    peak = (answer >= threshold) & (answer == maximum_filter(answer, size=reach, mode="nearest"))
    y, x = np.nonzero(peak)
    clearest = np.argsort(-answer[y, x], kind="stable")
    return _thinned(np.column_stack([x, y])[clearest].astype(np.float64) + 0.5, APART_UM / side)


def _thinned(xy: NDArray[np.float64], apart: float) -> NDArray[np.float64]:
    """Without the points that lie nearer than `apart` to one that comes before them and stays."""
    if not len(xy):
        return xy
    pairs = cKDTree(xy).query_pairs(apart, output_type="ndarray")
    kept = np.ones(len(xy), dtype=np.bool_)
    for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if kept[first]:
            kept[second] = False
    return xy[kept]
