"""The encoder without weights: shape, stain and texture of the central nucleus, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.models import bitmask
from lemon_sc.models import nucleus_features as features
from lemon_sc.models.cards import ModelCard
from lemon_sc.models.nucleus_mask import UNIT, find_nucleus, optical_density, smooth, stains

if TYPE_CHECKING:
    from numpy.typing import NDArray

MPP = 0.25
INPUT_PX = 40
CHUNK = 256
"""Crops at once: what fits the caches. Rows do not depend on it."""

FEATURES = (
    # whether there was a nucleus; without one, a disc in the centre is measured
    "found",
    # shape
    "area_um2", "perimeter_um", "equivalent_diameter_um", "major_axis_um", "minor_axis_um", "max_feret_um",
    "min_feret_um", "eccentricity", "axis_ratio", "circularity", "solidity", "extent", "centre_offset_um",
    "cut_fraction",
    # stain, optical density
    "h_mean", "h_sd", "h_skewness", "h_kurtosis", "h_p05", "h_p25", "h_p50", "h_p75", "h_p95", "h_total_um2",
    "h_ring_mean", "h_ring_sd", "h_contrast", "e_mean", "e_sd", "e_ring_mean", "e_ring_sd", "e_contrast",
    "od_red_mean", "od_green_mean", "od_blue_mean",
    # texture: bands of detail of about 0.25, 0.5 and 1 um, derivatives, co-occurrence
    "grain_1", "grain_2", "grain_3", "gradient_mean", "gradient_outline", "laplacian_energy", "h_range", "h_rim_core",
    "glcm_contrast", "glcm_homogeneity", "glcm_energy", "glcm_entropy", "glcm_correlation",
    # surroundings
    "neighbour_fraction", "pale_fraction", "e_outside_mean",
)  # fmt: skip

CARD = ModelCard(
    name="morphometry",
    dim=len(FEATURES),
    input_px=INPUT_PX,
    mpp=MPP,
    arch="measurements of the central nucleus, no weights",
    license="BSD-3-Clause",
    features=FEATURES,
)


def measure(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure the central nucleus of each crop.

    The nucleus is found in the crop itself (`nucleus_mask.find_nucleus`). The result does not depend on the other
    crops, nor, up to rounding, on flips and 90-degree turns.

    Parameters
    ----------
    crops
        uint8 (n, 40, 40, 3), RGB at 0.25 um/px.

    Returns
    -------
    float32 (n, D), columns as in `FEATURES`: lengths in um, areas in um2, stains in optical density. Always finite:
    without a nucleus (``found`` = 0) a disc of 2.5 um radius in the centre is measured.
    """
    chunks = [_measure(crops[start : start + CHUNK]) for start in range(0, len(crops), CHUNK)]
    return np.concatenate(chunks) if chunks else np.empty((0, len(FEATURES)), np.float32)


def _measure(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One chunk. Integers until the masks stand, so that these are exact; then optical density as float32."""
    od_int = optical_density(crops)
    h_int, e_int = stains(od_int)
    masks = find_nucleus(h_int)
    ring, core = surroundings(masks.nucleus, masks.nuclear)
    blurred = [smooth(h_int)]
    blurred += [smooth(blurred[0], spacing=2)]
    blurred += [smooth(blurred[1], spacing=4)]
    od, h, e, *scales = (image.astype(np.float32) / np.float32(UNIT) for image in (od_int, h_int, e_int, *blurred))
    columns = {
        "found": masks.found,
        **features.shape_columns(masks.nucleus, mpp=MPP),
        **features.stain_columns(h, e, od, masks.nucleus, ring, mpp=MPP),
        **features.texture_columns(h, scales, masks.nucleus, core),
        **features.context_columns(od, e, masks.nucleus, masks.nuclear),
    }
    return np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float32)


def surroundings(nucleus: NDArray[np.bool_], nuclear: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    """Ring and core of nuclei.

    Parameters
    ----------
    nucleus, nuclear
        Masks of the central nucleus and of all that is nuclear, (n, S, S).

    Returns
    -------
    The ring from 0.25 to 1 um around the nucleus, other nuclei left out (unless nothing else is there), and the core
    more than 0.5 um inside its outline (the nucleus itself, where it is too thin). The ring of a nucleus that fills
    the crop is empty.
    """
    words = bitmask.pack(nucleus)
    near = bitmask.dilate(words)
    wide = near
    for step in range(3):
        wide = bitmask.dilate(wide, corners=step % 2 == 0)
    around = bitmask.unpack(wide & ~near)
    free = around & ~nuclear
    ring = np.where(free.any(axis=(1, 2), keepdims=True), free, around)
    inner = bitmask.unpack(bitmask.erode(bitmask.erode(words), corners=True))
    core = np.where(inner.any(axis=(1, 2), keepdims=True), inner, nucleus)
    return ring, core
