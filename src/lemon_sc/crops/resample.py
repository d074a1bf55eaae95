"""One anti-aliased resampling per crop, straight from the decoded block.

The kernel is separable and few taps wide, so the work per crop is small; it is compiled, releases the interpreter's
lock, and runs in the threads that decode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

from lemon_sc.geometry.windows import PHASES, SUPPORT, Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cubic(t: NDArray[np.floating]) -> NDArray[np.floating]:
    """Keys' cubic convolution kernel with a = -0.5 (third-order accurate; Keys, IEEE ASSP 29, 1981)."""
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
        First tap of each crop pixel, counted from the window's start, int32 (PHASES, S).
    weight
        Weights of its taps, float32 (PHASES, S, T); they sum to 1.
    """

    first: NDArray[np.int32]
    weight: NDArray[np.float32]


def axis_table(*, base: float, scale: float, size_px: int, taps: int) -> AxisTable:
    """Tabulate the weights along one axis.

    The kernel is stretched by `scale` (source px per crop px) when that is above 1, so that detail finer than the
    crop's pixels is averaged away and does not alias.

    Parameters
    ----------
    base, scale, size_px, taps
        As in `lemon_sc.geometry.windows.Windows`.
    """
    stretch = max(scale, 1.0)
    phase = np.arange(PHASES) / PHASES
    centre = base + phase[:, None] + scale * np.arange(size_px)
    n = int(np.ceil(2 * SUPPORT * stretch))
    first = np.clip(np.ceil(centre - SUPPORT * stretch - 0.5).astype(np.int32), 0, taps - n)
    distance = first[..., None] + np.arange(n) + 0.5 - centre[..., None]
    weight = cubic(distance / stretch)
    return AxisTable(first=first, weight=(weight / weight.sum(axis=2, keepdims=True)).astype(np.float32))


@numba.njit(nogil=True, cache=True, fastmath=True)
def _cut(pixels, start, phase, first_x, weight_x, first_y, weight_y, taps, out):  # noqa: ANN001, ANN202, C901, PLR0917
    """Fill `out` (n, S, S * 3) from `pixels` (h, w * 3).

    First along y, over contiguous px; the result is kept transposed, so that the pass along x runs over contiguous
    numbers, too, and both compile to vector instructions.
    """
    size, width = out.shape[1], taps * 3
    line = np.empty(width, np.float32)
    columns = np.empty((width, size), np.float32)
    sums = np.empty((size * 3, size), np.float32)
    for k in range(out.shape[0]):
        x0, y0, px, py = start[k, 0] * 3, start[k, 1], phase[k, 0], phase[k, 1]
        for o in range(size):
            line[:] = np.float32(0)
            for j in range(weight_y.shape[2]):
                weight = weight_y[py, o, j]
                source = pixels[y0 + first_y[py, o] + j, x0 : x0 + width]
                for c in range(width):
                    line[c] += weight * source[c]
            for c in range(width):
                columns[c, o] = line[c]
        for i in range(size):
            for colour in range(3):
                total = sums[3 * i + colour]
                total[:] = np.float32(0.5)  # so that the cast to whole numbers rounds to nearest
                for j in range(weight_x.shape[2]):
                    weight = weight_x[px, i, j]
                    column = columns[3 * (first_x[px, i] + j) + colour]
                    for o in range(size):
                        total[o] += weight * column[o]
        for o in range(size):
            for c in range(size * 3):
                out[k, o, c] = np.uint8(min(max(sums[c, o], np.float32(0)), np.float32(255)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Resampler:
    """Cuts crops of one geometry out of decoded pixels.

    Attributes
    ----------
    size_px
        Side of the crops.
    taps
        Source px per axis that a crop needs, (x, y).
    x, y
        Weights per axis.
    """

    size_px: int
    taps: tuple[int, int]
    x: AxisTable
    y: AxisTable

    def __call__(
        self, pixels: NDArray[np.uint8], start: NDArray[np.int64], phase: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Cut crops.

        Parameters
        ----------
        pixels
            uint8 (h, w, 3), C-contiguous, that hold all windows.
        start
            First tap (x, y) of each window in `pixels`, (n, 2).
        phase
            Sub-pixel phase (x, y) of each window, (n, 2).

        Returns
        -------
        uint8 (n, S, S, 3), rounded to nearest.
        """
        out = np.empty((len(start), self.size_px, self.size_px * 3), dtype=np.uint8)
        lines = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
        tables = self.x.first, self.x.weight, self.y.first, self.y.weight
        _cut(lines, start, phase, *tables, self.taps[0], out)
        return out.reshape(len(start), self.size_px, self.size_px, 3)


def resampler(windows: Windows) -> Resampler:
    """Tabulate the weights that all windows of a run share."""
    size, taps = windows.size_px, windows.taps
    x, y = (
        axis_table(base=windows.base[axis], scale=windows.scale[axis], size_px=size, taps=taps[axis]) for axis in (0, 1)
    )
    return Resampler(size_px=size, taps=taps, x=x, y=y)
