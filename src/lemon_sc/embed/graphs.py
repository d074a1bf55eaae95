"""A forward pass that is recorded once and replayed: one launch in place of a hundred and more.

A large batch keeps a GPU busy for longer than its launches take, so that this is no gain by itself. It is one where
threads that decode, or that serve other GPUs, keep Python from launching in time.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import torch

from lemon_sc._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    Forward = Callable[[torch.Tensor], torch.Tensor]

STEADY = 3
"""Batches of one size in a row after which one is recorded: a short run never pays for it."""

CLOSE = 0.02
"""How far, relative and absolute, a replay may be from the pass that it repeats: the rounding of bfloat16."""

_ONE_AT_A_TIME = Lock()  # a process can record one graph at a time


class Replayed:
    """A forward pass that replays a recording of itself for batches of the size that keeps coming.

    A recording that fails, or that does not give what the pass itself gives, is thrown away, and never tried again.

    Parameters
    ----------
    forward
        The pass: a tensor on a CUDA device to another one there, no Python in between that depends on values.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.gave_up = False
        self._size = self._in_a_row = 0
        self._replay: Forward | None = None

    def __call__(self, x_NHWC: torch.Tensor) -> torch.Tensor:
        """The pass; what it returns is to be copied, by the same stream, before the next call.

        Parameters
        ----------
        x_NHWC
            A batch.

        Returns
        -------
        What `forward` returns.
        """
        replay, n = self._replay, len(x_NHWC)
        if replay is not None:
            return replay(x_NHWC) if n == self._size else self.forward(x_NHWC)
        made = self.forward(x_NHWC)
        self._in_a_row = self._in_a_row + 1 if n == self._size else 1
        self._size = n
        if self._in_a_row == STEADY and not self.gave_up:
            self._try(x_NHWC, made)
        return made

    def drop(self) -> None:
        """Give back the memory of the recording; batches of another size may be recorded later."""
        self._replay, self._in_a_row = None, 0

    def _try(self, x_NHWC: torch.Tensor, made: torch.Tensor) -> None:
        try:
            replay = record(self.forward, x_NHWC)
            again = replay(x_NHWC)
        except RuntimeError as error:  # whatever the driver or a kernel has against it: it is but faster
            self.gave_up = True
            logger.info("No CUDA graph on %s: %s", x_NHWC.device, error)
            return
        if not torch.allclose(again.float(), made.float(), rtol=CLOSE, atol=CLOSE):
            self.gave_up = True
            logger.warning("A CUDA graph on %s does not repeat what it recorded: going on without", x_NHWC.device)
            return
        self._replay = replay


def record(forward: Forward, x_NHWC: torch.Tensor) -> Forward:
    """Record a pass on the current stream.

    Parameters
    ----------
    forward
        Has run there before, so that libraries have set themselves up.
    x_NHWC
        A batch; others of its shape can be replayed.

    Returns
    -------
    The replay. It returns the same memory every time.

    Raises
    ------
    RuntimeError
        The pass does something that cannot be recorded, or memory runs out.
    """
    given, graph = x_NHWC.clone(), torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream(x_NHWC.device)
    with _ONE_AT_A_TIME, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        made = forward(given)

    def replay(x_NHWC: torch.Tensor) -> torch.Tensor:
        given.copy_(x_NHWC)
        graph.replay()
        return made

    return replay
