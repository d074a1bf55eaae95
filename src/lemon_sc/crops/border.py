"""Windows that cross the borders of blocks: patches that are filled block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.crops.stream import BlockPlan


def paste_plainly(  # noqa: PLR0917 - as of the compiled one
    lines: NDArray[np.uint8],
    top: int,
    left: int,
    start: NDArray[np.integer],
    slot: NDArray[np.int64],
    shape: tuple[int, int],
    patches: NDArray[np.uint8],
) -> None:
    """What `lemon_sc.crops.kernel.paste` does, slower and without compiling.

    Parameters
    ----------
    lines, top, left
        Px of a block, (h, w * 3), and where it lies.
    start, slot
        First tap of each window, (n, 2), and which patch is its own, (n,).
    shape
        (height, width) of the level.
    patches
        Filled, (m, taps along y, taps along x * 3).
    """
    block = lines.reshape(len(lines), -1, 3)
    for (x0, y0), k in zip(start, slot, strict=True):
        patch = patches[k].reshape(patches.shape[1], -1, 3)
        y = np.clip(np.arange(y0, y0 + patch.shape[0]), 0, shape[0] - 1) - top
        x = np.clip(np.arange(x0, x0 + patch.shape[1]), 0, shape[1] - 1) - left
        rows, cols = np.flatnonzero((y >= 0) & (y < len(block))), np.flatnonzero((x >= 0) & (x < block.shape[1]))
        patch[np.ix_(rows, cols)] = block[np.ix_(y[rows], x[cols])]


class Border:
    """Windows that cross blocks, while they wait for their last part.

    Parameters
    ----------
    plan
        Where the windows lie.
    shape
        (height, width) of the level, beyond which the outermost px is repeated.
    """

    def __init__(self, plan: BlockPlan, shape: tuple[int, int]) -> None:
        self.plan, self.shape = plan, shape
        taps_x, taps_y = plan.cut.taps
        self.crossing, self.waiting = plan.crossing()
        self.slot = np.full(len(self.crossing), -1)
        self.free = np.arange(self._most_at_once())
        self.patches = np.zeros((len(self.free), taps_y, taps_x * 3), dtype=np.uint8)

    def _index(self, block: int) -> NDArray[np.int64]:
        """Which of the crossing windows have a part in a block."""
        return np.searchsorted(self.crossing, self.plan.parts.get(block, self.crossing[:0]))

    def _most_at_once(self) -> int:
        """How many windows wait at the same time, so that their patches are made once and never moved."""
        left, begun = self.waiting.copy(), np.zeros(len(self.crossing), dtype=np.bool_)
        now = most = 0
        for block in self.plan.order:
            at = self._index(block)
            now += int(np.count_nonzero(~begun[at]))
            most = max(most, now)
            begun[at] = True
            left[at] -= 1
            now -= int(np.count_nonzero(left[at] == 0))
        return most

    def take(self, block: int, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Keep what a block holds of them; return those that are complete now, and their patches.

        Parameters
        ----------
        block
            Number of the block. Each is taken once.
        pixels
            Its px, (h, w, 3).

        Returns
        -------
        Windows, int64 (b,), and patches, uint8 (b, taps along y, taps along x * 3).
        """
        at = self._index(block)
        new = at[self.slot[at] < 0]
        self.slot[new], self.free = self.free[: len(new)], self.free[len(new) :]
        top, _, left, _ = self.plan.bounds(block)
        lines = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
        try:
            from lemon_sc.crops.kernel import paste
        except ImportError:  # a node without numba, where a GPU cuts the crops
            paste = paste_plainly  # type: ignore[assignment]
        start, _ = self.plan.windows(self.crossing[at])
        paste(lines, top, left, start, self.slot[at], self.shape, self.patches)
        self.waiting[at] -= 1
        done = at[self.waiting[at] == 0]
        self.free = np.concatenate([self.free, self.slot[done]])
        return self.crossing[done].astype(np.int64), self.patches[self.slot[done]]

    def complete(self, block: int, pixels: NDArray[np.uint8]) -> list[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """`take`, and what the plan's `cut` makes of the windows that are complete: one batch, or none."""
        index, patches = self.take(block, pixels)
        return [(index, self.cut(index, patches))] if len(index) else []

    def cut(self, index: NDArray[np.int64], patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Crops of complete windows, uint8 (b, S, S, 3)."""
        taps_x, taps_y = self.plan.cut.taps
        tall = patches.reshape(-1, taps_x, 3)  # one patch under the other
        start = np.column_stack([np.zeros(len(index), dtype=np.int64), np.arange(len(index)) * taps_y])
        _, phase = self.plan.windows(index)
        return self.plan.cut(tall, start, phase)
