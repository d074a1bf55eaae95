"""What the losses need from other processes; with one process, nothing happens."""

from __future__ import annotations

import torch
import torch.distributed as dist


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
    """Sum over all processes, in place."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


@torch.no_grad()
def max_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Maximum over all processes, in place."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values
