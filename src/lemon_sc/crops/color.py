"""The colours of a slide as mean and spread in CIELAB, and its pixels with those of another slide.

The statistics of RandStainNA (Y. Shen et al., MICCAI 2022), used to normalise: one mean and one standard deviation per
channel, taken over the tissue of a slide. They are not taken crop by crop, which would make all nuclei alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from skimage.color import lab2rgb, rgb2lab

from lemon_sc._core.errors import bad_value
from lemon_sc.crops.stain import LIGHT, MIN_OD

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_STD = 1e-4
"""Standard deviation below which a channel counts as constant."""

_BATCH = 1 << 20  # pixels converted at once


@dataclass(frozen=True, eq=False, kw_only=True)
class ColorStatistics:
    """Colour of the tissue of a slide.

    Attributes
    ----------
    mean, std
        Of L, a and b in CIE units, float64 (3,) each.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != (3,) or not np.isfinite(value).all() or (name == "std" and value.min() < MIN_STD):
                must = "be three finite numbers" + (f" >= {MIN_STD:g}" if name == "std" else "")
                raise bad_value(name, must=must, got=getattr(self, name))
            object.__setattr__(self, name, value)


REFERENCE_COLORS = ColorStatistics(
    mean=np.array([158.03 * 100 / 255, 151.19 - 128, 116.81 - 128]), std=np.array([36.90 * 100 / 255, 8.13, 6.13])
)
"""Averages over colorectal images that the authors of RandStainNA publish, in CIE units."""


def stained(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are tissue: optical density of 0.15 or more in a channel.

    Parameters
    ----------
    pixels
        RGB, uint8 (..., 3).

    Returns
    -------
    Bool (...).
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim < 1 or pixels.shape[-1] != 3:
        raise bad_value("pixels", must="be uint8 (..., 3) in RGB", got=f"{pixels.dtype} {pixels.shape}")
    return np.asarray(pixels.min(axis=-1) + 1.0 <= LIGHT * np.exp(-MIN_OD))


def estimate_colors(pixels: NDArray[np.uint8], *, min_pixels: int = 100) -> ColorStatistics | None:
    """Mean and standard deviation of the tissue of one slide.

    Parameters
    ----------
    pixels
        RGB, uint8 (..., 3), of one slide; glass is left out.
    min_pixels
        Fewest pixels of tissue to estimate from.

    Returns
    -------
    The estimate, or None where there is too little tissue, or it has a single colour.
    """
    tissue = np.asarray(pixels)[stained(pixels)]
    if len(tissue) < max(min_pixels, 2):
        return None
    lab = _to_lab(tissue)
    mean, std = lab.mean(axis=0), lab.std(axis=0)
    return ColorStatistics(mean=mean, std=std) if std.min() >= MIN_STD else None


def match_colors(
    pixels: NDArray[np.uint8], estimate: ColorStatistics, *, reference: ColorStatistics = REFERENCE_COLORS
) -> NDArray[np.uint8]:
    """Show pixels in the colours of another slide; glass stays as it is.

    Parameters
    ----------
    pixels
        RGB, uint8 (..., 3).
    estimate
        Colours of the slide they are from.
    reference
        Colours to show them in. What sRGB cannot show is clipped.

    Returns
    -------
    uint8, in the shape of `pixels`.
    """
    out = np.array(pixels)
    tissue = stained(out)
    lab = (_to_lab(out[tissue]) - estimate.mean) / estimate.std * reference.std + reference.mean
    lab[:, 0] = np.clip(lab[:, 0], 0, 100)
    lab[:, 2] = np.minimum(lab[:, 2], 199.9 * (lab[:, 0] + 16) / 116)  # yellower than this there is no colour
    rgb = [lab2rgb(lab[start : start + _BATCH][None])[0] for start in range(0, len(lab), _BATCH)]
    out[tissue] = np.rint(255 * np.concatenate([*rgb, np.zeros((0, 3))])).astype(np.uint8)
    return out


def _to_lab(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIELAB (white point D65) of pixels (n, 3)."""
    parts = [rgb2lab(pixels[start : start + _BATCH][None])[0] for start in range(0, len(pixels), _BATCH)]
    return np.concatenate([*parts, np.zeros((0, 3))]).astype(np.float64)
