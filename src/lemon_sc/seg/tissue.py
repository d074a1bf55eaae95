"""Where a slide holds tissue: Otsu's threshold on a thumbnail, kept within what glass and tissue can look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from skimage.filters import threshold_otsu

from lemon_sc._core.errors import bad_value
from lemon_sc._core.threads import in_order
from lemon_sc.crops.stream import BLOCK_PX, blocks_of
from lemon_sc.geometry.windows import choose_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lemon_sc.crops.stream import PyramidImage

THUMBNAIL_MPP = 8.0
"""um per px of the thumbnail, about."""
GLASS = (190.0, 220.0)
"""Otsu's threshold is kept within these grey levels: an image full of tissue holds no glass, however it is divided, and
one full of glass holds no tissue."""
INK = 20.0
"""What is darker is no stain: black padding, ink, the edge of the slide."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in the grey level."""


def block_means(
    grey: NDArray[np.floating], *, y0: int, x0: int, factor: tuple[int, int]
) -> tuple[slice, slice, NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts of a block's px by thumbnail px.

    Parameters
    ----------
    grey
        The block, (h, w).
    y0, x0
        Where it begins in its level.
    factor
        Px of the level per thumbnail px, (y, x).

    Returns
    -------
    Rows and columns of the thumbnail that the block touches, the sums there, and how many px they are of.
    """
    spans, ends = [], []
    for start, n, f in ((y0, grey.shape[0], factor[0]), (x0, grey.shape[1], factor[1])):
        cell = np.arange(start, start + n) // f
        spans.append(slice(int(cell[0]), int(cell[-1]) + 1))
        ends.append(np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]]))
    sums = np.add.reduceat(np.add.reduceat(grey.astype(np.float64), ends[0], axis=0), ends[1], axis=1)
    sizes = [np.diff(np.r_[end, n]) for end, n in zip(ends, grey.shape, strict=True)]
    return spans[0], spans[1], sums, np.outer(*sizes).astype(np.float64)


def grey_thumbnail(
    image: PyramidImage, *, mpp: Sequence[float], workers: int = 1
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Mean grey level of an image in px of about `THUMBNAIL_MPP`.

    The pyramid level to read is the coarsest that is fine enough; an image without one is read through once.

    Parameters
    ----------
    image
        Pyramid that is read in parts.
    mpp
        um per level-0 px, (x, y).
    workers
        Threads that read.

    Returns
    -------
    Grey level, 0 to 255, (h, w), and level-0 px per px of it, (x, y).
    """
    at = choose_level((mpp[0], mpp[1]), image.downsamples, THUMBNAIL_MPP)
    level, down = image.levels[at], image.downsamples[at]
    fx, fy = (max(int(THUMBNAIL_MPP / (m * d)), 1) for m, d in zip(mpp, down, strict=True))
    shape = tuple(-(-n // f) for n, f in zip(level.shape, (fy, fx), strict=True))
    total, count = np.zeros(shape), np.zeros(shape)
    rows, cols = blocks_of(level, BLOCK_PX)
    blocks = [
        (int(y0), int(y1), int(x0), int(x1))
        for y0, y1 in zip(rows[:-1], rows[1:], strict=True)
        for x0, x1 in zip(cols[:-1], cols[1:], strict=True)
    ]

    def read(block: tuple[int, int, int, int]) -> tuple[slice, slice, NDArray[np.float64], NDArray[np.float64]]:
        grey = np.matmul(level.read(*block), np.array(LUMA, dtype=np.float32), dtype=np.float32)
        return block_means(grey, y0=block[0], x0=block[2], factor=(fy, fx))

    for r, c, sums, counts in in_order(read, blocks, workers=workers):
        total[r, c] += sums
        count[r, c] += counts
    return total / count, (fx * float(down[0]), fy * float(down[1]))


def tissue_mask(grey: NDArray[np.floating]) -> NDArray[np.bool_]:
    """What of a thumbnail is tissue.

    Parameters
    ----------
    grey
        Grey level, 0 to 255, (h, w).

    Returns
    -------
    Bool (h, w): darker than Otsu's threshold, which is kept within `GLASS`, and lighter than `INK`.
    """
    if grey.ndim != 2 or not grey.size:
        raise bad_value("grey", must="be a thumbnail (h, w)", got=grey.shape)
    cut = np.clip(threshold_otsu(np.rint(grey).astype(np.uint8)), *GLASS)
    return (grey < cut) & (grey >= INK)


def tissue_share(mask: NDArray[np.bool_], *, down: Sequence[float], boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share of each box that is tissue.

    Parameters
    ----------
    mask
        Tissue, bool (h, w).
    down
        Level-0 px per px of the mask, (x, y).
    boxes
        (x0, y0, x1, y1) in level-0 px, (n, 4); what lies outside the image counts as no tissue and no area.

    Returns
    -------
    Float64 (n,). A box reaches as far as the mask's px that it touches.
    """
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    size = np.array([mask.shape[1], mask.shape[0]])
    low = np.clip(np.floor(boxes[:, :2] / down), 0, size - 1).astype(np.int64)
    high = np.clip(np.ceil(boxes[:, 2:] / down), low + 1, size).astype(np.int64)
    (x0, y0), (x1, y1) = low.T, high.T
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0))
