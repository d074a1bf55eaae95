"""Crops in image order: every block of the image is decoded once, whatever the number of nuclei in it.

Peers read the image once per nucleus. Here nuclei are grouped by image block; blocks are decoded ahead by a pool of
threads, and all windows of a block are gathered and resampled together. A window that crosses blocks waits, as a small
patch, until its last block has come by, so memory is bounded by a few blocks.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from lemon_sc.crops.resample import axis_weights, resample
from lemon_sc.geometry.windows import Windows, plan_windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

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


@dataclass(kw_only=True)
class Patch:
    """A window that crosses blocks, while it waits for the rest of its pixels."""

    pixels: NDArray[np.uint8]
    missing: int = field(default=0)


def block_edges(edges: Sequence[int], block_px: int) -> NDArray[np.int64]:
    """Thin out chunk borders so that blocks are whole chunks, at least `block_px` wide where chunks are smaller."""
    kept = [int(edges[0])]
    for edge in edges[1:-1]:
        if edge - kept[-1] >= block_px:
            kept.append(int(edge))
    return np.array([*kept, int(edges[-1])], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """Which windows touch which block. Blocks are numbered row by row."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
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


def grouped(keys: NDArray[np.int64], values: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Values by key, each group in ascending order of value."""
    if not len(keys):
        return {}
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return {int(keys[a]): group for a, group in zip(first, np.split(values, first[1:]), strict=True)}


def plan_blocks(windows: Windows, level: Level, *, block_px: int = BLOCK_PX) -> BlockPlan:
    """Assign every window to the blocks that hold its source pixels."""
    height, width = level.shape
    rows, cols = block_edges(level.row_edges, block_px), block_edges(level.col_edges, block_px)
    n_cols = len(cols) - 1
    lo, hi = windows.start, windows.start + np.array(windows.taps)
    first = np.clip(lo, 0, [width - 1, height - 1])
    last = np.clip(hi - 1, 0, [width - 1, height - 1])
    r0, r1 = (np.searchsorted(rows, e[:, 1], side="right") - 1 for e in (first, last))
    c0, c1 = (np.searchsorted(cols, e[:, 0], side="right") - 1 for e in (first, last))
    in_image = (lo >= 0).all(axis=1) & (hi <= [width, height]).all(axis=1)
    single = in_image & (r0 == r1) & (c0 == c1)
    index = np.arange(len(lo))
    n_parts = (r1 - r0 + 1) * (c1 - c0 + 1)
    spread = np.repeat(index[~single], n_parts[~single])
    nth = np.concatenate([np.arange(k) for k in n_parts[~single]]) if len(spread) else np.zeros(0, dtype=np.int64)
    wide = (c1 - c0 + 1)[spread]
    part_block = (r0[spread] + nth // wide) * n_cols + c0[spread] + nth % wide
    return BlockPlan(
        rows=rows,
        cols=cols,
        whole=grouped((r0 * n_cols + c0)[single], index[single]),
        parts=grouped(part_block, spread),
        n_parts=n_parts,
    )


def decoded(plan: BlockPlan, level: Level, *, workers: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode the planned blocks in order, `workers` at a time and as many ahead."""
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="lemon_sc-decode") as pool:
        ahead: deque[tuple[int, Future[NDArray[np.uint8]]]] = deque()
        try:
            for block in plan.order:
                ahead.append((block, pool.submit(level.read, *plan.bounds(block))))
                if len(ahead) > workers:
                    number, future = ahead.popleft()
                    yield number, future.result()
            while ahead:
                number, future = ahead.popleft()
                yield number, future.result()
        finally:
            for _, future in ahead:
                future.cancel()


def window_view(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Every window of an image (h, w, 3) as a view (h', w', height, width * 3), whose rows are contiguous to copy."""
    pixels = np.ascontiguousarray(pixels)
    h, w, _ = pixels.shape
    row, column, sample = pixels.strides
    shape = (h - height + 1, w - width + 1, height, width * 3)
    return np.lib.stride_tricks.as_strided(pixels, shape, (row, column, row, sample), writeable=False)


def gathered(
    windows: Windows, plan: BlockPlan, level: Level, *, workers: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Source patches (b, Ky, Kx, 3) of the windows, as their blocks come by."""
    taps_x, taps_y = windows.taps
    waiting: dict[int, Patch] = {}
    for block, pixels in decoded(plan, level, workers=workers):
        y0, y1, x0, x1 = plan.bounds(block)
        if (index := plan.whole.get(block)) is not None:
            view = window_view(pixels, taps_y, taps_x)
            at = windows.start[index] - [x0, y0]
            for some in np.array_split(np.arange(len(index)), -(-len(index) // 4096)):
                yield index[some], view[at[some, 1], at[some, 0]].reshape(-1, taps_y, taps_x, 3)
        done = []
        for i in plan.parts.get(block, ()):
            patch = waiting.get(i)
            if patch is None:
                blank = np.zeros((taps_y, taps_x, 3), dtype=np.uint8)
                patch = waiting[i] = Patch(pixels=blank, missing=int(plan.n_parts[i]))
            wx, wy = windows.start[i]
            ya, yb, xa, xb = max(wy, y0), min(wy + taps_y, y1), max(wx, x0), min(wx + taps_x, x1)
            patch.pixels[ya - wy : yb - wy, xa - wx : xb - wx] = pixels[ya - y0 : yb - y0, xa - x0 : xb - x0]
            patch.missing -= 1
            if not patch.missing:
                done.append(i)
        if done:
            yield np.array(done), np.stack([waiting.pop(i).pixels for i in done])


def rebatched(
    pieces: Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]], batch: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Join and cut pieces so that every batch but the last has `batch` rows."""
    held: list[tuple[NDArray[np.int64], NDArray[np.uint8]]] = []
    n = 0
    for piece in pieces:
        held.append(piece)
        n += len(piece[0])
        while n >= batch:
            index, patches = (np.concatenate(part) for part in zip(*held, strict=True))
            yield index[:batch], patches[:batch]
            held, n = [(index[batch:], patches[batch:])], n - batch
    if n:
        index, patches = (np.concatenate(part) for part in zip(*held, strict=True))
        yield index, patches


def stream_crops(
    image: PyramidImage,
    xy: NDArray[np.float64],
    *,
    mpp: tuple[float, float],
    size_px: int = 40,
    target_mpp: float = TARGET_MPP,
    batch: int = 1024,
    block_px: int = BLOCK_PX,
    workers: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
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
    batch
        Crops per yield. Neither this nor `block_px`, `workers` and `device` change a crop.
    block_px
        Least width of the blocks that are decoded at once.
    workers
        Decoding threads; None takes one per core.
    device
        Where the resampling runs.

    Yields
    ------
    (index, crops)
        Positions in `xy`, int64 (b,), and crops, uint8 (b, S, S, 3).
    """
    if not len(xy):
        return
    windows = plan_windows(xy, mpp=mpp, downsamples=image.downsamples, size_px=size_px, target_mpp=target_mpp)
    level = image.levels[windows.level]
    plan = plan_blocks(windows, level, block_px=block_px)
    pieces = gathered(windows, plan, level, workers=workers or cpu_count() or 1)
    for index, patches in rebatched(pieces, batch):
        weights_x, weights_y = (
            axis_weights(
                windows.offset[index, axis],
                windows.start[index, axis],
                scale=windows.scale[axis],
                size_px=size_px,
                taps=windows.taps[axis],
                length=level.shape[1 - axis],
                device=device,
            )
            for axis in (0, 1)
        )
        crops = resample(torch.from_numpy(patches).to(device), weights_y, weights_x)
        yield index, crops.cpu().numpy()
