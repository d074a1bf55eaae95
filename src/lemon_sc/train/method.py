"""What all self-supervised methods share: a teacher that follows a student, and groups of parameters."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lemon_sc.train.schedules import Progress

NOT_DECAYED = ("pos_embed", "cls_token", "mask_token")
FROZEN = "last_layer"
MONITOR_EVERY = 50


class Method(nn.Module, ABC):
    """A student, a teacher that follows it, and a loss; the encoder that is being trained is the student's.

    ``method(views, progress)`` returns the loss, a scalar with a gradient, and metrics, detached scalars by name. After
    the optimiser's step call ``method.after_step(progress)``. Wrap it in DistributedDataParallel as it is.
    """

    layer_decay = 1.0
    """Factor of the learning rate from one transformer block to the block before it."""
    patch_lr = 1.0
    """Factor of the learning rate of the patch embedding."""
    frozen_epochs = 0
    """Epochs before the last layer of a head learns."""
    metric_names: tuple[str, ...] = ()
    """Metrics of every step, beside the loss; ``rank`` and ``cosine`` come now and then."""

    @abstractmethod
    def forward(
        self, views: Sequence[torch.Tensor], progress: Progress
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and metrics of one batch."""

    def prepare(self, crops: NDArray[np.uint8]) -> None:
        """Take from crops of the corpus what a run needs to know of them; nothing, unless a method says otherwise.

        Parameters
        ----------
        crops
            uint8 (n, S, S, 3) of the side of a view, some thousands, before the first step.
        """

    def after_step(self, progress: Progress) -> None:
        """What follows the optimiser's step of `progress`; nothing, unless a method says otherwise."""

    @abstractmethod
    def encoder_state_dict(self) -> dict[str, torch.Tensor]:
        """Weights to use afterwards, without heads, which load into an encoder like the one that was passed."""

    @abstractmethod
    def _student_and_teacher(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Modules of the student, each with the one of the teacher that follows it."""

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student: ``xi <- m xi + (1 - m) theta``.

        Parameters only: running statistics of batch normalisations are the teacher's own.

        Parameters
        ----------
        momentum
            m, from 0, a copy of the student, to 1, no change.

        Raises
        ------
        ValueError
            A momentum outside this range.
        """
        if not 0 <= momentum <= 1:
            raise bad_value("momentum", must="be from 0 to 1", got=momentum)
        for student, teacher in self._student_and_teacher():
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimiser of all that learns: frozen parameters and the teacher are in none.

        Biases, norms and whatever else has one dimension, position embedding, class token and mask token do not decay.

        Parameters
        ----------
        weight_decay
            That of the groups that decay.

        Returns
        -------
        Groups with ``params`` and ``weight_decay``, and with ``lr_scale``, ``decay_scale`` (0 or 1) and
        ``frozen_epochs``, which `schedules.set_rates` reads.
        """
        depth = 1 + max((n for n in (_block(name) for name, _ in self._learning()) if n is not None), default=-1)
        groups: dict[tuple[float, int, int], list[nn.Parameter]] = {}
        for name, parameter in self._learning():
            decays = parameter.ndim > 1 and name.rpartition(".")[2] not in NOT_DECAYED
            scale = self.layer_decay ** (depth + 1 - _layer(name, depth))
            scale *= self.patch_lr if ".patch_embed." in name else 1.0
            frozen = self.frozen_epochs if FROZEN in name.split(".") else 0
            groups.setdefault((scale, int(decays), frozen), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": weight_decay * decays,
             "lr_scale": scale, "decay_scale": decays, "frozen_epochs": frozen}
            for (scale, decays, frozen), parameters in groups.items()
        ]  # fmt: skip

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)


def _block(name: str) -> int | None:
    found = re.search(r"\.blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def _layer(name: str, depth: int) -> int:
    """0 for what comes before the first block, 1 and up for the blocks, ``depth + 1`` for what follows them."""
    block = _block(name)
    if block is not None:
        return block + 1
    return 0 if ".patch_embed." in name or name.rpartition(".")[2] in NOT_DECAYED else depth + 1


def width(encoder: nn.Module) -> int:
    """Width of an encoder's output: its ``dim``, or its ``num_features``, as timm calls it.

    Parameters
    ----------
    encoder
        A module.

    Returns
    -------
    Columns of what it gives.

    Raises
    ------
    ValueError
        It says neither.
    """
    found = getattr(encoder, "dim", getattr(encoder, "num_features", None))
    if not isinstance(found, int):
        fix = "Set `encoder.dim` to the width of its output."
        raise bad_value("encoder", must="say its width as `dim` or `num_features`", got=type(encoder).__name__, fix=fix)
    return found


def check_views(views: Sequence[torch.Tensor], n: int, *, what: str) -> None:
    """Raise unless there are `n` views of the same two or more nuclei.

    Parameters
    ----------
    views
        What a method was given.
    n
        How many it needs.
    what
        The same in words, for the message.

    Raises
    ------
    ValueError
        Another number of views, or views that do not fit together.
    """
    shapes = [tuple(v.shape) for v in views]
    if len(views) != n or len({s[:1] for s in shapes}) != 1 or any(len(s) != 4 for s in shapes) or shapes[0][0] < 2:
        raise bad_value("views", must=f"be {what}, each (n, 3, height, width) with the same n >= 2", got=shapes)
