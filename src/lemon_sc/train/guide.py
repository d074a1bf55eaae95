"""Guidance by measurement: the class token is to tell what can be measured in the crop that it was shown.

As in masked prediction of handcrafted features (Wei et al., "Masked Feature Prediction for Self-Supervised Visual
Pre-Training", CVPR 2022) the targets are computed from the pixels and need no labels. They are measured on the very
view that the encoder sees, so turned, shifted and recoloured views are new examples with targets of their own.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lemon_sc.models.morphometry import FEATURES, INPUT_PX, measure
from lemon_sc.models.nucleus_mask import UNIT, optical_density, stains
from lemon_sc.train.distributed import gather_rows
from lemon_sc.train.heads import linear_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
N_RINGS, N_ORDERS = 5, 4
"""Rings around the centre, 4 px wide each, and angular orders 0 to 3."""
SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Quantiles of the colours of a crop."""
COLOURS = tuple(f"{colour}_p{round(100 * share):02d}" for share in SHARES for colour in ("red", "green", "blue"))
"""Names of the quantiles, in their order."""
N_TARGETS = len(FEATURES) + 2 * N_RINGS * N_ORDERS + 3 * len(SHARES)
TAILS = (0.5, 99.5)
"""Percentiles to which targets are clipped."""
FLOOR = 1e-6
"""Least deviation of a target; one that is constant in the corpus stays 0."""


@cache
def _waves() -> NDArray[np.complex64]:
    """Angular waves on rings, (INPUT_PX ** 2, N_RINGS * N_ORDERS); a product with an image is a mean over each ring."""
    at = np.arange(INPUT_PX) - (INPUT_PX - 1) / 2
    z = at[None, :] + 1j * at[:, None]
    ring = np.minimum(np.abs(z) / (INPUT_PX / 2) * N_RINGS, N_RINGS).astype(int)  # the corners are in none
    inside = ring[..., None] == np.arange(N_RINGS)
    wave = np.exp(-1j * np.arange(N_ORDERS) * np.angle(z)[..., None])
    waves = inside[..., :, None] * wave[..., None, :] / inside.sum(axis=(0, 1))[:, None]
    return waves.reshape(INPUT_PX**2, -1).astype(np.complex64)


def rings(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Haematoxylin and eosin around the centre: how much on each ring, and how strongly it varies along it.

    For each stain and ring the magnitudes of the angular Fourier coefficients of order 0 to 3. They do not change when
    the crop is flipped or turned by 90 degrees. Order 2 is large for an elongated nucleus, or one of two plates.

    Parameters
    ----------
    crops
        uint8 (n, 40, 40, 3), RGB.

    Returns
    -------
    float32 (n, 40), optical density: 5 rings x 4 orders of haematoxylin, then of eosin.
    """
    found = []
    for stain in stains(optical_density(crops)):
        image = stain.reshape(len(crops), -1).astype(np.float32) / np.float32(UNIT)
        found.append(np.abs(image @ _waves()))
    return np.concatenate(found, axis=1)


def quantiles(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Quantiles of the colours of a crop, those of `SHARES`.

    Parameters
    ----------
    crops
        uint8 (n, S, S, 3), RGB.

    Returns
    -------
    float32 (n, 21), from 0 to 255: 7 quantiles x 3 colours, the colours next to each other.
    """
    n = crops[0, ..., 0].size if len(crops) else 1
    ordered = np.sort(crops.reshape(len(crops), n, 3), axis=1)
    return ordered[:, [int(share * n) for share in SHARES]].reshape(len(crops), -1).astype(np.float32)


def targets(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What is to be told: the measurements of `morphometry`, then `rings` and `quantiles`.

    Crops without a nucleus count, too: there, a disc in the centre is measured, and ``found`` is one of the targets.

    Parameters
    ----------
    crops
        uint8 (n, 40, 40, 3), RGB at 0.25 um/px.

    Returns
    -------
    float32 (n, `N_TARGETS`), finite.
    """
    return np.concatenate([measure(crops), rings(crops), quantiles(crops)], axis=1)


class Guide(nn.Module):
    """A linear layer that tells the targets from class tokens, and the scales of the targets.

    Parameters
    ----------
    dim
        Width of the class token.
    statistics
        Channel means and deviations with which views are normalised.
    generator
        Source of the initial weights, U(-b, b) with ``b = dim ** -0.5``; ``None`` seeds one with 0.
    """

    metric_names = ("guide", "explained")
    low: torch.Tensor
    high: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        dim: int,
        *,
        statistics: Statistics,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.statistics = statistics
        self.head = linear_layer(dim, N_TARGETS, generator=generator)
        for name, value in {"low": -np.inf, "high": np.inf, "mean": 0.0, "deviation": 1.0}.items():
            self.register_buffer(name, torch.full((N_TARGETS,), value))

    def fit_scales(self, crops: NDArray[np.uint8]) -> None:
        """Take the tails, means and deviations of the targets from crops.

        Parameters
        ----------
        crops
            uint8 (n, 40, 40, 3), some thousands.
        """
        found = targets(crops).astype(np.float64)
        low, high = np.percentile(found, TAILS, axis=0)
        found = found.clip(low, high)
        scales = {"low": low, "high": high, "mean": found.mean(axis=0), "deviation": found.std(axis=0) + FLOOR}
        for name, value in scales.items():
            getattr(self, name).copy_(torch.from_numpy(value))

    def readout(self) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
        """The rows of the linear layer that tell what has a name: the measurements and the colours.

        They stay in standard deviations of the crops that the scales were taken from, around their mean: columns of an
        embedding are compared with each other, by a distance or a cosine, and um2 beside optical densities are not.

        Left out are whether a nucleus was found, which hardly varies, and rings. These are means over places, not over
        a nucleus; they teach the encoder, but a probe that is given them beside the others has more to learn by heart.

        Returns
        -------
        Weights (72, D), what they add to, (72,), and the names of the columns.
        """
        rows = [*range(1, len(FEATURES)), *range(N_TARGETS - len(COLOURS), N_TARGETS)]
        return self.head.weight.detach()[rows], self.head.bias.detach()[rows], (*FEATURES[1:], *COLOURS)

    @torch.no_grad()
    def targets_of(self, views: torch.Tensor) -> torch.Tensor:
        """Standardised targets of views, their tails clipped.

        Parameters
        ----------
        views
            Normalised, (n, 3, 40, 40). They are measured on the CPU.

        Returns
        -------
        float32 (n, `N_TARGETS`), where the views are.
        """
        mean, std = (torch.tensor(v, device=views.device)[:, None, None] for v in self.statistics)
        pixels = ((views.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        found = targets(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        there = torch.from_numpy(found).to(views.device)
        return (there.clamp(self.low, self.high) - self.mean) / self.deviation

    def forward(self, tokens: torch.Tensor, views: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean squared error of what the class tokens tell of their views.

        Parameters
        ----------
        tokens
            Class tokens (n, D).
        views
            What the encoder was shown, normalised, (n, 3, 40, 40).

        Returns
        -------
        The loss, and ``guide``, the same, and ``explained``, the share of the variance of the targets in the batch.
        """
        wanted = self.targets_of(views)
        with torch.autocast(tokens.device.type, enabled=False):
            loss = (self.head(tokens.float()) - wanted).square().mean()
        spread = gather_rows(wanted).var(dim=0, correction=0).mean().clamp(min=FLOOR)
        return loss, {"guide": loss.detach(), "explained": 1 - loss.detach() / spread}
