"""Heads on top of an encoder that only training needs: projector and predictor of MoCo v3, head of DINO."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Sequence


def moco_mlp(
    widths: Sequence[int], *, last_norm: bool = True, generator: torch.Generator | None = None
) -> nn.Sequential:
    """Linear layers without bias, each followed by batch normalisation, all but the last by ReLU.

    Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers" (ICCV 2021). The projector of
    a ViT is ``(D, 4096, 4096, 256)`` and its predictor ``(256, 4096, 256)``; a ResNet has ``(D, 4096, 256)`` and
    ``(256, 4096, 256)`` with ``last_norm=False``. On several devices the normalisation must be synchronised
    (`torch.nn.SyncBatchNorm.convert_sync_batchnorm`), or the statistics give the positive away.

    Parameters
    ----------
    widths
        Width of the input, the hidden layers and the output: two or more.
    last_norm
        Whether the output is normalised, then without scale and shift.
    generator
        Source of the initial weights, U(-b, b) with ``b = fan_in ** -0.5``; ``None`` seeds one with 0.

    Returns
    -------
    Module from (n, widths[0]) to (n, widths[-1]).
    """
    if len(widths) < 2:
        raise bad_value("widths", must="name an input and an output", got=tuple(widths))
    draw = _seeded(generator)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        layer = _empty_linear(before, after, bias=False)
        nn.init.uniform_(layer.weight, -(before**-0.5), before**-0.5, generator=draw)
        layers.append(layer)
        if i < len(widths) - 2:
            layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
        elif last_norm:
            layers.append(nn.BatchNorm1d(after, affine=False))
    return nn.Sequential(*layers)


def linear_layer(before: int, after: int, *, generator: torch.Generator | None = None) -> nn.Linear:
    """A linear layer with a bias of 0.

    Parameters
    ----------
    before, after
        Widths of input and output.
    generator
        Source of the initial weights, U(-b, b) with ``b = before ** -0.5``; ``None`` seeds one with 0.

    Returns
    -------
    Module from (n, before) to (n, after).
    """
    layer = _empty_linear(before, after, bias=True)
    nn.init.uniform_(layer.weight, -(before**-0.5), before**-0.5, generator=_seeded(generator))
    nn.init.zeros_(layer.bias)
    return layer


class DINOHead(nn.Module):
    """Scores of a token for each prototype: MLP with GELU, l2 norm, linear layer with weight normalisation.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021), at the widths of DINOv2.

    Parameters
    ----------
    dim
        Width of the encoder.
    prototypes
        Outputs K: 65,536 for millions of crops, 4,096 to 16,384 where there are fewer.
    hidden, bottleneck
        Width of the two hidden layers, and of what is compared with the prototypes.
    generator
        Source of the initial weights: N(0, 0.02) cut at 2 for the MLP, as its biases 0; prototypes start as U(-b, b)
        with ``b = bottleneck ** -0.5``, of which only the direction counts. ``None`` seeds one with 0.
    """

    def __init__(
        self,
        dim: int,
        prototypes: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        draw = _seeded(generator)
        layers: list[nn.Module] = []
        for before, after in pairwise((dim, hidden, hidden, bottleneck)):
            layer = _empty_linear(before, after, bias=True)
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=draw)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.last_layer = WeightNormLinear(bottleneck, prototypes, generator=draw)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From (n, dim) to (n, prototypes)."""
        z = self.mlp(tokens)
        return self.last_layer(F.normalize(z, dim=-1, eps=1e-6 if z.dtype == torch.float16 else 1e-12))


class WeightNormLinear(nn.Module):
    """Linear layer without bias whose rows have a direction and a length of their own, which starts at 1.

    Salimans and Kingma, "Weight Normalization" (NeurIPS 2016).

    Parameters
    ----------
    fan_in, out
        Widths of input and output.
    generator
        Source of the initial directions; ``None`` seeds one with 0.
    """

    def __init__(self, fan_in: int, out: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.direction = nn.Parameter(torch.empty(out, fan_in).uniform_(-bound, bound, generator=_seeded(generator)))
        self.length = nn.Parameter(torch.ones(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (n, fan_in) to (n, out)."""
        return F.linear(x, self.length[:, None] * F.normalize(self.direction, dim=1))


def _seeded(generator: torch.Generator | None) -> torch.Generator:
    return generator if generator is not None else torch.Generator().manual_seed(0)


def _empty_linear(before: int, after: int, *, bias: bool) -> nn.Linear:
    """A layer to be initialised, made without touching the global random state."""
    return nn.utils.skip_init(nn.Linear, before, after, bias=bias)
