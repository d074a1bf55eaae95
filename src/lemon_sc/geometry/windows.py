"""Which part of the image a crop shows: window, pyramid level, taps.

A crop of S x S px at `target_mpp` shows a window of ``S * target_mpp / mpp`` source px per axis, centred on the nucleus
to sub-pixel accuracy. Crop pixel i samples the source at ``centre + (i - (S - 1) / 2) * scale``, with ``scale`` source
px per crop px. Centres are rounded to 1/512 px, which moves nothing by more than a thousandth of a px and lets all
crops of a run share one table of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SUPPORT = 2.0
"""Half width of the bicubic kernel in units of the larger of source and output pixel."""


PHASE_BITS = 9
PHASES = 1 << PHASE_BITS
"""Sub-pixel positions per px."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Windows:
    """What the windows of a run have in common, at one pyramid level.

    Attributes
    ----------
    level
        Pyramid level that is read.
    downsample
        Level-0 px per px of the level, (x, y).
    size_px
        Side S of the crop.
    scale
        Source px (of the level) per crop px, (x, y).
    base
        Centre of crop pixel 0 at phase 0, in source px from the first tap, (x, y).
    taps
        Source px per axis that each crop needs, (x, y), an odd number.
    """

    level: int
    downsample: tuple[float, float]
    size_px: int
    scale: tuple[float, float]
    base: tuple[float, float]
    taps: tuple[int, int]

    def place(self, xy: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """Where the windows around centres lie.

        Parameters
        ----------
        xy
            Nucleus centres in level-0 px, finite, (n, 2).

        Returns
        -------
        start
            First source px (x, y) of each window's taps, (n, 2). May lie outside the image.
        phase
            The window lies ``phase / PHASES`` px further than `start` says, (n, 2).
        """
        fine = np.rint(xy / self.downsample * PHASES).astype(np.int64)
        phase = (fine & (PHASES - 1)).astype(np.int16)
        fine >>= PHASE_BITS
        fine -= (self.taps[0] // 2, self.taps[1] // 2)
        return fine, phase


def check_mpp(mpp: float | Sequence[float], *, name: str = "mpp") -> tuple[float, float]:
    """Return (x, y) um per px if one number or two are given, finite and positive, else raise.

    Parameters
    ----------
    mpp
        um per px, one number or (x, y).
    name
        What to call it in the message.

    Returns
    -------
    (x, y).

    Raises
    ------
    ValueError
        If it is anything else.
    """
    try:
        x, y = np.broadcast_to(np.asarray(mpp, dtype=np.float64), (2,)).tolist()
    except (TypeError, ValueError):
        x = y = np.nan
    if not (np.isfinite([x, y]).all() and min(x, y) > 0):
        raise bad_value(name, must="be one or two finite numbers > 0 (um per px along x and y)", got=mpp)
    return x, y


def window_side(size_px: int, mpp: tuple[float, float], target_mpp: float) -> NDArray[np.float64]:
    """Side of a crop's window in image px, (x, y).

    Parameters
    ----------
    size_px, target_mpp
        Side of the crop in px, and um per crop px.
    mpp
        um per image px, (x, y).

    Returns
    -------
    Float64 (2,).
    """
    return size_px * target_mpp / np.asarray(mpp, dtype=np.float64)


def inside(xy: NDArray[np.float64], side: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether the whole window of each centre lies in an image of `shape` (height, width). NaN centres do not.

    Parameters
    ----------
    xy
        Centres in image px, (n, 2).
    side
        Side of the window in image px, (x, y).
    shape
        Height and width of the image, px.

    Returns
    -------
    Bool (n,).
    """
    size = np.array([shape[1], shape[0]], dtype=np.float64)
    slack = 1e-6  # a window that ends on the border lies inside
    within = (xy - side / 2 >= -slack) & (xy + side / 2 <= size + slack)
    return np.logical_and(within[:, 0], within[:, 1])


def choose_level(mpp: tuple[float, float], downsamples: Sequence[tuple[float, float]], target_mpp: float) -> int:
    """The coarsest pyramid level that is still at least as fine as `target_mpp` in both axes, else 0.

    Parameters
    ----------
    mpp
        um per level-0 px, (x, y).
    downsamples
        Level-0 px per px of each level, (x, y), finest level first.
    target_mpp
        um per px that is wanted.

    Returns
    -------
    Number of the level.
    """
    fine = [k for k, d in enumerate(downsamples) if max(mpp[0] * d[0], mpp[1] * d[1]) <= target_mpp * (1 + 1e-6)]
    return max(fine, default=0)


def plan_windows(
    *, mpp: tuple[float, float], downsamples: Sequence[tuple[float, float]], size_px: int, target_mpp: float
) -> Windows:
    """Plan the crops of a run.

    Parameters
    ----------
    mpp
        um per level-0 px, (x, y).
    downsamples
        Level-0 px per px of each pyramid level, (x, y).
    size_px, target_mpp
        Side of the crop and um per crop px.

    Returns
    -------
    The level to read, and what says where a crop's window lies in it.
    """
    level = choose_level(mpp, downsamples, target_mpp)
    down = np.asarray(downsamples[level], dtype=np.float64)
    scale = target_mpp / (np.asarray(mpp, dtype=np.float64) * down)
    to_first = (size_px - 1) / 2 * scale
    half = np.ceil(to_first + SUPPORT * np.maximum(scale, 1.0)).astype(np.int64)
    base = half - to_first
    return Windows(
        level=level,
        downsample=(float(down[0]), float(down[1])),
        size_px=size_px,
        scale=(float(scale[0]), float(scale[1])),
        base=(float(base[0]), float(base[1])),
        taps=(int(2 * half[0] + 1), int(2 * half[1] + 1)),
    )
