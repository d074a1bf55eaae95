"""One anti-aliased resampling per crop, straight from the decoded block.

The kernel is separable and few taps wide, so the work per crop is small; it is compiled, releases the interpreter's
lock, and runs in the threads that decode. It computes in fixed point, where sums are exact: a crop's px depend on the
image and its centre alone, to the bit, however the work is cut into vectors, blocks, batches and crops of any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.memory import recycled
from lemon_sc.crops.tables import QUAD, AxisTable, axis_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.geometry.windows import Windows


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
        self, pixels: NDArray[np.uint8], start: NDArray[np.integer], phase: NDArray[np.integer]
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
        from lemon_sc.crops.kernel import cut  # compiled on first use

        n, size, padded = len(start), self.size_px, -(-self.size_px // QUAD) * QUAD
        out = recycled((n, padded, padded * 3), np.dtype(np.uint8))
        lines = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
        (first_x, weight_x), (first_y, weight_y) = self.x.pairs, self.y.pairs
        like_x, like_y = ((0,) * (QUAD * table.weight.shape[2] // 2) for table in (self.x, self.y))
        where = start.astype(np.int64), phase.astype(np.int64)
        cut(lines, *where, first_x, weight_x, first_y, weight_y, self.taps, like_x, like_y, out)
        return np.ascontiguousarray(out.reshape(n, padded, padded, 3)[:, :size, :size])


def resampler(windows: Windows) -> Resampler:
    """Tabulate the weights that all windows of a run share.

    Parameters
    ----------
    windows
        What the windows of the run have in common.

    Returns
    -------
    What cuts crops from windows of px.
    """
    size, taps = windows.size_px, windows.taps
    x, y = (axis_table(scale=windows.scale[axis], size_px=size, taps=taps[axis]) for axis in (0, 1))
    return Resampler(size_px=size, taps=taps, x=x, y=y)
