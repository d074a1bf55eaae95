"""Crops in image order: every block of the image is decoded once, whatever the number of nuclei in it.

Peers read the image once per nucleus. Here nuclei are grouped by image block; a pool of threads decodes blocks and cuts
the windows that lie inside them, a few MB of crops at a time. A window that crosses blocks waits until its last block
has come by. Of the blocks before, no more is kept than strips along their borders, so memory is bounded by a few blocks
and the width of the image, whatever the number of nuclei.
"""

from __future__ import annotations

from functools import partial
from os import cpu_count
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lemon_sc._core.memory import forget_recycled, return_freed
from lemon_sc._core.threads import in_order_on, thread_pool
from lemon_sc.crops.border import Border, Strip
from lemon_sc.crops.plan import BlockPlan, grouped, touched
from lemon_sc.crops.resample import resampler
from lemon_sc.geometry.windows import plan_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]
    Opened = tuple[NDArray[np.uint8], tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int16]], list[Strip]]

TARGET_MPP = 0.25
"""um per crop px, LEMON's (40x)."""

BLOCK_PX = 2048
"""Smaller storage chunks are read together until a block is about this wide."""

BATCH_BYTES = 2 << 20
"""Crops that a thread makes at once."""

RETURN_BYTES = 384 << 20
"""Of decoded px, after which freed memory goes back to the system: what decoders and crops took. Blocks use theirs
again."""

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
    windows = plan_windows(mpp=mpp, downsamples=image.downsamples, size_px=size_px, target_mpp=target_mpp)
    level = image.levels[windows.level]
    rows, cols = blocks_of(level, block_px)
    block, crossing, parts = np.empty(len(xy), dtype=np.int32), [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for first in range(0, len(xy), PLANNED):
        here = slice(first, first + PLANNED)
        block[here], window, part = touched(windows.place(xy[here])[0], windows.taps, rows, cols)
        crossing.append((window + first).astype(np.int32))
        parts.append(part.astype(np.int32))
    inside = np.flatnonzero(block >= 0).astype(np.int32)
    plan = BlockPlan(
        rows=rows,
        cols=cols,
        xy=xy,
        place=windows.place,
        cut=resampler(windows),
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
    border = Border(plan)
    return np.concatenate([part for block in plan.order for part in (plan.inside(block)[0], border.due(block))])


def open_block(level: Level, plan: BlockPlan, border: Border, block: int) -> Opened:
    """Decode a block, find the windows inside it, and copy what later blocks need of it while it is in the cache.

    Parameters
    ----------
    level, plan
        From `plan_blocks`.
    border
        Of the same plan.
    block
        Number of the block.

    Returns
    -------
    Its px, uint8 (h, w, 3), `BlockPlan.inside` with the first taps in px of the block, and `Border.parts`.
    """
    index, start, phase = plan.inside(block)
    y0, y1, x0, x1 = plan.bounds(block)
    pixels = level.read(y0, y1, x0, x1)
    return pixels, (index, start - np.array([x0, y0]), phase), border.parts(block, pixels)


def cuts(plan: BlockPlan, border: Border, block: int, opened: Opened) -> Iterator[Callable[[], Batch]]:
    """What is to be cut of a block, in the order of the windows.

    Parameters
    ----------
    plan
        From `plan_blocks`.
    border
        Has kept the blocks before, and keeps this one when all is told.
    block, opened
        Number of the block, and what `open_block` gave.

    Yields
    ------
    What gives positions of windows, and what the plan's `cut` makes of them. It may be called on any thread.
    """
    pixels, (index, start, phase), parts = opened
    size = max(BATCH_BYTES // (3 * plan.cut.size_px**2), 1)
    for first in range(0, len(index), size):
        part = slice(first, first + size)
        yield partial(_inside, plan, pixels, index[part], start[part], phase[part])
    due, strips = border.due(block), border.around(block, pixels)
    for first in range(0, len(due), size):
        yield partial(_completed, border, strips, due[first : first + size])
    border.keep(block, parts)


def _inside(
    plan: BlockPlan,
    pixels: NDArray[np.uint8],
    index: NDArray[np.int64],
    start: NDArray[np.int64],
    phase: NDArray[np.int16],
) -> Batch:
    return index, plan.cut(pixels, start, phase)


def _completed(border: Border, strips: list[Strip], index: NDArray[np.int64]) -> Batch:
    return index, border.cut(index, strips)


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
    border, freed = Border(plan), 0
    return_freed()  # what planning took
    try:
        with thread_pool(workers) as pool:
            blocks = in_order_on(pool, partial(open_block, level, plan, border), plan.order, ahead=workers)
            for block in plan.order:
                opened = next(blocks)
                freed += opened[0].nbytes
                jobs = cuts(plan, border, block, opened)
                del opened  # before the next block is begun
                yield from in_order_on(pool, lambda cut: cut(), jobs, ahead=workers)
                del jobs
                if freed >= RETURN_BYTES:
                    return_freed()
                    freed = 0
    finally:
        forget_recycled()
