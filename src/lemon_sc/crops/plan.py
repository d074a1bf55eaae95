"""Which windows touch which block of an image, in as little memory as they can be told in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lemon_sc.crops.resample import Resampler
    from lemon_sc.geometry.windows import Windows

    Group: TypeAlias = NDArray[np.int32] | range

BAND_ROWS = 64
"""Windows of a block are cut in bands of as many rows, so that px they share are still in the processor's cache."""


def grouped(keys: NDArray[np.int32], values: NDArray[np.int32]) -> dict[int, Group]:
    """Values by key, each group ascending.

    Centres are often sorted in the order in which the image is read. The windows of a block are then a run of numbers,
    of which only the ends are kept.

    Parameters
    ----------
    keys, values
        Arrays of the same length, the values ascending and each there once per key.

    Returns
    -------
    Values by key: a range where no number is left out, else an array.
    """
    if not len(keys):
        return {}
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    groups = np.split(values, first[1:])
    return {int(keys[a]): _slim(group) for a, group in zip(first, groups, strict=True)}


def _slim(group: NDArray[np.int32]) -> Group:
    """The same numbers, without what the array is a part of."""
    low, high = int(group[0]), int(group[-1]) + 1
    return range(low, high) if high - low == len(group) else group.copy()


def numbers(group: Group | None) -> NDArray[np.int64]:
    """Values of a group of `grouped`.

    Parameters
    ----------
    group
        The group; None has no values.

    Returns
    -------
    int64, ascending.
    """
    if isinstance(group, range):
        return np.arange(group.start, group.stop)
    return np.zeros(0, np.int64) if group is None else group.astype(np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockPlan:
    """Which windows touch which block. Blocks are numbered row by row.

    It is held while the image is read, so it says of each window no more than its number; where the window lies is
    found when its block is due.

    Attributes
    ----------
    rows, cols
        Borders of the blocks.
    xy
        Centres in level-0 px, (n, 2).
    place
        Gives the windows around centres.
    cut
        What cuts windows.
    whole
        Windows that lie inside a block, by block, ascending.
    parts
        Windows of which a block holds a part, by block, ascending.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    xy: NDArray[np.float64]
    place: Callable[[NDArray[np.float64]], Windows]
    cut: Resampler
    whole: dict[int, Group]
    parts: dict[int, Group]

    @property
    def order(self) -> list[int]:
        """Blocks to read, in reading order; blocks without nuclei are not read."""
        return sorted({*self.whole, *self.parts})

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the level."""
        return int(self.rows[-1]), int(self.cols[-1])

    def bounds(self, block: int) -> tuple[int, int, int, int]:
        """(y0, y1, x0, x1) of a block."""
        r, c = divmod(block, len(self.cols) - 1)
        return int(self.rows[r]), int(self.rows[r + 1]), int(self.cols[c]), int(self.cols[c + 1])

    def windows(self, index: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """First tap, (n, 2), and sub-pixel phase, (n, 2), of windows, (x, y)."""
        windows = self.place(self.xy[index])
        return windows.start, windows.phase.astype(np.int16)

    def inside(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int16]]:
        """Windows inside a block as they are cut, by band of `BAND_ROWS` rows and column, and their `windows`."""
        index = numbers(self.whole.get(block))
        start, phase = self.windows(index)
        order = np.lexsort((start[:, 0], (start[:, 1] - self.bounds(block)[0]) // BAND_ROWS))
        return index[order], start[order], phase[order]

    def crossing(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Windows that do not lie inside a block, ascending, and the last block that has a part of each."""
        index = np.unique(np.concatenate([np.zeros(0, np.int64), *map(numbers, self.parts.values())]))
        last = np.zeros(len(index), np.int64)
        for block in sorted(self.parts):
            last[np.searchsorted(index, numbers(self.parts[block]))] = block
        return index, last


def touched(
    start: NDArray[np.int64], taps: tuple[int, int], rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Blocks that hold pixels of windows. Beyond the image, the outermost pixels are repeated.

    Parameters
    ----------
    start, taps
        First tap (x, y) of each window, (n, 2), and how many it has along x and y.
    rows, cols
        Borders of the blocks.

    Returns
    -------
    block
        Which each window lies inside of, (n,); -1 for those that cross borders of blocks or of the image.
    window, part
        Of the latter, each pair of a window and a block that it touches.
    """
    height, width, n_cols = int(rows[-1]), int(cols[-1]), len(cols) - 1
    end = start + np.array(taps)
    first = np.clip(start, 0, [width - 1, height - 1])
    last = np.clip(end - 1, 0, [width - 1, height - 1])
    r0, r1 = (np.searchsorted(rows, e[:, 1], side="right") - 1 for e in (first, last))
    c0, c1 = (np.searchsorted(cols, e[:, 0], side="right") - 1 for e in (first, last))
    in_image = (start >= 0).all(axis=1) & (end <= [width, height]).all(axis=1)
    block = np.where(in_image & (r0 == r1) & (c0 == c1), r0 * n_cols + c0, -1)
    crossing = np.flatnonzero(block < 0)
    wide = c1 - c0 + 1
    n_parts = ((r1 - r0 + 1) * wide)[crossing]
    window = np.repeat(crossing, n_parts)
    nth = np.arange(len(window)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    part = (r0[window] + nth // wide[window]) * n_cols + c0[window] + nth % wide[window]
    return block, window, part
