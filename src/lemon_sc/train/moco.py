"""MoCo v3: a nucleus is told from all others of the batch by another view of it.

Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers" (ICCV 2021).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.models.lemon import MEAN, STD
from lemon_sc.train.distributed import gather_rows, rank_and_world
from lemon_sc.train.guide import Guide
from lemon_sc.train.heads import moco_mlp
from lemon_sc.train.method import MONITOR_EVERY, Method, check_views, width
from lemon_sc.train.monitors import collapse_metrics
from lemon_sc.train.schedules import cosine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lemon_sc.train.guide import Statistics
    from lemon_sc.train.schedules import Progress

START_MOMENTUM = 0.99


def contrastive_loss(
    queries: torch.Tensor, keys: torch.Tensor, *, temperature: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE of queries against the keys of all processes, times ``2 T``.

    Anchors, with N rows in all: with all rows alike it is ``2 T ln N``; with aligned positives and orthogonal negatives
    it is ``2 T ln(1 + (N - 1) exp(-1 / T))``, which is the floor in practice.

    Parameters
    ----------
    queries
        (n, D); row j goes with row j of `keys`. Of any length: both are normalised.
    keys
        (n, D); no gradient reaches them.
    temperature
        T, above 0.

    Returns
    -------
    The loss, and the share of queries whose own key is the nearest, without a gradient.
    """
    if temperature <= 0:
        raise bad_value("temperature", must="be > 0", got=temperature)
    with torch.autocast(queries.device.type, enabled=False):
        q = F.normalize(queries.float(), dim=1)
        k = gather_rows(F.normalize(keys.float(), dim=1))
        logits = q @ k.T / temperature
        own = torch.arange(len(q), device=q.device) + len(q) * rank_and_world()[0]
        loss = 2 * temperature * F.cross_entropy(logits, own)
    return loss, (logits.detach().argmax(1) == own).float().mean()


class MoCoV3(Method):
    """MoCo v3 around an encoder.

    The online encoder with its projector, ``base_encoder``, is followed by ``momentum_encoder``; ``predictor`` acts on
    the former only. Names and heads are those of published checkpoints: ``base_encoder.head`` is the projector and what
    else begins with ``base_encoder.`` is the encoder, where this is a ViT of timm. Any other module is found below
    ``base_encoder.trunk``. Batch normalisations are to be synchronised where there are several devices.

    Parameters
    ----------
    encoder
        A ViT of timm without classifier, as `lemon_sc.models.vit_s8_40`, or any module that returns (n, D) and has
        ``dim``. It is copied.
    heads
        ``"vit"``: a projector of three layers and a predictor with a norm at its end; ``"resnet"``: two layers, and
        none.
    hidden, out
        Width of the hidden layers of both heads, and of their output.
    temperature
        Of the loss; 0.2 for a ViT, 1 for a ResNet.
    freeze_patch_embed
        Whether the patch projection stays as it was drawn, which keeps the training of ViTs stable. ``None``: where
        there is one.
    guide
        Weight of guidance by measurement (`lemon_sc.train.guide`), which takes a third view; 0 for none.
    statistics
        Channel means and deviations with which views are normalised; for the guidance.
    generator
        Source of the heads' initial weights; ``None`` seeds one with 0.

    Raises
    ------
    ValueError
        An encoder whose width is unknown, which has a classifier, or no patch projection to freeze.
    """

    metric_names: tuple[str, ...] = ("accuracy", "momentum")

    def __init__(
        self,
        encoder: nn.Module,
        *,
        heads: str = "vit",
        hidden: int = 4096,
        out: int = 256,
        temperature: float = 0.2,
        freeze_patch_embed: bool | None = None,
        guide: float = 0.0,
        statistics: Statistics = (MEAN, STD),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        vit = one_of("heads", heads, ["vit", "resnet"]) == "vit"
        draw = generator if generator is not None else torch.Generator().manual_seed(0)
        dim = width(encoder)
        projector = moco_mlp((dim, hidden, hidden, out) if vit else (dim, hidden, out), generator=draw)
        self.base_encoder = _with_head(copy.deepcopy(encoder), projector)
        self._freeze_patches(freeze=freeze_patch_embed)
        self.momentum_encoder = copy.deepcopy(self.base_encoder).requires_grad_(requires_grad=False)
        self.predictor = moco_mlp((out, hidden, out), last_norm=vit, generator=draw)
        self.temperature = temperature
        if guide < 0:
            raise bad_value("guide", must="be >= 0", got=guide)
        self.guide_weight = guide
        self.guide = Guide(dim, statistics=statistics, generator=draw) if guide else None
        if self.guide is not None:
            self.metric_names = (*self.metric_names, *self.guide.metric_names)

    def _freeze_patches(self, *, freeze: bool | None) -> None:
        projection = getattr(getattr(self.base_encoder, "patch_embed", None), "proj", None)
        if projection is None and freeze:
            raise bad_value(
                "freeze_patch_embed", must="be False or None for an encoder without patch embedding", got=freeze
            )
        if projection is not None and (freeze or freeze is None):
            projection.requires_grad_(requires_grad=False)

    def _student_and_teacher(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.base_encoder, self.momentum_encoder)]

    def prepare(self, crops: NDArray[np.uint8]) -> None:
        """Take the scales of the targets of the guidance from crops."""
        if self.guide is not None:
            self.guide.fit_scales(crops)

    def encoder_state_dict(self) -> dict[str, torch.Tensor]:
        """Weights of the online encoder, without the projector."""
        own = self.base_encoder.state_dict()
        prefix = "trunk." if isinstance(self.base_encoder, _Headed) else ""
        return {k.removeprefix(prefix): v for k, v in own.items() if not k.startswith("head.")}

    def forward(
        self, views: Sequence[torch.Tensor], progress: Progress
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of two views of each nucleus, each predicting the other.

        In training mode the momentum encoder is updated here, before its keys are taken, with a momentum that goes from
        0.99 to 1.

        Parameters
        ----------
        views
            Two normalised batches, (n, 3, H, W); with guidance a third one, (n, 3, 40, 40).
        progress
            Where the run stands.

        Returns
        -------
        The loss, and ``accuracy``, ``momentum``; with guidance ``guide``, ``explained``; every 50 steps also ``rank``
        and ``cosine`` of the features.
        """
        if self.guide is None:
            check_views(views, 2, what="two views")
        else:
            check_views(views, 3, what="two views and one to be measured")
        pair = views[:2]
        features = [_features(self.base_encoder, x) for x in pair]
        q1, q2 = (self.predictor(self.base_encoder.head(h)) for h in features)
        momentum = cosine(progress.done, start=START_MOMENTUM, end=1.0)
        with torch.no_grad():
            if self.training:
                self.update_teacher(momentum)
            k1, k2 = (self.momentum_encoder(x) for x in pair)
        first, hit1 = contrastive_loss(q1, k2, temperature=self.temperature)
        second, hit2 = contrastive_loss(q2, k1, temperature=self.temperature)
        metrics = {"accuracy": (hit1 + hit2) / 2, "momentum": torch.tensor(momentum)}
        if progress.step % MONITOR_EVERY == 0:
            metrics |= collapse_metrics(features[0])
        loss = first + second
        if self.guide is not None:
            told, more = self.guide(_features(self.base_encoder, views[2]), views[2])
            loss, metrics = loss + self.guide_weight * told, metrics | more
        return loss, metrics


class _Headed(nn.Module):
    """A module that returns (n, D), and a head, with the names that timm gives to the parts of a network."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk(x)

    def forward_head(self, x: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x))


def _with_head(encoder: nn.Module, head: nn.Module) -> Any:
    """The encoder with a head; in place of the classifier, where it is a network of timm that keeps a place for one."""
    if not all(hasattr(encoder, name) for name in ("forward_features", "forward_head", "head")):
        return _Headed(encoder, head)
    if not isinstance(encoder.head, nn.Identity):
        fix = "Build it with num_classes=0."
        raise bad_value("encoder", must="have no classifier", got=type(encoder.head).__name__, fix=fix)
    encoder.head = head
    return encoder


def _features(encoder: Any, x: torch.Tensor) -> torch.Tensor:
    """Output of the encoder below its head."""
    return encoder.forward_head(encoder.forward_features(x), pre_logits=True)
