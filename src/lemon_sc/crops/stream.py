"""Crops in image order: every block of the image is decoded once, whatever the number of nuclei in it.

Peers read the image once per nucleus. Here nuclei are grouped by image block; a pool of threads decodes blocks and cuts
the windows that lie inside them, a few MB of crops at a time. A window that crosses blocks waits, as a small patch,
until its last block has come by, so memory is bounded by a few blocks, whatever the number of nuclei in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import cpu_count
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lemon_sc._core.memory import return_freed
from lemon_sc._core.threads import in_order_on, thread_pool
from lemon_sc.crops.border import Border
from lemon_sc.crops.resample import Resampler, resampler
from lemon_sc.geometry.windows import plan_windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray

    Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]

TARGET_MPP = 0.25
"""um per crop px, LEMON's (40x)."""

BLOCK_PX = 2048
"""Smaller storage chunks are read together until a block is about this wide."""

BATCH_BYTES = 2 << 20
"""Crops that a thread makes at once."""

BAND_ROWS = 64
"""Windows of a block are cut in bands of as many rows, so that px they share are still in the processor's cache."""


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


def grouped(keys: NDArray[np.int64], values: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
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


def cutting_order(
    start: NDArray[np.int32], block: NDArray[np.int64], top: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """Order of windows by block, band of `BAND_ROWS` rows, column, and position.

    Parameters
    ----------
    start
        First tap (x, y) of each window, (n, 2).
    block, top
        Its block, and the first row of that, (n,).
    width
        Of the level, px.

    Returns
    -------
    int64 (n,).
    """
    band = (start[:, 1] - top) // BAND_ROWS
    n, n_bands = max(len(start), 1), int(band.max(initial=0)) + 1
    key = ((block * n_bands + band) * width + start[:, 0]) * n + np.arange(len(start))
    return np.sort(key) % n  # one number per window: several times faster than sorting by four keys


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockPlan:
    """Which windows touch which block. Blocks are numbered row by row.

    Attributes
    ----------
    rows, cols
        Borders of the blocks.
    start, phase, cut
        First tap, int32 (n, 2), and sub-pixel phase, int16 (n, 2), of each window, (x, y), and what cuts them.
    whole
        Windows that lie inside a block, by block, in the order in which they are cut.
    parts
        Windows of which a block holds a part, by block.
    n_parts
        In how many blocks each window lies, int32 (n,).
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    start: NDArray[np.int32]
    phase: NDArray[np.int16]
    cut: Resampler
    whole: dict[int, NDArray[np.int64]]
    parts: dict[int, NDArray[np.int64]]
    n_parts: NDArray[np.int32]

    @property
    def order(self) -> list[int]:
        """Blocks to read, in reading order; blocks without nuclei are not read."""
        return sorted({*self.whole, *self.parts})

    def bounds(self, block: int) -> tuple[int, int, int, int]:
        """(y0, y1, x0, x1) of a block."""
        r, c = divmod(block, len(self.cols) - 1)
        return int(self.rows[r]), int(self.rows[r + 1]), int(self.cols[c]), int(self.cols[c + 1])


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
    windows = plan_windows(xy, mpp=mpp, downsamples=image.downsamples, size_px=size_px, target_mpp=target_mpp)
    level = image.levels[windows.level]
    start = windows.start.astype(np.int32)  # kept for all windows while the image is read
    height, width = level.shape
    rows, cols = blocks_of(level, block_px)
    end = start + np.array(windows.taps)
    first = np.clip(start, 0, [width - 1, height - 1])
    last = np.clip(end - 1, 0, [width - 1, height - 1])
    r0, r1 = (np.searchsorted(rows, e[:, 1], side="right") - 1 for e in (first, last))
    c0, c1 = (np.searchsorted(cols, e[:, 0], side="right") - 1 for e in (first, last))
    in_image = (start >= 0).all(axis=1) & (end <= [width, height]).all(axis=1)
    single = in_image & (r0 == r1) & (c0 == c1)
    n_cols = len(cols) - 1
    inside, crossing = np.flatnonzero(single), np.flatnonzero(~single)
    inside = inside[cutting_order(start[inside], (r0 * n_cols + c0)[inside], rows[r0[inside]], width)]
    n_parts = (r1 - r0 + 1) * (c1 - c0 + 1)
    spread = np.repeat(crossing, n_parts[crossing])
    nth = np.arange(len(spread)) - np.repeat(np.cumsum(n_parts[crossing]) - n_parts[crossing], n_parts[crossing])
    wide = (c1 - c0 + 1)[spread]
    plan = BlockPlan(
        rows=rows,
        cols=cols,
        start=start,
        phase=windows.phase.astype(np.int16),
        cut=resampler(windows),
        whole=grouped((r0 * n_cols + c0)[inside], inside),
        parts=grouped((r0[spread] + nth // wide) * n_cols + c0[spread] + nth % wide, spread),
        n_parts=n_parts.astype(np.int32),
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
    none, left, order = np.zeros(0, dtype=np.int64), plan.n_parts.copy(), []
    for block in plan.order:
        crossing = plan.parts.get(block, none)
        left[crossing] -= 1
        order += [plan.whole.get(block, none), crossing[left[crossing] == 0]]
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
    index = plan.whole.get(block)
    if index is None:
        return
    y0, _, x0, _ = plan.bounds(block)
    start, phase = plan.start[index] - np.array([x0, y0]), plan.phase[index]
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
    with thread_pool(workers) as pool:
        decoded = in_order_on(pool, lambda block: level.read(*plan.bounds(block)), plan.order, ahead=workers - 1)
        for block in plan.order:
            pixels = next(decoded)
            crossing = pool.submit(border.complete, block, pixels)
            yield from batches_of(pool, plan, block, pixels, workers)
            del pixels  # before the next block is begun
            yield from crossing.result()
            return_freed()
