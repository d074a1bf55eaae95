"""What changes over a run, as pure functions of the step: a resumed run sees the same values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; methods derive from it all that changes over a run, masks included."""

    step: int
    """Steps made so far: 0 in the first."""
    steps: int
    """Steps of the whole run."""
    epoch_steps: int
    """Steps of an epoch."""
    seed: int = 0
    """Seed of what a method draws, the masks; the same in all processes."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise bad_value("steps", must="be an int >= 1", got=self.steps)
        if self.epoch_steps < 1:
            raise bad_value("epoch_steps", must="be an int >= 1", got=self.epoch_steps)
        if not 0 <= self.step <= self.steps:
            raise bad_value("step", must=f"be from 0 to `steps`, which is {self.steps}", got=self.step)

    @property
    def epoch(self) -> float:
        """Epochs made so far, with the fraction of the present one."""
        return self.step / self.epoch_steps

    @property
    def done(self) -> float:
        """Fraction of the run that is done."""
        return self.step / self.steps


def cosine(done: float, *, start: float, end: float) -> float:
    """Half a cosine from `start`, at ``done=0``, to `end`, at ``done=1``.

    The momentum of both methods follows it, to 1: ``m(t) = 1 - (1 - m0) (1 + cos(pi t)) / 2``.

    Parameters
    ----------
    done
        Fraction of the run that is done.
    start, end
        First and last value.

    Returns
    -------
    The value at `done`.
    """
    return end - (end - start) * (1 + math.cos(math.pi * done)) / 2


def linear(at: float, *, over: float, start: float, end: float) -> float:
    """Straight line from `start`, at 0, to `end`, at `over` and ever after.

    Parameters
    ----------
    at
        Where on the line, in the unit of `over`: steps or epochs.
    over
        Length of the ramp; 0 gives `end` at once.
    start, end
        First and last value.

    Returns
    -------
    The value.
    """
    return end if at >= over else start + (end - start) * at / over


def warmup_cosine(step: int, *, steps: int, warmup: int, peak: float, end: float = 0.0) -> float:
    """Learning rate: linear from 0 to `peak` over `warmup` steps, then half a cosine to `end`.

    Parameters
    ----------
    step
        Steps made so far.
    steps
        Steps of the whole run.
    warmup
        Steps of the ramp, fewer than `steps`.
    peak
        Value at the end of the ramp.
    end
        Value at the end of the run.

    Returns
    -------
    The learning rate of the step.

    Raises
    ------
    ValueError
        `warmup` leaves no step.
    """
    if not 0 <= warmup < steps:
        raise bad_value("warmup", must=f"be from 0 to below `steps`, which is {steps}", got=warmup)
    if step < warmup:
        return peak * step / warmup
    return cosine((step - warmup) / (steps - warmup), start=peak, end=end)


def linear_lr(base: float, batch_size: int) -> float:
    """Learning rate of MoCo v3, in proportion to the batch.

    Parameters
    ----------
    base
        Learning rate at 256 images.
    batch_size
        Images per step of all processes together.

    Returns
    -------
    The learning rate of the batch.
    """
    return base * batch_size / 256


def sqrt_lr(base: float, batch_size: int) -> float:
    """Learning rate of DINOv2, in proportion to the root of the batch.

    Parameters
    ----------
    base
        Learning rate at 1024 images.
    batch_size
        Images per step of all processes together.

    Returns
    -------
    The learning rate of the batch.
    """
    return base * math.sqrt(batch_size / 1024)


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float, epoch: float) -> None:
    """Set learning rate and weight decay of the groups that ``method.parameter_groups`` made, in place.

    Parameters
    ----------
    optimizer
        Built on these groups.
    lr
        Learning rate; a group gets its ``lr_scale`` of it, and 0 until its ``frozen_epochs`` are over.
    weight_decay
        Weight decay; a group gets its ``decay_scale`` of it, 0 or 1.
    epoch
        Epochs made so far.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"] if epoch >= group["frozen_epochs"] else 0.0
        group["weight_decay"] = weight_decay * group["decay_scale"]
