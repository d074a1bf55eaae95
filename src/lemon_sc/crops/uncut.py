"""Windows that are still to be cut, for devices that cut crops faster than the CPU.

`stream_uncut` reads the image as `stream_crops` does, block by block and once, and gives the same nuclei in the same
order. What it gives of them is not the crop, but the pixels that it is cut from and where it lies in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import cpu_count
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc.crops.stream import BLOCK_PX, TARGET_MPP, plan_blocks, run_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from lemon_sc.crops.resample import Resampler
    from lemon_sc.crops.stream import PyramidImage

    Seen = Callable[[NDArray[np.int64], NDArray[np.uint8]], None]

GLASS = np.uint8(255)
"""Level of what is masked."""

SPARSE = 4
"""Where windows need less than this part of the pixels that hold them, they are copied out: that takes the CPU about as
long as cutting them would, and spares memory and the way to the device."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sheet:
    """Pixels that hold n windows.

    Attributes
    ----------
    pixels
        uint8 (h, w, 3).
    start
        First tap (x, y) of each window in `pixels`, int (n, 2).
    phase
        Sub-pixel phase (x, y) of each window, int (n, 2).
    """

    pixels: NDArray[np.uint8]
    start: NDArray[np.integer]
    phase: NDArray[np.integer]

    def slim(self, taps: tuple[int, int]) -> Sheet:
        """The same windows, one under the other without what lies between them, where they are few.

        Parameters
        ----------
        taps
            Source px of a window per axis, (x, y).

        Returns
        -------
        A sheet.
        """
        (h, w), (across, down), n = self.pixels.shape[:2], taps, len(self.start)
        if w == across or SPARSE * n * across * down > h * w:
            return self
        lines = np.ascontiguousarray(self.pixels).reshape(h, 3 * w)
        all_windows = np.lib.stride_tricks.sliding_window_view(lines, (down, 3 * across))
        windows = all_windows[self.start[:, 1], 3 * self.start[:, 0]]
        start = np.column_stack([np.zeros(n, np.int64), np.arange(n) * down])
        return Sheet(pixels=windows.reshape(n * down, across, 3), start=start, phase=self.phase)


@dataclass(frozen=True, eq=False, kw_only=True)
class Uncut:
    """Windows of n nuclei that are still to be cut to crops of S px.

    Attributes
    ----------
    sheets
        Where their pixels are, in order.
    cut
        What would cut them here; it holds the weights.
    keep
        What a mask leaves of each crop, bool (n, S, S); None leaves all.
    seen
        Called with row numbers and unmasked crops, uint8 (b, S, S, 3), when they are cut, by the thread that asks for
        the result and before it gets it.
    """

    sheets: tuple[Sheet, ...]
    cut: Resampler
    keep: NDArray[np.bool_] | None = None
    seen: Seen | None = None

    def __len__(self) -> int:
        return sum(len(sheet.start) for sheet in self.sheets)

    def __getitem__(self, part: slice) -> Uncut:
        """A run of consecutive windows."""
        first, last, _ = part.indices(len(self))
        sheets, at = [], 0
        for sheet in self.sheets:
            n = len(sheet.start)
            a, b = max(first - at, 0), min(last - at, n)
            if a < b:
                cut = replace(sheet, start=sheet.start[a:b], phase=sheet.phase[a:b])
                sheets.append(sheet if (a, b) == (0, n) else cut.slim(self.cut.taps))
            at += n
        return replace(self, sheets=tuple(sheets), keep=None if self.keep is None else self.keep[part])

    @staticmethod
    def joined(several: Sequence[Uncut]) -> Uncut:
        """All windows of several batches of one stream.

        Parameters
        ----------
        several
            At least one. Either all of them have a mask, or none.

        Returns
        -------
        The windows in their order.
        """
        masks = [batch.keep for batch in several if batch.keep is not None]
        sheets = tuple(sheet for batch in several for sheet in batch.sheets)
        return replace(several[0], sheets=sheets, keep=np.concatenate(masks) if masks else None)

    def masked(self, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crops as the mask leaves them.

        Parameters
        ----------
        crops
            uint8 (n, S, S, 3), cut from these windows.

        Returns
        -------
        uint8 (n, S, S, 3).
        """
        return crops if self.keep is None else np.where(self.keep[..., None], crops, GLASS)


@dataclass(frozen=True, eq=False, kw_only=True)
class Deferred:
    """In place of a `Resampler`: keeps what it would have cut."""

    cut: Resampler

    @property
    def taps(self) -> tuple[int, int]:
        """Source px of a window per axis, (x, y)."""
        return self.cut.taps

    @property
    def size_px(self) -> int:
        """Side of the crops."""
        return self.cut.size_px

    def __call__(self, pixels: NDArray[np.uint8], start: NDArray[np.integer], phase: NDArray[np.integer]) -> Uncut:
        """Keep windows; parameters as of `Resampler`."""
        sheet = Sheet(pixels=pixels, start=start, phase=phase)
        return Uncut(sheets=(sheet.slim(self.taps),) if len(start) else (), cut=self.cut)


def stream_uncut(
    image: PyramidImage,
    xy: NDArray[np.float64],
    *,
    mpp: tuple[float, float],
    size_px: int = 40,
    target_mpp: float = TARGET_MPP,
    block_px: int = BLOCK_PX,
    workers: int | None = None,
) -> Iterator[tuple[NDArray[np.int64], Uncut]]:
    """Read the pixels around each centre, in image order.

    Parameters
    ----------
    image, xy, mpp, size_px, target_mpp, block_px, workers
        As for `lemon_sc.crops.stream.stream_crops`.

    Yields
    ------
    (index, windows)
        Positions in `xy`, int64 (b,), in the order of `stream_crops`, and what their crops are cut from. That is a
        block of the image, or, where nuclei are sparse, no more than their windows.
    """
    if not len(xy):
        return
    level, plan = plan_blocks(image, xy, mpp=mpp, size_px=size_px, target_mpp=target_mpp, block_px=block_px)
    deferred: Any = Deferred(cut=plan.cut)  # which takes the place of what cuts
    windows: Any = run_plan(level, replace(plan, cut=deferred), workers=workers or cpu_count() or 1)
    yield from windows
