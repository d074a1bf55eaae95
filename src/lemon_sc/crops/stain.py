"""Haematoxylin and eosin by Macenko's method: the stains of a slide, and its pixels as another slide would show them.

M. Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIGHT = 240.0
"""Level of light that passed through no stain (Macenko's Io)."""

MIN_OD = 0.15
"""Optical density below which a pixel holds too little stain to tell which (Macenko's beta)."""

EXTREME = 1.0
"""Percent of the pixels beyond either stain's direction (Macenko's alpha)."""

FULL = 99.0
"""Percentile of a stain's amount that is matched between slides."""

MIN_ANGLE = 10.0
"""Degrees between the stains below which there is one stain, not two."""

LOWEST = -0.05
"""Component of a stain vector below which it is none: a stain does not emit light."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StainEstimate:
    """The two stains of a slide.

    Attributes
    ----------
    vectors
        Optical density (natural log) per unit of stain, float64 (3, 2): rows R, G, B; columns haematoxylin, eosin, each
        of length 1.
    strength
        99th percentile of the amount of haematoxylin and eosin over all pixels, float64 (2,).
    """

    vectors: NDArray[np.float64]
    strength: NDArray[np.float64]

    def __post_init__(self) -> None:
        vectors, strength = np.asarray(self.vectors, dtype=np.float64), np.asarray(self.strength, dtype=np.float64)
        if vectors.shape != (3, 2) or not np.isfinite(vectors).all() or np.linalg.matrix_rank(vectors) < 2:
            raise bad_value("vectors", must="be two independent stains, finite (3, 2)", got=self.vectors)
        if strength.shape != (2,) or not (np.isfinite(strength).all() and (strength > 0).all()):
            raise bad_value("strength", must="be two finite numbers > 0", got=self.strength)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "strength", strength)


REFERENCE = StainEstimate(
    vectors=np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]]), strength=np.array([1.9705, 1.0308])
)
"""The slide that published implementations of the method normalise to."""


def _density(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Optical density, (pixels, 3)."""
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim < 1 or pixels.shape[-1] != 3:
        raise bad_value("pixels", must="be uint8 (..., 3) in RGB", got=f"{pixels.dtype} {pixels.shape}")
    return -np.log((pixels.reshape(-1, 3) + 1.0) / LIGHT)


def estimate_stains(pixels: NDArray[np.uint8], *, min_pixels: int = 100) -> StainEstimate | None:
    """Find the haematoxylin and the eosin of one slide.

    A single nucleus holds too little eosin: pass the slide, or at least 1,000 of its crops together.

    Parameters
    ----------
    pixels
        RGB, uint8 (..., 3), of one slide.
    min_pixels
        Fewest pixels with stain in every channel to estimate from.

    Returns
    -------
    The estimate, or None where there is none to be had: too few stained pixels, stains less than 10 degrees apart, or a
    direction that no stain can have.
    """
    density = _density(pixels)
    stained = density[(density >= MIN_OD).all(axis=1)]
    if len(stained) < max(min_pixels, 3):
        return None
    plane = np.linalg.eigh(np.cov(stained, rowvar=False))[1][:, [2, 1]]  # eigenvalues ascend
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)  # else angles may wrap
    across, up = (stained @ plane).T
    edges = np.percentile(np.arctan2(up, across), [EXTREME, 100 - EXTREME])
    vectors = plane @ np.stack([np.cos(edges), np.sin(edges)])
    vectors = vectors[:, np.argsort(-vectors[0])]  # haematoxylin absorbs more red
    angle = np.degrees(np.arccos(np.clip(vectors[:, 0] @ vectors[:, 1], -1, 1)))
    if angle < MIN_ANGLE or vectors.min() < LOWEST:
        return None
    strength = np.percentile(density @ np.linalg.pinv(vectors).T, FULL, axis=0)
    return StainEstimate(vectors=vectors, strength=strength) if (strength > 0).all() else None


def normalize_stains(
    pixels: NDArray[np.uint8], estimate: StainEstimate, *, reference: StainEstimate = REFERENCE
) -> NDArray[np.uint8]:
    """Show pixels in the stains of another slide.

    Amounts of stain are kept up to one factor per stain, which matches the strengths; light that neither stain explains
    is dropped. By the published formula a level is (level + 1) on the way in and not minus 1 on the way out.

    Parameters
    ----------
    pixels
        RGB, uint8 (..., 3). About 100 bytes of memory per pixel are needed: pass large sets in parts.
    estimate
        The stains of the slide they are from.
    reference
        The stains to show them in.

    Returns
    -------
    uint8, in the shape of `pixels`.
    """
    to_amount = np.linalg.pinv(estimate.vectors)
    gain = reference.strength / estimate.strength
    density = _density(pixels) @ (reference.vectors @ (gain[:, None] * to_amount)).T
    return np.rint(np.minimum(LIGHT * np.exp(-density), 255.0)).astype(np.uint8).reshape(np.shape(pixels))
