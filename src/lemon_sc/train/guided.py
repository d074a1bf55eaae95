"""Guidance alone: one view of each nucleus, and the encoder learns to tell what can be measured in it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from lemon_sc.models.lemon import MEAN, STD
from lemon_sc.train.guide import Guide
from lemon_sc.train.method import MONITOR_EVERY, Method, check_views, width
from lemon_sc.train.monitors import collapse_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from lemon_sc.train.guide import Statistics
    from lemon_sc.train.schedules import Progress


class Guided(Method):
    """An encoder whose output tells, through a linear layer, what is measured in the crop (`guide.targets`).

    There is no teacher: a step costs three passes through the encoder, where MoCo v3 takes eight.

    Parameters
    ----------
    encoder
        A ViT of timm without classifier, as `lemon_sc.models.vit_s8_40`, or any module that returns (n, D) and has
        ``dim``. It is copied.
    statistics
        Channel means and deviations with which views are normalised.
    generator
        Source of the linear layer's initial weights; ``None`` seeds one with 0.
    """

    metric_names = Guide.metric_names

    def __init__(
        self,
        encoder: nn.Module,
        *,
        statistics: Statistics = (MEAN, STD),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.guide = Guide(width(encoder), statistics=statistics, generator=generator)

    def _student_and_teacher(self) -> list[tuple[nn.Module, nn.Module]]:
        return []

    def prepare(self, crops: NDArray[np.uint8]) -> None:
        """Take the scales of the targets from crops."""
        self.guide.fit_scales(crops)

    def encoder_state_dict(self) -> dict[str, torch.Tensor]:
        """Weights of the encoder."""
        return self.encoder.state_dict()

    def forward(
        self, views: Sequence[torch.Tensor], progress: Progress
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of one view of each nucleus.

        Parameters
        ----------
        views
            One normalised batch, (n, 3, 40, 40).
        progress
            Where the run stands.

        Returns
        -------
        The loss, and ``guide``, ``explained``; every 50 steps also ``rank`` and ``cosine`` of the features.
        """
        check_views(views, 1, what="one view")
        features = self.encoder(views[0])
        loss, metrics = self.guide(features, views[0])
        if progress.step % MONITOR_EVERY == 0:
            metrics |= collapse_metrics(features)
        return loss, metrics
