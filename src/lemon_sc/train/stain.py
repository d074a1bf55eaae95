"""Other laboratories' stains: colour statistics drawn from those of many nuclei, and stain amounts varied.

`StainMixture` is the mixture form of RandStainNA (Y. Shen et al., MICCAI 2022): mean and standard deviation of the
three CIELAB channels are drawn together, so that lightness and hue go with each other as they do between slides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.rng import as_generator
from lemon_sc.crops.stain import LIGHT, MIN_OD
from lemon_sc.train.lab import lab_to_rgb, rgb_to_lab

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc._core.rng import RNG

MIN_STD = 1e-4
"""Standard deviation below which a channel counts as constant."""

MIN_NUCLEI = 30
"""Fewest nuclei per component to fit a mixture to."""

_LOW = (0.0, -128.0, -128.0)
_HIGH = (100.0, 127.0, 127.0)
_BATCH = 4096


def lab_statistics(crops: torch.Tensor, *, size_px: int = 40) -> torch.Tensor:
    """Mean and standard deviation of every crop's CIELAB channels.

    Parameters
    ----------
    crops
        RGB, uint8 (n, S, S, 3), on any device.
    size_px
        Side of the central part that is measured, px.

    Returns
    -------
    Float32 (n, 6) on the device of `crops`: mean of L, a, b, then their standard deviation (over all pixels).
    """
    if crops.dtype != torch.uint8 or crops.ndim != 4 or crops.shape[3] != 3:
        raise bad_value("crops", must="be uint8 (n, S, S, 3)", got=f"{crops.dtype} {tuple(crops.shape)}")
    margin = (crops.shape[1] - size_px) // 2
    if margin < 0 or crops.shape[2] != crops.shape[1]:
        raise bad_value("crops", must=f"be squares of {size_px} px or more", got=tuple(crops.shape))
    part = slice(margin, margin + size_px)
    rows = [
        channel_statistics(rgb_to_lab(batch[:, part, part].permute(0, 3, 1, 2).float() / 255))
        for batch in crops.split(_BATCH)
    ]
    return torch.cat(rows) if rows else torch.zeros(0, 6, device=crops.device)


def channel_statistics(images: torch.Tensor) -> torch.Tensor:
    """Mean of the three channels of every image (n, 3, h, w), then their standard deviation: (n, 6).

    Parameters
    ----------
    images
        Float (n, 3, h, w).

    Returns
    -------
    Float (n, 6).
    """
    std, mean = torch.std_mean(images, dim=(2, 3), correction=0)
    return torch.cat([mean, std], dim=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class StainMixture:
    """A Gaussian mixture over the CIELAB statistics of nuclei. `dataclasses.asdict` of it can be stored.

    Attributes
    ----------
    weights
        Share of each component, float64 (k,), sums to 1.
    means
        Float64 (k, 6): mean of L, a, b, then their standard deviation.
    covariances
        Float64 (k, 6, 6).
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("weights", "means", "covariances"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if not np.isfinite(value).all():
                raise bad_value(name, must="be finite", got=value)
            object.__setattr__(self, name, value)
        k = len(np.atleast_1d(self.weights))
        if self.weights.shape != (k,) or self.weights.min() < 0 or not np.isclose(self.weights.sum(), 1):
            raise bad_value("weights", must="be shares >= 0 that sum to 1, (k,)", got=self.weights)
        if self.means.shape != (k, 6):
            raise bad_value("means", must=f"be ({k}, 6), as there are {k} weights", got=self.means.shape)
        if self.covariances.shape != (k, 6, 6):
            raise bad_value("covariances", must=f"be ({k}, 6, 6)", got=self.covariances.shape)
        try:
            np.linalg.cholesky(self.covariances)
        except np.linalg.LinAlgError:
            raise bad_value("covariances", must="be positive definite", got="one that is not") from None

    @classmethod
    def fit(
        cls,
        statistics: Any,
        *,
        n_components: int = 10,
        covariance: Literal["full", "diag"] = "full",
        rng: RNG = 0,
    ) -> StainMixture:
        """Fit to the statistics of training nuclei; 50,000 from all slides are a good number.

        Parameters
        ----------
        statistics
            (n, 6), from `lab_statistics`: an array or a tensor.
        n_components
            Number of Gaussians.
        covariance
            ``"full"``, or ``"diag"`` to draw the six numbers independently of each other (with one component: the
            original RandStainNA with normal distributions).
        rng
            Seed or generator of the fit's start.

        Returns
        -------
        The mixture.
        """
        from sklearn.mixture import GaussianMixture

        one_of("covariance", covariance, ("full", "diag"))
        values = statistics.cpu().numpy() if isinstance(statistics, torch.Tensor) else np.asarray(statistics)
        values = values.astype(np.float64)
        if values.ndim != 2 or values.shape[1] != 6 or not np.isfinite(values).all():
            raise bad_value("statistics", must="be finite (n, 6), from `lab_statistics`", got=values.shape)
        if isinstance(n_components, bool) or not isinstance(n_components, int) or n_components < 1:
            raise bad_value("n_components", must="be an int >= 1", got=n_components)
        if len(values) < MIN_NUCLEI * n_components:
            must = f"hold {MIN_NUCLEI} nuclei or more per component ({MIN_NUCLEI * n_components})"
            raise bad_value("statistics", must=must, got=len(values), fix="Use fewer components, or more nuclei.")
        centre, scale = values.mean(axis=0), np.maximum(values.std(axis=0), MIN_STD)
        model = GaussianMixture(n_components, covariance_type=covariance, random_state=_seed(rng))
        model.fit((values - centre) / scale)
        spread = model.covariances_ if covariance == "full" else np.stack([np.diag(c) for c in model.covariances_])
        return cls(
            weights=model.weights_ / model.weights_.sum(),
            means=centre + scale * model.means_,
            covariances=spread * np.outer(scale, scale),
        )

    def sample(self, component: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        """Statistics from uniform and normal numbers, limited to what CIELAB holds.

        Parameters
        ----------
        component
            Uniform in [0, 1), (n,): which component.
        normal
            Standard normal, (n, 6).

        Returns
        -------
        Float32 (n, 6), on the device of `normal`.
        """
        device, n_components = normal.device, len(self.weights)
        edges = torch.as_tensor(np.cumsum(self.weights), dtype=torch.float32, device=device)
        which = torch.bucketize(component, edges, right=True).clamp(max=n_components - 1)
        roots = torch.as_tensor(np.linalg.cholesky(self.covariances), dtype=torch.float32, device=device)
        means = torch.as_tensor(self.means, dtype=torch.float32, device=device)
        drawn = means[which] + (roots[which] @ normal[:, :, None])[:, :, 0]
        low = torch.tensor([*_LOW, *[MIN_STD] * 3], device=device)
        high = torch.tensor([*_HIGH, *[torch.inf] * 3], device=device)
        return torch.minimum(torch.maximum(drawn, low), high)


def _seed(rng: RNG) -> int:
    return int(as_generator(rng).integers(2**31))


def restain(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Give every image the CIELAB statistics of a draw.

    Parameters
    ----------
    images
        RGB in [0, 1], float (n, 3, h, w).
    target
        (n, 6), from `StainMixture.sample`.

    Returns
    -------
    RGB in [0, 1]; colours that sRGB cannot show are clipped.
    """
    lab = rgb_to_lab(images)
    mean, std = channel_statistics(lab)[:, :, None, None].split(3, dim=1)
    new_mean, new_std = target[:, :, None, None].split(3, dim=1)
    return lab_to_rgb((lab - mean) / std.clamp(min=MIN_STD) * new_std + new_mean)


def vary_stains(images: torch.Tensor, vectors: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Multiply and add to the amounts of haematoxylin and eosin, where there is stain.

    Glass (optical density below 0.15 in all channels) stays as it is, and so does, everywhere, the light that neither
    stain explains: factors of 1 and summands of 0 return the image.

    Parameters
    ----------
    images
        RGB in [0, 1], float (n, 3, h, w).
    vectors
        Of a `StainEstimate`, (3, 2), for all images.
    change
        (n, 4): factor of haematoxylin, of eosin, then what is added to either.

    Returns
    -------
    RGB in [0, 1].
    """
    density = -torch.log((images * 255 + 1) / LIGHT)
    factors, summands = change.split(2, dim=1)
    matrix = torch.einsum("is,ns,sj->nij", vectors, factors - 1, torch.linalg.pinv(vectors))
    more = torch.einsum("nij,njhw->nihw", matrix, density) + (summands @ vectors.T)[:, :, None, None]
    stained = density.amax(1, keepdim=True) >= MIN_OD
    varied = (LIGHT * torch.exp(-(density + more)) - 1) / 255
    return torch.where(stained, varied, images).clamp(0, 1)
