"""Losses of CellViT, with the defaults corrected and the published behaviour behind flags.

Probabilities and one-hot targets are (n, C, H, W); sums run over the batch and its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lemon_sc._core.errors import one_of

if TYPE_CHECKING:
    from collections.abc import Mapping

DICE_EPS, TVERSKY_EPS, MSGE_EPS, PROBABILITY_EPS = 1e-3, 1e-6, 1e-8, 1e-7
ALPHA, BETA, GAMMA = 0.7, 0.3, 4 / 3
"""Weights of missed and of false pixels, and the exponent, of the focal Tversky loss."""
WEIGHTS: dict[str, float] = {
    "np_ft": 1.0, "np_dice": 1.0, "np_ce": 1.0, "hv_mse": 2.5, "hv_msge": 8.0,
    "tp_ce": 0.5, "tp_dice": 0.2, "tp_ft": 0.5,
}  # fmt: skip
"""Of the terms in the sum; ``np_ce`` takes the place of ``np_ft`` with ``np_loss="ce+dice"``."""
NP_LOSSES = ("ft+dice", "ce+dice")


def dice(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Dice loss, summed over classes: ``1 - (2 sum p t + eps) / (sum p + sum t + eps)``.

    Parameters
    ----------
    p, t
        Probabilities and one-hot targets (n, C, H, W).

    Returns
    -------
    A scalar, 0 to C.
    """
    over = (0, 2, 3)
    return (1 - (2 * (p * t).sum(over) + DICE_EPS) / (p.sum(over) + t.sum(over) + DICE_EPS)).sum()


def focal_tversky(p: torch.Tensor, t: torch.Tensor, *, pooled: bool = False) -> torch.Tensor:
    """Focal Tversky loss, summed over channels: ``(1 - TI) ** (4/3)``, ``TI = TP / (TP + .7 FN + .3 FP)``.

    Parameters
    ----------
    p, t
        Probabilities and targets (n, C, H, W).
    pooled
        One index over all channels. Where these are a class and its complement, every missed pixel is a false one, too,
        and the weights .7 and .3 have no effect.

    Returns
    -------
    A scalar.
    """
    over = (0, 1, 2, 3) if pooled else (0, 2, 3)
    hit, missed, false = ((a * b).sum(over) for a, b in ((p, t), (1 - p, t), (p, 1 - t)))
    index = (hit + TVERSKY_EPS) / (hit + ALPHA * missed + BETA * false + TVERSKY_EPS)
    return ((1 - index).clamp(min=0) ** GAMMA).sum()


def cross_entropy(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of probabilities that are clipped at 1e-7.

    Parameters
    ----------
    p, t
        Probabilities and one-hot targets (n, C, H, W).

    Returns
    -------
    A scalar.
    """
    return -(t * p.clamp(PROBABILITY_EPS, 1 - PROBABILITY_EPS).log()).sum(1).mean()


def gradient_kernels(*, legacy: bool = False) -> torch.Tensor:
    """Kernels of 5 x 5 px that differentiate along x (columns), then along y (rows).

    Parameters
    ----------
    legacy
        The published ones, x and y exchanged: the horizontal map is differentiated along the rows, where an ideal one
        is constant.

    Returns
    -------
    Float32 (2, 5, 5).
    """
    at = torch.arange(-2, 3, dtype=torch.float32)
    y, x = torch.meshgrid(at, at, indexing="ij")
    square = x**2 + y**2 + 1e-15
    kernels = torch.stack([x / square, y / square])
    return kernels.flip(0) if legacy else kernels


def msge(hv: torch.Tensor, target: torch.Tensor, nuclei: torch.Tensor, *, legacy_kernel: bool = False) -> torch.Tensor:
    """Mean squared error of the gradients inside nuclei: of the horizontal map along x, of the vertical along y.

    Parameters
    ----------
    hv, target
        Maps (n, 2, H, W).
    nuclei
        1 on nuclei, (n, H, W).
    legacy_kernel
        See `gradient_kernels`.

    Returns
    -------
    A scalar.
    """
    kernels = gradient_kernels(legacy=legacy_kernel).to(hv)[:, None]
    difference = functional.conv2d(hv - target, kernels, padding=2, groups=2)
    mask = nuclei[:, None].to(hv.dtype).expand_as(difference)
    return (mask * difference**2).sum() / (mask.sum() + MSGE_EPS)


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """How the terms are computed."""

    np_loss: str = "ft+dice"
    """Of the nuclei: ``"ft+dice"``, focal Tversky and Dice, or ``"ce+dice"``, cross-entropy and Dice."""
    legacy_pooled: bool = False
    """Focal Tversky of the nuclei over both channels at once, in place of that of the nuclei alone."""
    legacy_double_softmax: bool = False
    """A second softmax before the focal Tversky terms."""
    legacy_kernel: bool = False
    """Gradients of the distance maps along the other axis."""

    def __post_init__(self) -> None:
        one_of("np_loss", self.np_loss, NP_LOSSES)


def loss_terms(
    maps: Mapping[str, torch.Tensor],
    *,
    nuclei: torch.Tensor,
    hv: torch.Tensor,
    types: torch.Tensor | None = None,
    options: LossOptions | None = None,
) -> dict[str, torch.Tensor]:
    """The terms of the loss, without their weights.

    Parameters
    ----------
    maps
        Of `CellViT`.
    nuclei
        Int64 (n, H, W), 0 or 1.
    hv
        Float (n, 2, H, W).
    types
        Int64 (n, H, W), classes; None where there are no types.
    options
        None for the corrected defaults.

    Returns
    -------
    Scalars by the names of `WEIGHTS`.
    """
    options = options or LossOptions()

    def tversky_input(p: torch.Tensor) -> torch.Tensor:
        return p.softmax(1) if options.legacy_double_softmax else p

    p, t = maps["np"].float().softmax(1), one_hot(nuclei, 2)
    found = {"np_dice": dice(p, t)}
    if options.np_loss == "ce+dice":
        found["np_ce"] = cross_entropy(p, t)
    elif options.legacy_pooled:
        found["np_ft"] = focal_tversky(tversky_input(p), t, pooled=True)
    else:
        found["np_ft"] = focal_tversky(tversky_input(p)[:, 1:], t[:, 1:])
    predicted = maps["hv"].float()
    found["hv_mse"] = functional.mse_loss(predicted, hv)
    found["hv_msge"] = msge(predicted, hv, nuclei, legacy_kernel=options.legacy_kernel)
    if types is not None and "tp" in maps:
        p, t = maps["tp"].float().softmax(1), one_hot(types, maps["tp"].shape[1])
        found["tp_ce"] = cross_entropy(p, t)
        found["tp_dice"] = dice(p, t)
        found["tp_ft"] = focal_tversky(tversky_input(p), t)
    return found


def weighted_sum(terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The loss: terms times their `WEIGHTS`.

    Parameters
    ----------
    terms
        From `loss_terms`.

    Returns
    -------
    A scalar with a gradient.
    """
    return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()


def one_hot(classes: torch.Tensor, n: int) -> torch.Tensor:
    """Classes (n, H, W) as float32 (n, C, H, W).

    Parameters
    ----------
    classes
        Int64.
    n
        How many there are.

    Returns
    -------
    1 in the channel of the class, 0 in the others.
    """
    return functional.one_hot(classes, n).movedim(-1, 1).float()
