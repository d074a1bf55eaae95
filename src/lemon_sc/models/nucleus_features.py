"""Measurements of a nucleus: shape, stain, texture, surroundings. Kernels on stacks of crops.

Shapes: n crops, S px per side. Images and masks are (n, S, S), results (n,). Lengths are in um.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lemon_sc.models.nucleus_pixels import (
    DIRECTIONS,
    TINY,
    Image,
    Mask,
    area_px,
    convex_hull,
    edge_px,
    ellipse,
    masked_mean,
    masked_moments,
    masked_quantiles,
    perimeter_px,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Columns = dict[str, NDArray[np.floating]]


def shape_columns(mask: Mask, *, mpp: float) -> Columns:
    """Size and outline of the nucleus.

    Parameters
    ----------
    mask
        The nucleus, bool (n, S, S).
    mpp
        um per px.

    Returns
    -------
    Values (n,) by name of the feature.
    """
    area = area_px(mask).astype(np.float64)
    perimeter = perimeter_px(mask)
    x, y, xx, yy, xy = ellipse(mask)
    half, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major, minor = 4 * np.sqrt(half + spread), 4 * np.sqrt(np.maximum(half - spread, 1 / 12))
    hull, width = convex_hull(mask)
    box = (width * np.roll(width, DIRECTIONS // 4, axis=1)).min(axis=1)
    return {
        "area_um2": area * mpp**2,
        "perimeter_um": perimeter * mpp,
        "equivalent_diameter_um": np.sqrt(4 * area / np.pi) * mpp,
        "major_axis_um": major * mpp,
        "minor_axis_um": minor * mpp,
        "max_feret_um": width.max(axis=1) * mpp,
        "min_feret_um": width.min(axis=1) * mpp,
        "eccentricity": np.sqrt(1 - np.minimum(minor / major, 1) ** 2),
        "axis_ratio": minor / major,
        "circularity": np.minimum(4 * np.pi * area / perimeter**2, 1),
        "solidity": area / hull,
        "extent": area / box,
        "centre_offset_um": np.hypot(x, y) * mpp,
        "cut_fraction": np.minimum(edge_px(mask) / perimeter, 1),
    }


def stain_columns(h: Image, e: Image, od: Image, nucleus: Mask, ring: Mask, *, mpp: float) -> Columns:
    """Optical density of the nucleus, and how it stands out from the ring around it.

    Parameters
    ----------
    h, e
        Haematoxylin and eosin, optical density.
    od
        Optical density of R, G, B, (n, S, S, 3).
    nucleus, ring
        The nucleus, and its surroundings without other nuclei.
    mpp
        um per px.

    Returns
    -------
    Values (n,) by name of the feature.
    """
    columns: Columns = {}
    for name, image in (("h", h), ("e", e)):
        mean, sd, skew, kurtosis = masked_moments(image, nucleus)
        around, around_sd, _, _ = masked_moments(image, ring)
        columns |= {
            f"{name}_mean": mean,
            f"{name}_sd": sd,
            f"{name}_ring_mean": around,
            f"{name}_ring_sd": around_sd,
            f"{name}_contrast": mean - around,
        }
        if name == "h":
            columns |= {"h_skewness": skew, "h_kurtosis": kurtosis}
    quantiles = masked_quantiles(h, nucleus, (0.05, 0.25, 0.5, 0.75, 0.95))
    columns |= dict(zip(("h_p05", "h_p25", "h_p50", "h_p75", "h_p95"), quantiles, strict=True))
    columns |= {f"od_{c}_mean": masked_mean(od[..., k], nucleus) for k, c in enumerate(("red", "green", "blue"))}
    columns["h_total_um2"] = columns["h_mean"] * area_px(nucleus) * mpp**2
    return columns


def texture_columns(h: Image, scales: Sequence[Image], nucleus: Mask, core: Mask) -> Columns:
    """Chromatin: how haematoxylin varies inside the nucleus, at which scale, and from rim to core.

    Parameters
    ----------
    h
        Haematoxylin.
    scales
        `h` smoothed by wider and wider filters; differences of neighbours are bands of detail.
    nucleus, core
        The nucleus, and the part of it away from the outline.

    Returns
    -------
    Values (n,) by name of the feature.
    """
    columns: Columns = {}
    for k, (fine, coarse) in enumerate(pairwise((h, *scales)), start=1):
        columns[f"grain_{k}"] = masked_moments(fine - coarse, core)[1]
    gradient, laplacian = derivatives(scales[0])
    columns |= {
        "gradient_mean": masked_mean(gradient, core),
        "laplacian_energy": masked_mean(laplacian**2, core),
        "gradient_outline": masked_mean(gradient, nucleus & ~core),
        "h_rim_core": masked_mean(h, nucleus & ~core) - masked_mean(h, core),
    }
    darkest = np.where(core, scales[0], -np.inf).max(axis=(1, 2))
    palest = np.where(core, scales[0], np.inf).min(axis=(1, 2))
    columns |= {"h_range": darkest - palest} | cooccurrence_columns(h, nucleus)
    return columns


def derivatives(image: Image) -> tuple[Image, Image]:
    """Gradient magnitude (central differences) and 4-neighbour Laplacian, per px, edges repeated.

    Parameters
    ----------
    image
        Float32 (n, S, S).

    Returns
    -------
    Float32 (n, S, S) each.
    """
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    up, down = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    return np.hypot(down - up, right - left) / 2, ((up + down) + (left + right)) - 4 * image


GREY_LEVELS = 8


def cooccurrence_columns(h: Image, nucleus: Mask) -> Columns:
    """Haralick's statistics of neighbouring pixels (1 px, four directions, both ways) inside the nucleus.

    Haralick, Shanmugam and Dinstein 1973, on `GREY_LEVELS` levels between 0 and 1.2 OD.

    Parameters
    ----------
    h
        Haematoxylin, float32 (n, S, S).
    nucleus
        The nucleus, bool (n, S, S).

    Returns
    -------
    Values (n,) by name of the feature.
    """
    n = len(h)
    grey = np.clip(h * (GREY_LEVELS / 1.2), 0, GREY_LEVELS - 1).astype(np.int32)
    size = GREY_LEVELS**2
    offset = (np.arange(n, dtype=np.int32) * (size + 1))[:, None, None]
    matrix = np.zeros((n, size))
    here, there = slice(None, -1), slice(1, None)
    every = slice(None)
    for a, b in (
        ((every, here), (every, there)),
        ((here, every), (there, every)),
        ((here, here), (there, there)),
        ((here, there), (there, here)),
    ):
        pair = grey[:, *a] * GREY_LEVELS + grey[:, *b]
        inside = nucleus[:, *a] & nucleus[:, *b]
        index = np.where(inside, pair, size) + offset  # pairs that leave the nucleus go to a bin of their own
        matrix += np.bincount(index.ravel(), minlength=n * (size + 1)).reshape(n, -1)[:, :size]
    p = matrix.reshape(n, GREY_LEVELS, GREY_LEVELS)
    p = p + p.transpose(0, 2, 1)
    p /= np.maximum(p.sum(axis=(1, 2), keepdims=True), 1)
    return _haralick(p)


def _haralick(p: NDArray[np.float64]) -> Columns:
    level = np.arange(GREY_LEVELS)
    apart = level[:, None] - level
    one = p.sum(axis=2)
    mean = (one * level).sum(axis=1)
    variance = (one * level**2).sum(axis=1) - mean**2
    covariance = (p * (level[:, None] * level)).sum(axis=(1, 2)) - mean**2
    flat = variance < TINY
    return {
        "glcm_contrast": (p * apart**2).sum(axis=(1, 2)),
        "glcm_homogeneity": (p / (1 + apart**2)).sum(axis=(1, 2)),
        "glcm_energy": (p**2).sum(axis=(1, 2)),
        "glcm_entropy": -(p * np.log(np.maximum(p, TINY**2))).sum(axis=(1, 2)),
        "glcm_correlation": np.where(flat, 0, covariance / np.where(flat, 1, variance)),
    }


PALE_OD = 0.05
"""Mean optical density below which a pixel shows no tissue."""


def context_columns(od: Image, e: Image, nucleus: Mask, nuclear: Mask) -> Columns:
    """The rest of the crop: other nuclei, glass, eosin.

    Parameters
    ----------
    od
        Optical density, float32 (n, S, S, 3).
    e
        Eosin, float32 (n, S, S).
    nucleus, nuclear
        The nucleus; all that looks like one; bool (n, S, S).

    Returns
    -------
    Values (n,) by name of the feature.
    """
    outside = ~nucleus
    pale = od.mean(axis=3) < PALE_OD
    return {
        "neighbour_fraction": masked_mean(nuclear.astype(np.float32), outside),
        "pale_fraction": masked_mean(pale.astype(np.float32), outside),
        "e_outside_mean": masked_mean(e, outside & ~nuclear),
    }
