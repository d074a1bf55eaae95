"""Crops in image order: every block of the image is decoded once, whatever the number of nuclei in it.

Peers read the image once per nucleus. Here nuclei are grouped by image block; a pool of threads decodes blocks and cuts
the windows that lie inside them, a few MB of crops at a time. A window that crosses blocks waits, as a small patch,
until its last block has come by, so memory is bounded by a few blocks, whatever the number of nuclei in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from os import cpu_count
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lemon_sc._core.memory import return_freed
from lemon_sc._core.threads import in_order_on, thread_pool
from lemon_sc.crops.border import Border
from lemon_sc.crops.resample import Resampler, resampler
from lemon_sc.geometry.windows import plan_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray

    from lemon_sc.geometry.windows import Windows

    Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]

TARGET_MPP = 0.25
"""um per crop px, LEMON's (40x)."""

BLOCK_PX = 2048
"""Smaller storage chunks are read together until a block is about this wide."""

BATCH_BYTES = 2 << 20
"""Crops that a thread makes at once."""

BAND_ROWS = 64
"""Windows of a block are cut in bands of as many rows, so that px they share are still in the processor's cache."""

PLANNED = 1 << 16
"""Windows that are planned at once."""


class Level(Protocol):
    """One pyramid level: its size, the borders of its storage chunks, and a reader of uint8 (h, w, 3)."""

    shape: tuple[int, int]
    row_edges: Sequence[int]
    col_edges: Sequence[int]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        """Pixels of a rectangle."""
        ...


class PyramidImage(Protocol):
    """An image that can be read in parts. `downsamples`: level-0 px per px of each level, (x, y)."""

    levels: Sequence[Level]
    downsamples: Sequence[tuple[float, float]]


def block_edges(edges: Sequence[int], block_px: int) -> NDArray[np.int64]:
    """Thin out chunk borders so that blocks are whole chunks, at least `block_px` wide where chunks are smaller.

    Parameters
    ----------
    edges
        Borders of chunks along one axis, px.
    block_px
        Least width of a block.

    Returns
    -------
    int64, the first and the last border among them.
    """
    kept = [int(edges[0])]
    for edge in edges[1:-1]:
        if edge - kept[-1] >= block_px:
            kept.append(int(edge))
    return np.array([*kept, int(edges[-1])], dtype=np.int64)


MIN_ROWS = 256
"""Least height of a block where storage is so wide that blocks must be flat."""


def blocks_of(level: Level, block_px: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Borders of the blocks along y and x: whole chunks, flat blocks where chunks are very wide.

    Parameters
    ----------
    level
        The level that is read.
    block_px
        Least width of a block.

    Returns
    -------
    Borders along y, and borders along x, px.
    """
    cols = block_edges(level.col_edges, block_px)
    tall = min(block_px, max(block_px**2 // int(np.diff(cols).max()), MIN_ROWS))
    return block_edges(level.row_edges, tall), cols


def grouped(keys: NDArray[np.int32], values: NDArray[np.int32]) -> dict[int, NDArray[np.int32]]:
    """Values by key, each group in the order of the values.

    Parameters
    ----------
    keys, values
        Arrays of the same length.

    Returns
    -------
    Values by key.
    """
    if not len(keys):
        return {}
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return {int(keys[a]): group for a, group in zip(first, np.split(values, first[1:]), strict=True)}


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
    whole: dict[int, NDArray[np.int32]]
    parts: dict[int, NDArray[np.int32]]

    @property
    def order(self) -> list[int]:
        """Blocks to read, in reading order; blocks without nuclei are not read."""
        return sorted({*self.whole, *self.parts})

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
        index = self.whole.get(block, np.zeros(0, dtype=np.int32)).astype(np.int64)
        start, phase = self.windows(index)
        order = np.lexsort((start[:, 0], (start[:, 1] - self.bounds(block)[0]) // BAND_ROWS))
        return index[order], start[order], phase[order]

    def crossing(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Windows that do not lie inside a block, ascending, and of how many blocks each has a part."""
        return np.unique(np.concatenate([np.zeros(0, np.int32), *self.parts.values()]), return_counts=True)


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


def plan_blocks(
    image: PyramidImage,
    xy: NDArray[np.float64],
    *,
    mpp: tuple[float, float],
    size_px: int,
    target_mpp: float,
    block_px: int = BLOCK_PX,
) -> tuple[Level, BlockPlan]:
    """Choose the pyramid level, and assign every window to the blocks that hold its source pixels.

    Parameters
    ----------
    image, xy, mpp, size_px, target_mpp, block_px
        As for `stream_crops`.

    Returns
    -------
    The level to read, and the plan.
    """
    place = partial(plan_windows, mpp=mpp, downsamples=image.downsamples, size_px=size_px, target_mpp=target_mpp)
    shared = place(xy[:0])
    level = image.levels[shared.level]
    rows, cols = blocks_of(level, block_px)
    block, crossing, parts = np.empty(len(xy), dtype=np.int32), [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for first in range(0, len(xy), PLANNED):
        here = slice(first, first + PLANNED)
        block[here], window, part = touched(place(xy[here]).start, shared.taps, rows, cols)
        crossing.append((window + first).astype(np.int32))
        parts.append(part.astype(np.int32))
    inside = np.flatnonzero(block >= 0).astype(np.int32)
    plan = BlockPlan(
        rows=rows,
        cols=cols,
        xy=xy,
        place=place,
        cut=resampler(shared),
        whole=grouped(block[inside], inside),
        parts=grouped(np.concatenate(parts), np.concatenate(crossing)),
    )
    return level, plan


def reading_order(
    image: PyramidImage,
    xy: NDArray[np.float64],
    *,
    mpp: tuple[float, float],
    size_px: int,
    target_mpp: float = TARGET_MPP,
    block_px: int = BLOCK_PX,
) -> NDArray[np.int64]:
    """Positions of the centres in the order in which `stream_crops` gives their crops, (n,).

    It is the same for a part of the centres, which lets an interrupted run go on where it stopped.

    Parameters
    ----------
    image, xy, mpp, size_px, target_mpp, block_px
        As for `stream_crops`.

    Returns
    -------
    int64 (n,).
    """
    if not len(xy):
        return np.zeros(0, dtype=np.int64)
    _, plan = plan_blocks(image, xy, mpp=mpp, size_px=size_px, target_mpp=target_mpp, block_px=block_px)
    (crossing, left), order = plan.crossing(), []
    for block in plan.order:
        at = np.searchsorted(crossing, plan.parts.get(block, crossing[:0]))
        left[at] -= 1
        order += [plan.inside(block)[0], crossing[at[left[at] == 0]]]
    return np.concatenate(order)


def batches_of(
    pool: ThreadPoolExecutor, plan: BlockPlan, block: int, pixels: NDArray[np.uint8], workers: int
) -> Iterator[Batch]:
    """Cut what lies inside a block, in the order of the windows, on the threads of a pool.

    Parameters
    ----------
    pool
        Threads that cut.
    plan
        Says which windows lie inside the block.
    block
        Number of the block.
    pixels
        Of the block, uint8 (h, w, 3).
    workers
        Batches that are begun ahead.

    Yields
    ------
    Positions of the windows, and what the plan's `cut` makes of them.
    """
    index, start, phase = plan.inside(block)
    y0, _, x0, _ = plan.bounds(block)
    start -= np.array([x0, y0])
    size = max(BATCH_BYTES // (3 * plan.cut.size_px**2), 1)
    parts = [slice(first, first + size) for first in range(0, len(index), size)]

    def cut(part: slice) -> Batch:
        return index[part], plan.cut(pixels, start[part], phase[part])

    yield from in_order_on(pool, cut, parts, ahead=workers)


def stream_crops(
    image: PyramidImage,
    xy: NDArray[np.float64],
    *,
    mpp: tuple[float, float],
    size_px: int = 40,
    target_mpp: float = TARGET_MPP,
    block_px: int = BLOCK_PX,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Cut one crop around each centre, in image order.

    Parameters
    ----------
    image
        Pyramid that can be read in parts.
    xy
        Centres in level-0 px, (n, 2), finite.
    mpp
        um per level-0 px, (x, y).
    size_px, target_mpp
        Side of the crop in px and um per crop px.
    block_px
        Least width of the blocks that are decoded at once. Neither this nor `workers` changes a crop.
    workers
        Threads that decode and cut; None takes one per core.

    Yields
    ------
    (index, crops)
        Positions in `xy`, int64 (b,), and crops, uint8 (b, S, S, 3), a few MB of them.
    """
    if not len(xy):
        return
    level, plan = plan_blocks(image, xy, mpp=mpp, size_px=size_px, target_mpp=target_mpp, block_px=block_px)
    yield from run_plan(level, plan, workers=workers or cpu_count() or 1)


def run_plan(level: Level, plan: BlockPlan, *, workers: int) -> Iterator[Batch]:
    """Read the blocks of a plan and give what its `cut` makes of them, as `stream_crops` does.

    Parameters
    ----------
    level, plan
        From `plan_blocks`.
    workers
        Threads that decode and cut.

    Yields
    ------
    Positions of the windows, and what the plan's `cut` makes of them.
    """
    border = Border(plan, level.shape)
    return_freed()  # what planning took
    with thread_pool(workers) as pool:
        decoded = in_order_on(pool, lambda block: level.read(*plan.bounds(block)), plan.order, ahead=workers - 1)
        for block in plan.order:
            pixels = next(decoded)
            crossing = pool.submit(border.complete, block, pixels)
            yield from batches_of(pool, plan, block, pixels, workers)
            del pixels  # before the next block is begun
            yield from crossing.result()
            return_freed()
