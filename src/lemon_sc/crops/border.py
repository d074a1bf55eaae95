"""Windows that cross the borders of blocks: what earlier blocks hold of them is kept until the last block is there.

A patch per window would take memory in proportion to the nuclei. Strips along the borders hold the px of all of them,
and are as large as the image is wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.crops.plan import numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.crops.plan import BlockPlan


def paste_plainly(
    lines: NDArray[np.uint8],
    top: int,
    left: int,
    start: NDArray[np.integer],
    shape: tuple[int, int],
    patches: NDArray[np.uint8],
) -> None:
    """What `lemon_sc.crops.kernel.paste` does, slower and without compiling.

    Parameters
    ----------
    lines, top, left
        Px of a block, (h, w * 3), and where it lies.
    start
        First tap of each window, (n, 2).
    shape
        (height, width) of the level.
    patches
        Filled, (n, taps along y, taps along x * 3).
    """
    block = lines.reshape(len(lines), -1, 3)
    for (x0, y0), filled in zip(start, patches, strict=True):
        patch = filled.reshape(len(filled), -1, 3)
        y = np.clip(np.arange(y0, y0 + patch.shape[0]), 0, shape[0] - 1) - top
        x = np.clip(np.arange(x0, x0 + patch.shape[1]), 0, shape[1] - 1) - left
        rows, cols = np.flatnonzero((y >= 0) & (y < len(block))), np.flatnonzero((x >= 0) & (x < block.shape[1]))
        patch[np.ix_(rows, cols)] = block[np.ix_(y[rows], x[cols])]


@dataclass(frozen=True, eq=False, kw_only=True)
class Strip:
    """A part of a block that windows need which are complete later.

    Attributes
    ----------
    top, left
        Where it lies in the level.
    lines
        Its px, uint8 (h, w * 3).
    until
        Number of the block with which the last of these windows is complete.
    """

    top: int
    left: int
    lines: NDArray[np.uint8]
    until: int

    @property
    def right(self) -> int:
        """Where it ends along x."""
        return self.left + self.lines.shape[1] // 3


class Border:
    """What blocks that have come by hold of windows that cross blocks.

    Parameters
    ----------
    plan
        Where the windows lie. Its blocks come in their order.
    """

    def __init__(self, plan: BlockPlan) -> None:
        self.plan = plan
        self.crossing, self.last = plan.crossing()
        self.strips: list[Strip] = []

    def _of(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Crossing windows that have a part in a block, and the last block of each."""
        index = numbers(self.plan.parts.get(block))
        return index, self.last[np.searchsorted(self.crossing, index)]

    def due(self, block: int) -> NDArray[np.int64]:
        """Windows that a block completes, ascending, int64 (b,)."""
        index, last = self._of(block)
        return index[last == block]

    def around(self, block: int, pixels: NDArray[np.uint8]) -> list[Strip]:
        """What the windows that a block completes are made of.

        Parameters
        ----------
        block, pixels
            Number of the block and its px, (h, w, 3). The blocks before have been kept, this one not yet.

        Returns
        -------
        Parts of blocks before, and the block itself.
        """
        top, _, left, right = self.plan.bounds(block)
        reach = self.plan.cut.taps[0]
        here = Strip(top=top, left=left, lines=np.ascontiguousarray(pixels).reshape(len(pixels), -1), until=block)
        return [*(s for s in self.strips if s.left < right + reach and s.right > left - reach), here]

    def patches(self, start: NDArray[np.int64], strips: list[Strip]) -> NDArray[np.uint8]:
        """Source px of windows.

        Parameters
        ----------
        start
            First tap (x, y) of each, (b, 2).
        strips
            From `around`.

        Returns
        -------
        uint8 (b, taps along y, taps along x * 3). Beyond the image, its outermost px is repeated.
        """
        try:
            from lemon_sc.crops.kernel import paste
        except ImportError:  # a node without numba, where a GPU cuts the crops
            paste = paste_plainly  # type: ignore[assignment]
        taps_x, taps_y = self.plan.cut.taps
        out = np.empty((len(start), taps_y, taps_x * 3), dtype=np.uint8)
        for strip in strips:
            paste(strip.lines, strip.top, strip.left, start, self.plan.shape, out)
        return out

    def cut(self, index: NDArray[np.int64], strips: list[Strip]) -> NDArray[np.uint8]:
        """Cut windows that a block completes.

        Parameters
        ----------
        index
            Some of `due`.
        strips
            From `around`.

        Returns
        -------
        What the plan's `cut` makes of them, uint8 (b, S, S, 3).
        """
        taps_x, taps_y = self.plan.cut.taps
        start, phase = self.plan.place(self.plan.xy[index])
        tall = self.patches(start, strips).reshape(-1, taps_x, 3)  # one patch under the other
        top = np.arange(len(index)) * taps_y
        return self.plan.cut(tall, np.column_stack([np.zeros_like(top), top]), phase)

    def parts(self, block: int, pixels: NDArray[np.uint8]) -> list[Strip]:
        """What later blocks need of a block, copied. It may be called on any thread, for any block at any time.

        Parameters
        ----------
        block, pixels
            Number of the block and its px, (h, w, 3).

        Returns
        -------
        For `keep`.
        """
        index, last = self._of(block)
        start, _ = self.plan.place(self.plan.xy[index])
        n_cols = len(self.plan.cols) - 1
        y0, y1, x0, x1 = self.plan.bounds(block)
        taps_x, taps_y = self.plan.cut.taps
        below = last // n_cols > block // n_cols
        beside = (last > block) & ~below  # those need the last columns, those below the last rows
        strips = []
        for wanted, (top, left) in ((below, (y1 - taps_y + 1, x0)), (beside, (y0, x1 - taps_x + 1))):
            if wanted.any():
                box = self._hull(start[wanted], (max(top, y0), y1, max(left, x0), x1))
                (a, b), (c, d) = (box[0] - y0, box[1] - y0), (box[2] - x0, box[3] - x0)
                lines = pixels[a:b, c:d].reshape(b - a, -1).copy()
                strips.append(Strip(top=box[0], left=box[2], lines=lines, until=int(last[wanted].max())))
        return strips

    def keep(self, block: int, parts: list[Strip]) -> None:
        """Keep what later blocks need of a block, and drop what this one was the last to need.

        Parameters
        ----------
        block
            Number of the block.
        parts
            From `parts`.
        """
        self.strips = [*(strip for strip in self.strips if strip.until > block), *parts]

    def _hull(self, start: NDArray[np.int64], box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """(y0, y1, x0, x1) of the part of a box that windows need."""
        height, width = self.plan.shape
        beyond = np.array([width, height]) - 1
        low = np.clip(start, 0, beyond).min(axis=0)
        high = np.clip(start + np.array(self.plan.cut.taps) - 1, 0, beyond).max(axis=0) + 1
        y0, y1, x0, x1 = box
        return max(y0, int(low[1])), min(y1, int(high[1])), max(x0, int(low[0])), min(x1, int(high[0]))
