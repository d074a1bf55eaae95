"""A stream of crops in, one embedding per row out, on all devices.

Crops arrive in any order and in batches of any size (`lemon_sc.crops` yields them block by block of the image). They
are regrouped to the batch size of the devices; a thread per device encodes while the stream decodes on.
"""

from __future__ import annotations

from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.log import progress as progress_bar
from lemon_sc._core.threads import thread_pool
from lemon_sc.crops.uncut import Uncut
from lemon_sc.embed.batches import checked, masked, rebatched
from lemon_sc.embed.devices import resolve_batch_size, resolve_devices
from lemon_sc.embed.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from tqdm.auto import tqdm

    from lemon_sc.embed.batches import Batch, Crops
    from lemon_sc.embed.lane import Lane
    from lemon_sc.models.encoder import Encoder

    Encoded = tuple[NDArray[np.int64], Crops, NDArray[np.uint8], NDArray[np.float32]]


def embed_batches(
    batches: Iterable[Batch],
    encoder: Encoder,
    *,
    n: int,
    device: str | Sequence[str] = "auto",
    batch_size: int | str = "auto",
    dtype: str = "auto",
    progress: bool = True,
) -> NDArray[np.float32]:
    """Embed a stream of crops.

    Parameters
    ----------
    batches
        Pairs of row numbers, int64 (b,), and crops, uint8 (b, S, S, 3), in any order and of any size. A row comes at
        most once.
    encoder
        The model.
    n
        Rows of the result.
    device
        ``"auto"`` (all visible CUDA devices, else MPS, else CPU), one name, or several: one replica each.
    batch_size
        Crops at once per device; ``"auto"`` chooses by device. Halved where memory runs out.
    dtype
        ``"auto"`` (bf16 on CUDA devices that have it and for plain ViTs on CPUs with AMX, else fp32), ``"fp32"`` or
        ``"bf16"``.
    progress
        Show a bar.

    Returns
    -------
    float32 (n, D): the embedding of each row, NaN where no crop came. Neither order, nor batch size, nor the number
    of devices changes it, up to rounding.

    Raises
    ------
    ValueError
        Rows outside 0..n-1, given twice, or not one per crop.
    RuntimeError
        Not enough memory for one crop, output that is not finite, reduced precision far from fp32, or one and the
        same vector for different crops.
    """
    result = np.full((n, encoder.card.dim), np.nan, np.float32)
    for rows, z in encoded(batches, encoder, n=n, device=device, batch_size=batch_size, dtype=dtype, progress=progress):
        result[rows] = z
    return result


def encoded(
    batches: Iterable[Batch],
    encoder: Encoder,
    *,
    n: int,
    device: str | Sequence[str] = "auto",
    batch_size: int | str = "auto",
    dtype: str = "auto",
    progress: bool = True,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """`embed_batches` in bounded memory: decoding, encoding and what the caller does with a batch overlap.

    Parameters
    ----------
    batches, encoder, device, batch_size, dtype, progress
        As for `embed_batches`.
    n
        Row numbers are below it; the length of the progress bar.

    Yields
    ------
    (rows, z)
        Row numbers, int64 (b,), and their embeddings, float32 (b, D), in the order in which the crops came.
    """
    devices = resolve_devices(device) if encoder.module is not None or device != "auto" else ["cpu"]
    size = resolve_batch_size(batch_size, devices[0])
    runners = [Runner(encoder, device=name, batch_size=size, dtype=dtype) for name in devices]
    guard = DegenerateGuard(encoder.card.name)
    bar = progress_bar(total=n, desc=f"Embedding ({encoder.card.name})") if progress else None
    try:
        for rows, batch, crops, z in _in_turn(rebatched(checked(batches, n), size), runners):
            if isinstance(batch, Uncut) and batch.seen is not None:
                batch.seen(rows, crops)
            yield rows, z
            if not guard.vectors_differ:
                guard.see(masked(batch, crops), z)
            _advance(bar, len(rows))
    finally:
        if bar is not None:
            bar.close()
    guard.finish()


def _advance(bar: tqdm | None, count: int) -> None:
    if bar is not None:
        bar.update(count)


def _in_turn(batches: Iterable[Batch], runners: Sequence[Runner]) -> Iterator[Encoded]:
    """Rows, what was to be embedded, crops and vectors; at most two batches per lane are under way."""
    idle: SimpleQueue[tuple[Runner, Lane]] = SimpleQueue()
    ways = [(runner, lane) for runner in runners for lane in runner.lanes]
    for way in ways:
        idle.put(way)

    def encode(crops: Crops) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        runner, lane = idle.get()
        try:
            return runner.embed(crops, lane)
        finally:
            idle.put((runner, lane))

    pending: deque[tuple[NDArray[np.int64], Crops, Future[tuple[NDArray[np.uint8], NDArray[np.float32]]]]] = deque()

    def finished() -> Encoded:
        rows, batch, future = pending.popleft()
        return rows, batch, *future.result()

    with thread_pool(len(ways)) as pool:
        try:
            for rows, batch in batches:
                pending.append((rows, batch, pool.submit(encode, batch)))
                if len(pending) >= 2 * len(ways):
                    yield finished()
            while pending:
                yield finished()
        finally:
            for _, _, future in pending:
                future.cancel()


class DegenerateGuard:
    """Raises when different crops all get one and the same vector, as broken kernels of some devices give.

    Parameters
    ----------
    name
        The model's, for the message.
    """

    ENOUGH = 64
    """Crops after which it need not wait for the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.first: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None
        self.crops_differ = False
        self.vectors_differ = False

    def see(self, crops: NDArray[np.uint8], z: NDArray[np.float32]) -> None:
        """Take note of a batch."""
        if self.first is None:
            self.first = crops[0].copy(), z[0].copy()
        self.count += len(z)
        self.vectors_differ = bool((z != self.first[1]).any())
        self.crops_differ = self.crops_differ or bool((crops != self.first[0]).any())
        if self.count >= self.ENOUGH:
            self.finish()

    def finish(self) -> None:
        """Raise if all that was seen is degenerate."""
        if self.crops_differ and not self.vectors_differ:
            msg = (
                f"Model {self.name!r} gave the same vector for {self.count} different crops. The model or the device "
                'computes wrongly: try dtype="fp32" and device="cpu", and check the weights.'
            )
            raise RuntimeError(msg)
