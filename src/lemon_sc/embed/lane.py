"""A way through a device: crops are brought there or cut there, encoded, and their vectors brought back.

A CUDA device has two lanes, each a thread with a stream of its own: while the batch of one is computed, that of the
other is uploaded, or its vectors come back and are written.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from lemon_sc.crops.on_device import DeviceCutter, stage, to_device
from lemon_sc.crops.uncut import GLASS, Uncut
from lemon_sc.embed.graphs import Replayed
from lemon_sc.models.encoder import as_matrix, fit_crops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from lemon_sc.embed.batches import Crops
    from lemon_sc.models.cards import ModelCard

LANES = {"cuda": 2}
"""How many by kind of device; others have one."""


class Lane:
    """One way through one device.

    Parameters
    ----------
    forward
        Takes uint8 (n, S, S, 3) on the device, S of the card, and returns (n, D) there.
    card
        The model's.
    device
        Name of the device. What `forward` reads is there, or on its way by the current stream.
    """

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor], card: ModelCard, *, device: str) -> None:
        self.forward, self.card = forward, card
        self.device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        self._cutter: tuple[object, DeviceCutter] | None = None
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)
            self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def run(self, batch: Crops) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Embed a batch.

        Parameters
        ----------
        batch
            Crops, uint8 (n, S, S, 3), or windows that are cut here.

        Returns
        -------
        The crops, uint8 (n, S, S, 3), not masked, and their vectors, float32 (n, D).
        """
        if not isinstance(batch, Uncut):
            fit = fit_crops(batch, self.card.input_px)
            with self._here():
                rows = self._encode(to_device(fit, self.device))
            return batch, rows.numpy()
        size = batch.cut.size_px
        fit_crops(np.broadcast_to(GLASS, (0, size, size, 3)), self.card.input_px)  # says so if they cannot fit
        margin = (size - self.card.input_px) // 2
        inside = slice(margin, size - margin)
        with self._here():
            x_NHWC = self._cut(batch)
            crops = self._home(x_NHWC)
            if batch.keep is not None:
                x_NHWC = x_NHWC.masked_fill(~to_device(batch.keep, self.device)[..., None], int(GLASS))
            rows = self._encode(x_NHWC[:, inside, inside])
        return crops.numpy(), rows.numpy()

    @contextmanager
    def _here(self) -> Iterator[None]:
        """On this lane's stream; at the end, all that was asked of the device is done."""
        with torch.inference_mode():
            if self._stream is None:
                yield
                return
            with torch.cuda.stream(self._stream):
                yield
            self._stream.synchronize()

    def _encode(self, x_NHWC: torch.Tensor) -> torch.Tensor:
        """Vectors on the host, float32 (N, D), once the stream is done."""
        made = self.forward(x_NHWC)
        if not torch.is_tensor(made) or made.shape != (len(x_NHWC), self.card.dim):
            as_matrix(made, n=len(x_NHWC), card=self.card)  # says what is wrong with it
        return self._home(made.float())

    def release(self) -> None:
        """Give back memory of the device that is kept from batch to batch."""
        if isinstance(self.forward, Replayed):
            self.forward.drop()

    def _cut(self, windows: Uncut) -> torch.Tensor:
        if self._cutter is None or self._cutter[0] is not windows.cut:
            self._cutter = windows.cut, DeviceCutter(windows.cut, self.device)
        return self._cutter[1](windows)

    def _home(self, there: torch.Tensor) -> torch.Tensor:
        """Copy to the host; from a CUDA device, it is there when the stream has got so far."""
        if self.device.type != "cuda":
            return there.cpu()
        here = stage(tuple(there.shape), there.dtype, self.device)
        return here.copy_(there, non_blocking=True)
