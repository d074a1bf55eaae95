"""DINOv2 and its variants for nuclei: with local crops or without, with the KoLeo or the kernel density term.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (TMLR 2024). In a crop of 40 px a local crop
shows a part of a nucleus; the variants leave the local-to-global term out.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.train.distributed import gather_learning_rows, rank_and_world
from lemon_sc.train.heads import DINOHead
from lemon_sc.train.losses import Centre, kde, koleo, masked_loss, pairs_loss, sinkhorn
from lemon_sc.train.masking import batch_masks
from lemon_sc.train.method import MONITOR_EVERY, Method, check_views, width
from lemon_sc.train.monitors import collapse_metrics
from lemon_sc.train.schedules import cosine, linear
from lemon_sc.train.tokens import check_vit, vit_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lemon_sc.train.schedules import Progress

N_GLOBAL = 2
START_MOMENTUM = 0.992
TEACHER_TEMPERATURE = {"over": 30, "start": 0.04, "end": 0.07}
SPREAD = {"koleo": (koleo, 0.1), "kde": (kde, 0.05)}
"""Terms that spread the embeddings, with their weights."""
VARIANTS: dict[str, dict[str, Any]] = {
    "dinov2": {"n_local": 8, "spread": "koleo"},
    "dinov2_no_local": {"n_local": 0, "spread": "koleo"},
    "dinov2_no_local_kde": {"n_local": 0, "spread": "kde"},
}
"""Arguments of the three variants: ``DINOv2(encoder, **VARIANTS["dinov2_no_local_kde"])``."""


class DINOv2(Method):
    """DINOv2 around a ViT.

    ``student`` and ``teacher`` each have a ``backbone`` and a ``head``, which class tokens and masked patches share.
    The teacher stays in eval mode: it drops no path. The weights to use afterwards are the teacher's.

    Parameters
    ----------
    encoder
        A ViT of timm with a class token, without registers and classifier, as `lemon_sc.models.vit_s8_40`. It is
        copied.
    n_local
        Local views, beside two global ones; with 0 the term of global views has the full weight.
    spread
        ``"koleo"`` (weight 0.1) or ``"kde"`` (weight 0.05), of the class tokens of the student, before the head, for
        each global view, over the crops of all processes.
    prototypes
        Outputs of the head; 4,096 to 16,384 where there are less than millions of crops.
    targets
        ``"centre"`` or ``"sinkhorn"``: how a collapse of the teacher onto few prototypes is prevented.
    hidden, bottleneck
        Widths of the head.
    generator
        Source of the head's initial weights; ``None`` seeds one with 0.

    Raises
    ------
    ValueError
        Another kind of encoder, or an unknown `spread` or `targets`.
    """

    layer_decay = 0.9
    patch_lr = 0.2
    frozen_epochs = 1
    metric_names = ("global", "local", "ibot", "spread")

    def __init__(
        self,
        encoder: nn.Module,
        *,
        n_local: int = 8,
        spread: str = "koleo",
        prototypes: int = 65_536,
        targets: str = "centre",
        hidden: int = 2048,
        bottleneck: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_vit(encoder)
        if n_local < 0:
            raise bad_value("n_local", must="be an int >= 0", got=n_local)
        self.n_local = n_local
        self.spread, self.spread_weight = SPREAD[one_of("spread", spread, SPREAD)]
        head = DINOHead(width(encoder), prototypes, hidden=hidden, bottleneck=bottleneck, generator=generator)
        self.student = nn.ModuleDict({"backbone": copy.deepcopy(encoder), "head": head})
        self.teacher: nn.ModuleDict = copy.deepcopy(self.student).requires_grad_(requires_grad=False).eval()
        self.mask_token = nn.Parameter(torch.zeros(1, width(encoder)))
        self.grid: int = cast("Any", encoder).patch_embed.grid_size[0]
        self.targets = one_of("targets", targets, ["centre", "sinkhorn"])
        if self.targets == "centre":
            self.class_centre, self.patch_centre = Centre(prototypes), Centre(prototypes)

    def train(self, mode: bool = True) -> DINOv2:  # noqa: FBT001, FBT002 - torch's own signature
        """Set the mode of all but the teacher, which stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def _student_and_teacher(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.student, self.teacher)]

    def after_step(self, progress: Progress) -> None:
        """Update the teacher, with a momentum that goes from 0.992 to 1."""
        self.update_teacher(cosine(progress.done, start=START_MOMENTUM, end=1.0))

    def encoder_state_dict(self) -> dict[str, torch.Tensor]:
        """Weights of the teacher's backbone."""
        return self.teacher["backbone"].state_dict()

    def forward(
        self, views: Sequence[torch.Tensor], progress: Progress
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of two global views and the local views of each nucleus.

        Parameters
        ----------
        views
            The two global views, (n, 3, 40, 40) for a crop of 40 px, then the local ones, (n, 3, h, h) with h a
            multiple of the patch size. Normalised.
        progress
            Where the run stands. The masks are drawn from its seed and step.

        Returns
        -------
        The loss, and its parts before weighting: ``global``, ``local`` (with local views), ``ibot``, ``spread``; every
        50 steps also ``rank`` and ``cosine`` of the student's class tokens.
        """
        check_views(views, N_GLOBAL + self.n_local, what=f"{N_GLOBAL} global and {self.n_local} local views")
        n = len(views[0])
        images = torch.cat(list(views[:N_GLOBAL]))
        mask = self._masks(n, progress).to(images.device)
        class_targets, patch_targets = self._teacher_targets(images, mask, progress)
        tokens = vit_tokens(self.student["backbone"], images, mask=mask, mask_token=self.mask_token)
        parts = [tokens[:, 0], tokens[:, 1:][mask]]
        if self.n_local:
            parts.append(vit_tokens(self.student["backbone"], torch.cat(list(views[N_GLOBAL:])))[:, 0])
        scores = self.student["head"](torch.cat(parts)).split([len(p) for p in parts])

        by_view = class_targets.view(N_GLOBAL, n, -1)
        total, pairs = pairs_loss(by_view, scores[0].view(N_GLOBAL, n, -1), skip_same=True)
        metrics = {"global": total / pairs}
        if self.n_local:
            local, more = pairs_loss(by_view, scores[2].view(self.n_local, n, -1), skip_same=False)
            metrics["local"] = local / more
            total, pairs = total + local, pairs + more
        metrics["ibot"] = masked_loss(patch_targets, scores[1], mask)
        metrics["spread"] = torch.stack(
            [self.spread(gather_learning_rows(z)) for z in tokens[:, 0].chunk(N_GLOBAL)]
        ).sum()
        loss = total / pairs + metrics["ibot"] + self.spread_weight * metrics["spread"]
        metrics = {name: value.detach() for name, value in metrics.items()}
        if progress.step % MONITOR_EVERY == 0:
            metrics |= collapse_metrics(tokens[:n, 0])
        return loss, metrics

    def _masks(self, n: int, progress: Progress) -> torch.Tensor:
        """Masks of the global views of n crops: a function of seed and step, drawn for the crops of all processes."""
        rank, world = rank_and_world()
        rng = np.random.default_rng([progress.seed, progress.step])
        masks = torch.from_numpy(batch_masks(N_GLOBAL * world * n, rng=rng, grid=self.grid))
        return masks.view(N_GLOBAL, world, n, -1)[:, rank].flatten(0, 1)

    @torch.no_grad()
    def _teacher_targets(
        self, images: torch.Tensor, mask: torch.Tensor, progress: Progress
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities for class tokens (views * n, K) and masked patches (m, K)."""
        tokens = vit_tokens(self.teacher["backbone"], images)
        scores = self.teacher["head"](torch.cat([tokens[:, 0], tokens[:, 1:][mask]]))
        classes, patches = scores.split([len(images), len(scores) - len(images)])
        temperature = linear(progress.epoch, **TEACHER_TEMPERATURE)
        if self.targets == "sinkhorn":
            return sinkhorn(classes, temperature), sinkhorn(patches, temperature)
        return self.class_centre(classes, temperature), self.patch_centre(patches, temperature)
