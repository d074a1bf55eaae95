"""The stains of a slide: found on a sample of its crops or tissue, and taken to those of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import spatialdata as sd

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.log import logger
from lemon_sc._core.record import digest
from lemon_sc._core.table import as_table
from lemon_sc._objects.nuclei import crop_batches, extraction, nuclei_of, scene_of
from lemon_sc._objects.stores import patch_starts
from lemon_sc.crops.color import REFERENCE_COLORS, ColorStatistics, estimate_colors, match_colors
from lemon_sc.crops.stain import REFERENCE, StainEstimate, estimate_stains, normalize_stains
from lemon_sc.crops.stain_references import COLORS, REFERENCES
from lemon_sc.geometry.windows import choose_level

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lemon_sc.io.elements import Scene

    Estimate = StainEstimate | ColorStatistics

METHODS = ("macenko", "randstainna")

PUBLISHED = "published"
"""Name of the reference that published implementations use."""

ENOUGH_CROPS = 1000
"""Fewer hold too little eosin: the tissue between the nuclei is looked at, too, where there is an image."""

MOST_CROPS = 2000
TISSUE_MPP = 0.5
_BATCH = 512  # crops re-rendered at once


@dataclass(frozen=True, eq=False, kw_only=True)
class SlideStain:
    """What a slide is stained with.

    Attributes
    ----------
    estimate
        Stain vectors and strengths, or the statistics of its colours.
    fitted_on
        ``"crops"`` or ``"tissue"``.
    n_crops
        Crops that were looked at; 0 for tissue.
    """

    estimate: Estimate
    fitted_on: str
    n_crops: int


def slide_stain(data: ad.AnnData | sd.SpatialData, *, method: str, table_key: str) -> SlideStain:
    """Estimate the stain of one slide.

    Parameters
    ----------
    data
        SpatialData or table, with extracted nuclei.
    method
        One of `METHODS`.
    table_key
        The table of a SpatialData.

    Returns
    -------
    The estimate and what it was made from.

    Raises
    ------
    ValueError
        If there is too little tissue to estimate from.
    """
    adata = as_table(data, table_key=table_key)
    pixels, fitted_on, n_crops = sample_pixels(data, adata)
    find = {"macenko": estimate_stains, "randstainna": estimate_colors}[method]
    made = find(pixels)
    if made is None:
        msg = (
            f"No stain could be estimated ({method}) from the {fitted_on} of this slide, {len(pixels):,} px: there is "
            "too little stained tissue, or only one stain. Look at the crops with `lm.pl.nuclei`."
        )
        raise ValueError(msg)
    if fitted_on == "crops" and n_crops < ENOUGH_CROPS:
        logger.warning(
            "The stain was estimated on %d crops, which hold little but nuclei; 1,000 or more are advised. Pass the "
            "SpatialData with the image to take the slide's tissue",
            n_crops,
        )
    return SlideStain(estimate=made, fitted_on=fitted_on, n_crops=n_crops)


def sample_pixels(data: ad.AnnData | sd.SpatialData, adata: ad.AnnData) -> tuple[NDArray[np.uint8], str, int]:
    """Pixels that stand for a slide.

    Parameters
    ----------
    data, adata
        SpatialData or table; the table.

    Returns
    -------
    uint8 (n, 3); ``"crops"`` or ``"tissue"``; the number of crops.
    """
    record, nuclei = extraction(adata), nuclei_of(adata)
    has_image = isinstance(data, sd.SpatialData) and record["image_key"] in data.images
    if has_image and (len(nuclei) < ENOUGH_CROPS or record["mask"]):
        return tissue_pixels(scene_of(data, record)), "tissue", 0
    if not len(nuclei):
        return np.zeros((0, 3), dtype=np.uint8), "crops", 0
    evenly = np.unique(np.linspace(0, len(nuclei) - 1, min(len(nuclei), MOST_CROPS)).astype(np.int64))
    _, batches, _ = crop_batches(data, adata, nuclei.take(evenly))
    return np.concatenate([crops.reshape(-1, 3) for _, crops in batches]), "crops", len(evenly)


def tissue_pixels(scene: Scene) -> NDArray[np.uint8]:
    """Pixels of patches all over a slide, at about 0.5 um per px: uint8 (n, 3).

    Parameters
    ----------
    scene
        With the image.

    Returns
    -------
    uint8 (n, 3).
    """
    level = scene.image.levels[choose_level(scene.mpp, scene.image.downsamples, TISSUE_MPP)]
    (ys, high), (xs, wide) = (patch_starts(size) for size in level.shape)
    patches = [level.read(y, y + high, x, x + wide).reshape(-1, 3) for y in ys for x in xs]
    return np.concatenate(patches)


def reference_of(reference: Any, *, method: str, table_key: str) -> tuple[str, Estimate]:
    """The stain to show crops in.

    Parameters
    ----------
    reference
        ``None`` (the published one), a name of `REFERENCES`, or another slide.
    method
        One of `METHODS`.
    table_key
        The table of a SpatialData.

    Returns
    -------
    Name and stain.
    """
    if isinstance(reference, ad.AnnData | sd.SpatialData):
        made = slide_stain(reference, method=method, table_key=table_key).estimate
        return f"slide {digest(values_of(made))}", made
    known: Mapping[str, Estimate] = {PUBLISHED: REFERENCE, **REFERENCES}
    if method == "randstainna":
        known = {PUBLISHED: REFERENCE_COLORS, **COLORS}
    if reference is not None and not isinstance(reference, str):
        raise bad_value(
            "reference", must="be None, the name of a reference, an AnnData or a SpatialData", got=reference
        )
    name = one_of("reference", PUBLISHED if reference is None else reference, known)
    return name, known[name]


def values_of(estimate: Estimate) -> dict[str, NDArray[np.float64]]:
    """The numbers of an estimate, for a record.

    Parameters
    ----------
    estimate
        Of either method.

    Returns
    -------
    Arrays by name.
    """
    if isinstance(estimate, StainEstimate):
        return {"vectors": estimate.vectors, "strength": estimate.strength}
    return {"mean": estimate.mean, "std": estimate.std}


def restained(crops: NDArray[np.uint8], own: Estimate, reference: Estimate) -> NDArray[np.uint8]:
    """Crops in the stain of another slide.

    Parameters
    ----------
    crops
        uint8 (n, S, S, 3).
    own
        The stain they are in.
    reference
        The stain to show them in, by the same method.

    Returns
    -------
    uint8 (n, S, S, 3).
    """
    out = np.empty_like(crops)
    for start in range(0, len(crops), _BATCH):
        part = slice(start, start + _BATCH)
        if isinstance(own, StainEstimate) and isinstance(reference, StainEstimate):
            out[part] = normalize_stains(crops[part], own, reference=reference)
        elif isinstance(own, ColorStatistics) and isinstance(reference, ColorStatistics):
            out[part] = match_colors(crops[part], own, reference=reference)
        else:
            raise bad_value("reference", must="be an estimate of the same method", got=type(reference).__name__)
    return out
