"""Which windows touch which block of an image, in as little memory as they can be told in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lemon_sc.crops.resample import Resampler

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
        Arrays of the same length, keys from 0 on, the values ascending and each there once per key.

    Returns
    -------
    Values by key: a range where no number is left out, else an array.
    """
    if not len(keys):
        return {}
    order = np.argsort(keys.astype(np.min_scalar_type(keys.max())), kind="stable")  # short numbers are sorted faster
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
        Gives the first tap, (n, 2), and the sub-pixel phase, (n, 2), of windows around centres, (x, y).
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
    place: Callable[[NDArray[np.float64]], tuple[NDArray[np.int64], NDArray[np.int16]]]
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

    def inside(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int16]]:
        """Windows inside a block as they are cut, by band of `BAND_ROWS` rows and column, and where they lie."""
        index = numbers(self.whole.get(block))
        start, phase = self.place(self.xy[index])
        y0, _, x0, x1 = self.bounds(block)
        order = np.argsort((start[:, 1] - y0) // BAND_ROWS * (x1 - x0) + start[:, 0] - x0, kind="stable")
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
    c0, c1, in_width = _span(start[:, 0], taps[0], cols)
    r0, r1, in_height = _span(start[:, 1], taps[1], rows)
    n_cols = len(cols) - 1
    block = np.where(in_width & in_height & (r0 == r1) & (c0 == c1), r0 * n_cols + c0, -1)
    crossing = np.flatnonzero(block < 0)
    r0, r1, c0, c1 = r0[crossing], r1[crossing], c0[crossing], c1[crossing]
    wide = c1 - c0 + 1
    n_parts = (r1 - r0 + 1) * wide
    nth = np.arange(n_parts.sum()) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    r0, c0, wide = (np.repeat(v, n_parts) for v in (r0, c0, wide))
    return block, np.repeat(crossing, n_parts), (r0 + nth // wide) * n_cols + c0 + nth % wide


def _span(
    start: NDArray[np.int64], taps: int, edges: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The first and the last block of windows along one axis, and whether they lie in the image."""
    length, end = int(edges[-1]), start + taps
    of_px = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    first, last = (of_px[np.clip(px, 0, length - 1)] for px in (start, end - 1))
    return first, last, (start >= 0) & (end <= length)
