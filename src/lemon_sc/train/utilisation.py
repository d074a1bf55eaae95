"""How much of what a device can multiply a training step uses."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from lemon_sc.train.schedules import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lemon_sc.train.method import Method
    from lemon_sc.train.views import Augmentation

CROPS = 4
GEMM = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices that are multiplied to measure the peak."""
SECONDS = 0.3


def flops_per_crop(method: Method, recipes: Sequence[Augmentation], *, device: torch.device) -> float:
    """Floating point operations of matrix products and convolutions for one crop: all views, forward and backward.

    Counted, on four crops of noise, on a copy. The products of a contrastive loss with the whole batch are left out.

    Parameters
    ----------
    method
        The method.
    recipes
        One per view; only their sides count.
    device
        Where the method is.

    Returns
    -------
    Operations, two for each multiply-accumulate.
    """
    twin = copy.deepcopy(method).train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        views = [torch.randn(CROPS, 3, r.out_px, r.out_px, device=device) for r in recipes]
        with FlopCounterMode(display=False) as counter:
            loss, _ = twin(views, Progress(step=1, steps=2, epoch_steps=2))
            loss.backward()
    return counter.get_total_flops() / CROPS


def peak_flops(device: torch.device, *, dtype: torch.dtype) -> float:
    """Rate at which a device multiplies large matrices, FLOP/s: the best of the products that fit into 0.3 s.

    Parameters
    ----------
    device
        The device; on the CPU, with the threads that torch uses.
    dtype
        Of the matrices.

    Returns
    -------
    FLOP/s.
    """
    n = GEMM.get(device.type, 1024)
    with torch.random.fork_rng(devices=[]):
        a, b = (torch.randn(n, n).to(device, dtype) for _ in range(2))

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    best, begun = once(), time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        best = min(best, once())
    return 2 * n**3 / best
