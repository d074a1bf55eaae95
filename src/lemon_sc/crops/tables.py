"""Weights of the resampling kernel, in fixed point, for every sub-pixel phase."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.geometry.windows import PHASES, SUPPORT

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHT_BITS = 14
"""Weights are whole multiples of 2^-14, and sum to 1."""
COLUMN_BITS = 6
"""Between the passes, values are whole multiples of 2^-6 grey levels: with a kernel's overshoot they fit 16 bits."""

QUAD = 4
"""Px of a crop that are made at once, along each axis."""


def cubic(t: NDArray[np.floating]) -> NDArray[np.floating]:
    """Keys' cubic convolution kernel with a = -0.5 (third-order accurate; Keys, IEEE ASSP 29, 1981).

    Parameters
    ----------
    t
        Distance in px.

    Returns
    -------
    The weight at that distance; 0 from 2 px on.
    """
    t = np.abs(t)
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


@dataclass(frozen=True, eq=False, kw_only=True)
class AxisTable:
    """Weights of one axis for every sub-pixel phase.

    Attributes
    ----------
    first
        First tap of each crop pixel, counted from the window's start, even, int32 (PHASES, S).
    weight
        Weights of its taps, an even number of them, in units of ``2**-WEIGHT_BITS``, int16 (PHASES, S, T); they sum
        to 1.
    """

    first: NDArray[np.int32]
    weight: NDArray[np.int16]

    @cached_property
    def pairs(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """First pair of taps of each crop pixel, (PHASES, Q), and its weights as pairs, (PHASES, Q * T / 2).

        Q is the crops' side rounded up to `QUAD`, of px that are like the last.
        """
        n_phases, size, n = self.weight.shape
        px = np.minimum(np.arange(-(-size // QUAD) * QUAD), size - 1)
        return self.first.take(px, axis=1) // 2, self.weight.take(px, axis=1).reshape(n_phases, len(px) * n).view(
            np.int32
        )


@lru_cache(maxsize=16)
def axis_table(*, scale: float, size_px: int, taps: int) -> AxisTable:
    """Tabulate the weights along one axis.

    The kernel is stretched by `scale` (source px per crop px) when that is above 1, so that detail finer than the
    crop's pixels is averaged away and does not alias. Everything is reckoned from the centre of the window: there the
    same px of crops of different sizes has the same weights, to the bit.

    Parameters
    ----------
    scale, size_px, taps
        As in `lemon_sc.geometry.windows.Windows`.

    Returns
    -------
    Weights of all phases.
    """
    stretch, middle = max(scale, 1.0), taps // 2
    n = 2 * (int(np.ceil(2 * SUPPORT * stretch)) // 2 + 1)  # so that they may begin at an even tap
    steps = np.arange(1 - size_px, size_px, 2) / 2  # crop px from the centre
    centre = (np.arange(PHASES) / PHASES)[:, None] + scale * steps
    first = np.ceil(centre - SUPPORT * stretch - 0.5).astype(np.int32) + middle
    first = np.clip(first // 2 * 2, 0, (taps + 1) // 2 * 2 - n)
    distance = (first - middle)[..., None] + np.arange(n) + 0.5 - centre[..., None]
    weight = cubic(distance / stretch)
    return AxisTable(first=first, weight=fixed_point(weight / weight.sum(axis=2, keepdims=True)))


def fixed_point(weight: NDArray[np.float64]) -> NDArray[np.int16]:
    """Weights in units of ``2**-WEIGHT_BITS``; what rounding takes from their sum goes to the largest.

    Parameters
    ----------
    weight
        (PHASES, S, taps), with sums of 1 along the taps.

    Returns
    -------
    int16 of the same shape, with sums of exactly ``2**WEIGHT_BITS``.
    """
    one = 1 << WEIGHT_BITS
    whole = np.rint(weight * one).astype(np.int64)
    largest = weight.argmax(axis=2)[..., None]
    missing = one - whole.sum(axis=2, keepdims=True)
    np.put_along_axis(whole, largest, np.take_along_axis(whole, largest, axis=2) + missing, axis=2)
    return whole.astype(np.int16)
