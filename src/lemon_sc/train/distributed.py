"""What training needs from other processes; with one process, nothing happens."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from lemon_sc.embed.devices import resolve_devices

if TYPE_CHECKING:
    from collections.abc import Iterator


def rank_and_world() -> tuple[int, int]:
    """Number of this process and of all; (0, 1) where `torch.distributed` is not in use."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@torch.no_grad()
def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, those of rank 0 first, without a gradient.

    Parameters
    ----------
    rows
        (n, D), with the same n in every process: drop the last, incomplete batch.

    Returns
    -------
    (n * world, D).
    """
    _, world = rank_and_world()
    if world == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(world)]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, in place.

    Parameters
    ----------
    values
        Of this process.

    Returns
    -------
    `values`.
    """
    if rank_and_world()[1] > 1:
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


@torch.no_grad()
def max_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Maximum over all processes, in place.

    Parameters
    ----------
    values
        Of this process.

    Returns
    -------
    `values`.
    """
    if rank_and_world()[1] > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


class _Sum(torch.autograd.Function):
    """Sum over all processes, whose gradient is summed, too."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        out = values.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        out = grads[0].contiguous().clone()
        dist.all_reduce(out)
        return out


def gather_learning_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, those of rank 0 first, with the gradient that all processes have for them.

    A loss of all rows, which every process computes, has after the mean of DistributedDataParallel the gradient that it
    has in one process.

    Parameters
    ----------
    rows
        (n, D), with the same n in every process.

    Returns
    -------
    (n * world, D).
    """
    rank, world = rank_and_world()
    if world == 1:
        return rows
    n = len(rows)
    places = rows.new_zeros(world * n, *rows.shape[1:])
    return _Sum.apply(torch.cat([places[: rank * n], rows, places[(rank + 1) * n :]]))


class SyncNorm(nn.modules.batchnorm._BatchNorm):
    """A batch normalisation over the rows of all processes, on any device, under the names that it had.

    Parameters
    ----------
    norm
        What it takes the place of; its parameters and running statistics are taken over, not copied.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(0, eps=norm.eps, momentum=norm.momentum, affine=False)
        self.num_features, self.affine = norm.num_features, norm.affine
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(n, channels, ...), with the same n in every process."""
        world = rank_and_world()[1]
        if not self.training or world == 1:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            x = input.float()
            others = [d for d in range(x.ndim) if d != 1]
            count = x.numel() // x.shape[1] * world
            shape = (1, -1, *[1] * (x.ndim - 2))
            mean = _Sum.apply(x.sum(others)) / count
            x = x - mean.view(shape)
            variance = _Sum.apply(x.square().sum(others)) / count
            self._remember(mean, variance * (count / max(count - 1, 1)))
            x = x * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def synchronise_norms(module: nn.Module) -> None:
    """Have all batch normalisations below a module see the rows of all processes, in place.

    Parameters
    ----------
    module
        The module; itself no batch normalisation.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SyncNorm):
                setattr(parent, name, SyncNorm(child))


@contextmanager
def processes(device: str = "auto") -> Iterator[torch.device]:
    """The device of this process, and, where torchrun started several, the group that they form.

    Parameters
    ----------
    device
        ``"auto"``: a GPU if there is one, each process its own; or ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.

    Yields
    ------
    The device, once.

    Raises
    ------
    ValueError
        A device that this machine lacks.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    found = torch.device(resolve_devices(name)[0])
    if found.type == "cuda":
        torch.cuda.set_device(found)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized()
    if not alone:
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    try:
        yield found
    finally:
        if not alone:
            dist.destroy_process_group()


def check_alike(step: int) -> None:
    """Wait for all processes, and raise unless all stand at the same step.

    Parameters
    ----------
    step
        Where this process stands.

    Raises
    ------
    RuntimeError
        They do not: each found another checkpoint.
    """
    world = rank_and_world()[1]
    if world == 1:
        return
    steps: list[Any] = [None] * world
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        msg = f"The processes stand at steps {steps}. Is `out` a folder that all of them share?"
        raise RuntimeError(msg)
