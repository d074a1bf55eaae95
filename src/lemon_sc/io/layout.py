"""What it costs to read an image as it is stored, before anything is read.

A store is slow where its chunks, strips or frames are far larger than what is wanted of them: one chunk of 50,000 x
50,000 px is decoded whole for a single nucleus, and a frame that a reader cut up afterwards is decoded for every piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import cpu_count
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_BYTES = 256_000_000
"""More than this in memory per thread is hungry."""

MAX_TIMES = 2.0
"""Decoding every px more often than this is slow."""

SMALL_PX = 1_000_000_000
"""Decoding so many px altogether takes some seconds; below that, doing it again does not matter."""


@dataclass(frozen=True, kw_only=True)
class ReadCost:
    """What reading a level in blocks costs.

    Attributes
    ----------
    unit
        Rows and columns that are decoded at once.
    block
        Rows and columns of the largest block that is read at once.
    times
        How often each px is decoded, on average.
    bytes_per_thread
        Memory of a block and of what is decoded for it.
    n_px
        Size of the level.
    """

    unit: tuple[int, int]
    block: tuple[int, int]
    times: float
    bytes_per_thread: int
    n_px: int

    @property
    def slow(self) -> bool:
        """Whether the image should be rewritten in smaller chunks first."""
        return self.bytes_per_thread > MAX_BYTES or (self.times > MAX_TIMES and self.times * self.n_px > SMALL_PX)


def _decoded(edges: Sequence[int], unit: int) -> int:
    """Rows (or columns) decoded when each stretch between `edges` is read on its own, in whole units."""
    borders = np.asarray(edges, dtype=np.int64)
    first, last = borders[:-1] // unit * unit, -(-borders[1:] // unit) * unit
    return int((np.minimum(last, borders[-1]) - first).sum())


def read_cost(level: Any, rows: Sequence[int], cols: Sequence[int], *, n_channels: int = 3) -> ReadCost:
    """Cost of reading a level in blocks.

    Parameters
    ----------
    level
        Level of a `lemon_sc.io.image.Image`.
    rows, cols
        Borders of the blocks, first 0 and last the height and width.
    n_channels
        Bytes per px.

    Returns
    -------
    The cost.
    """
    (height, width), unit = level.shape, tuple(min(u, n) for u, n in zip(level.unit, level.shape, strict=True))
    block = int(np.diff(rows).max()), int(np.diff(cols).max())
    times = _decoded(rows, unit[0]) * _decoded(cols, unit[1]) / (height * width)
    n_bytes = n_channels * (block[0] * block[1] + unit[0] * unit[1])
    return ReadCost(unit=unit, block=block, times=times, bytes_per_thread=n_bytes, n_px=height * width)


def explain(cost: ReadCost, image_key: str) -> str:
    """The cost in words, and what to do about it.

    Parameters
    ----------
    cost
        The cost.
    image_key
        Name of the image.

    Returns
    -------
    A few sentences.
    """
    threads = cpu_count() or 1
    blocks = -(-cost.n_px // (cost.block[0] * cost.block[1]))
    total = cost.bytes_per_thread * min(threads, blocks)
    size = f"{total / 1e9:,.1f} GB" if total >= 1e9 else f"{total / 1e6:,.0f} MB"
    again = f" and decodes every px {cost.times:,.0f} times" if cost.times > MAX_TIMES else ""
    return (
        f"{image_key!r} is slow to read as it is stored: {cost.unit[0]:,} x {cost.unit[1]:,} px are decoded at once, "
        f"which takes about {size} of memory{again}. Rewrite it once, in small chunks: "
        f"`lm.pp.rechunk(sdata, image_key={image_key!r}, path=...)`."
    )


def warn_if_slow(level: Any, rows: Sequence[int], cols: Sequence[int], *, image_key: str) -> ReadCost:
    """Log a warning if reading a level in these blocks is slow or takes much memory.

    Parameters
    ----------
    level, rows, cols
        As for `read_cost`.
    image_key
        Name of the image, for the message.

    Returns
    -------
    The cost.
    """
    cost = read_cost(level, rows, cols)
    if cost.slow:
        logger.warning(explain(cost, image_key))
    return cost
