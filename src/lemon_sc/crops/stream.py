"""Crops in image order: every block of the image is decoded once, whatever the number of nuclei in it.

Peers read the image once per nucleus. Here nuclei are grouped by image block; a pool of threads decodes blocks and cuts
the windows that lie inside them. A window that crosses blocks waits, as a small patch, until its last block has come
by, so memory is bounded by a few blocks and their crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import cpu_count
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lemon_sc._core.threads import in_order
from lemon_sc.crops.resample import Resampler, resampler
from lemon_sc.geometry.windows import plan_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]

TARGET_MPP = 0.25
"""um per crop px, LEMON's (40x)."""

BLOCK_PX = 2048
"""Smaller storage chunks are read together until a block is about this wide."""


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
    """Thin out chunk borders so that blocks are whole chunks, at least `block_px` wide where chunks are smaller."""
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
    """
    cols = block_edges(level.col_edges, block_px)
    tall = min(block_px, max(block_px**2 // int(np.diff(cols).max()), MIN_ROWS))
    return block_edges(level.row_edges, tall), cols


def grouped(keys: NDArray[np.int64], values: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Values by key, each group in ascending order of value."""
    if not len(keys):
        return {}
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return {int(keys[a]): group for a, group in zip(first, np.split(values, first[1:]), strict=True)}


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockPlan:
    """Which windows touch which block. Blocks are numbered row by row.

    Attributes
    ----------
    rows, cols
        Borders of the blocks.
    start, phase, cut
        First tap and sub-pixel phase of each window, and what cuts them.
    whole
        Windows that lie inside a block, by block.
    parts
        Windows of which a block holds a part, by block.
    n_parts
        In how many blocks each window lies.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    start: NDArray[np.int64]
    phase: NDArray[np.int64]
    cut: Resampler
    whole: dict[int, NDArray[np.int64]]
    parts: dict[int, NDArray[np.int64]]
    n_parts: NDArray[np.int64]

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
    """Choose the pyramid level, and assign every window to the blocks that hold its source pixels."""
    windows = plan_windows(xy, mpp=mpp, downsamples=image.downsamples, size_px=size_px, target_mpp=target_mpp)
    level = image.levels[windows.level]
    start = windows.start
    height, width = level.shape
    rows, cols = blocks_of(level, block_px)
    end = start + np.array(windows.taps)
    first = np.clip(start, 0, [width - 1, height - 1])
    last = np.clip(end - 1, 0, [width - 1, height - 1])
    r0, r1 = (np.searchsorted(rows, e[:, 1], side="right") - 1 for e in (first, last))
    c0, c1 = (np.searchsorted(cols, e[:, 0], side="right") - 1 for e in (first, last))
    in_image = (start >= 0).all(axis=1) & (end <= [width, height]).all(axis=1)
    single = in_image & (r0 == r1) & (c0 == c1)
    index, n_cols = np.arange(len(start)), len(cols) - 1
    n_parts = (r1 - r0 + 1) * (c1 - c0 + 1)
    spread = np.repeat(index[~single], n_parts[~single])
    nth = np.arange(len(spread)) - np.repeat(np.cumsum(n_parts[~single]) - n_parts[~single], n_parts[~single])
    wide = (c1 - c0 + 1)[spread]
    plan = BlockPlan(
        rows=rows,
        cols=cols,
        start=start,
        phase=windows.phase,
        cut=resampler(windows),
        whole=grouped((r0 * n_cols + c0)[single], index[single]),
        parts=grouped((r0[spread] + nth // wide) * n_cols + c0[spread] + nth % wide, spread),
        n_parts=n_parts,
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
    """
    if not len(xy):
        return np.zeros(0, dtype=np.int64)
    _, plan = plan_blocks(image, xy, mpp=mpp, size_px=size_px, target_mpp=target_mpp, block_px=block_px)
    last, crosses = np.empty(len(xy), dtype=np.int64), np.zeros(len(xy), dtype=np.bool_)
    for block in plan.order:  # in reading order, so that the last block of a window is the one that stays
        for index, across in ((plan.whole.get(block), False), (plan.parts.get(block), True)):
            if index is not None:
                last[index], crosses[index] = block, across
    return np.lexsort((np.arange(len(xy)), crosses, last))


@dataclass(frozen=True, eq=False, kw_only=True)
class Piece:
    """The part of a window that one block holds: `pixels` belong at `at` (y, x) of the window's patch."""

    index: int
    at: tuple[int, int]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class Done:
    """What comes of one block: finished crops, and pieces of windows that cross its border."""

    index: NDArray[np.int64]
    crops: NDArray[np.uint8]
    pieces: list[Piece]


def do_block(block: int, plan: BlockPlan, level: Level) -> Done:
    """Decode a block and cut what lies in it."""
    y0, y1, x0, x1 = plan.bounds(block)
    pixels = level.read(y0, y1, x0, x1)
    index = plan.whole.get(block, np.zeros(0, dtype=np.int64))
    crops = plan.cut(pixels, plan.start[index] - np.array([x0, y0]), plan.phase[index])
    taps_x, taps_y = plan.cut.taps
    pieces = []
    for i in plan.parts.get(block, ()):
        wx, wy = (int(v) for v in plan.start[i])
        ya, yb, xa, xb = max(wy, y0), min(wy + taps_y, y1), max(wx, x0), min(wx + taps_x, x1)
        part = pixels[ya - y0 : yb - y0, xa - x0 : xb - x0].copy()  # a view would keep the whole block alive
        pieces.append(Piece(index=int(i), at=(ya - wy, xa - wx), pixels=part))
    return Done(index=index, crops=crops, pieces=pieces)


class Border:
    """Windows that cross blocks, while they wait for their last piece.

    Parameters
    ----------
    plan
        Where the windows lie.
    shape
        (height, width) of the level, beyond which the outermost px is repeated.
    """

    def __init__(self, plan: BlockPlan, shape: tuple[int, int]) -> None:
        self.plan, self.shape = plan, shape
        self.pieces: dict[int, list[Piece]] = {}

    def take(self, pieces: list[Piece]) -> list[int]:
        """Keep pieces; return the windows that are complete now."""
        for piece in pieces:
            self.pieces.setdefault(piece.index, []).append(piece)
        touched = dict.fromkeys(piece.index for piece in pieces)
        return [i for i in touched if len(self.pieces[i]) == self.plan.n_parts[i]]

    def patch(self, i: int) -> NDArray[np.uint8]:
        """Join the pieces of a window."""
        taps_x, taps_y = self.plan.cut.taps
        patch = np.zeros((taps_y, taps_x, 3), dtype=np.uint8)
        for piece in self.pieces.pop(i):
            (y, x), (h, w) = piece.at, piece.pixels.shape[:2]
            patch[y : y + h, x : x + w] = piece.pixels
        x0, y0 = self.plan.start[i]
        ys = np.clip(np.arange(y0, y0 + taps_y), 0, self.shape[0] - 1) - y0
        xs = np.clip(np.arange(x0, x0 + taps_x), 0, self.shape[1] - 1) - x0
        return patch[ys[:, None], xs]

    def cut(self, index: list[int]) -> Batch:
        """Crops of complete windows."""
        taps_x, taps_y = self.plan.cut.taps
        tall = np.concatenate([self.patch(i) for i in index])  # one patch under the other
        start = np.column_stack([np.zeros(len(index), np.int64), np.arange(len(index)) * taps_y])
        return np.array(index), self.plan.cut(tall, start, self.plan.phase[index])


def rebatched(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows and crops in batches of `size`, in the order they came; the last may be smaller."""
    held: list[Batch] = []
    count = 0
    for rows, crops in batches:
        start = 0
        while start < len(rows):
            stop = start + min(size - count, len(rows) - start)
            held.append((rows[start:stop], crops[start:stop]))
            count += stop - start
            start = stop
            if count == size:
                yield joined(held)
                held, count = [], 0
    if held:
        yield joined(held)


def joined(held: list[Batch]) -> Batch:
    """One batch of several."""
    if len(held) == 1:
        return held[0]
    rows, crops = zip(*held, strict=True)
    return np.concatenate(rows), np.concatenate(crops)


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
        Positions in `xy`, int64 (b,), and crops, uint8 (b, S, S, 3), about one batch per block.
    """
    if not len(xy):
        return
    level, plan = plan_blocks(image, xy, mpp=mpp, size_px=size_px, target_mpp=target_mpp, block_px=block_px)
    border = Border(plan, level.shape)
    for done in in_order(lambda block: do_block(block, plan, level), plan.order, workers=workers or cpu_count() or 1):
        if len(done.index):
            yield done.index, done.crops
        complete = border.take(done.pieces)
        if complete:
            yield border.cut(complete)
