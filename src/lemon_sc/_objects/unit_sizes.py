"""How large spots and bins are, and what that says against a pixel size that the user gave."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.log import logger
from lemon_sc.geometry.affine import transform
from lemon_sc.geometry.lattice import lattice_of
from lemon_sc.io.mpp import MPP_TOLERANCE

if TYPE_CHECKING:
    import anndata as ad

    from lemon_sc._objects.candidates import Candidates
    from lemon_sc.io.elements import Scene

VISIUM_STEP_UM = 100.0
"""From the centre of a spot to the next, on the hexagonal array of Visium."""

GAP = 1.25
"""Units whose centres are more than so many widths apart have gaps between them: they are printed spots, not bins."""

SMALL_SPOT_UM = 20.0
"""Printed spots are wider: 55 um on Visium, 100 um in Spatial Transcriptomics."""

ARRAY_TOLERANCE = 0.1
"""Of the step of an array: spots are found in the image to within some px."""


def unit_widths(scene: Scene, units: Candidates) -> tuple[float, float, bool]:
    """Width of the units, distance to the next one, both medians in um, and whether they form a hexagonal array.

    Parameters
    ----------
    scene
        Image and units.
    units
        The units.

    Returns
    -------
    Diameter of circles, else side of the square of the same area; NaN for points, and where there is no next one.
    """
    area = units.area_um2[np.isfinite(units.area_um2)]
    width = float(np.sqrt(np.median(area) * (4 / np.pi if scene.kind == "circles" else 1))) if len(area) else np.nan
    lattice = lattice_of(transform(scene.px_to_um, units.xy[np.isfinite(units.xy).all(axis=1)]))
    return (width, np.nan, False) if lattice is None else (width, lattice.step, lattice.hexagonal)


def warn_if_sizes_differ(adata: ad.AnnData, scene: Scene, units: Candidates, *, shapes_key: str) -> None:
    """Warn if the sizes of the units, or the table, contradict a pixel size that the user gave.

    Parameters
    ----------
    adata
        Table of the units.
    scene
        Image and units, at that pixel size.
    units
        The units.
    shapes_key
        Name of their element. One that ends in ``_008um``, as those of Visium HD do, names the side of its bins.
    """
    width, step, hexagonal = unit_widths(scene, units)
    mpp = float(np.sqrt(np.prod(scene.mpp)))
    gaps = step > GAP * width or np.isnan(width)  # points have none
    said: dict[str, tuple[float, float]] = {}
    stated = _microns_per_pixel(adata.uns)
    if stated is not None and np.allclose(scene.to_pixel, np.eye(3)):  # else the image is another than that
        said[f"`scalefactors` of the table say {stated:.4f} um per px"] = stated / mpp, MPP_TOLERANCE
    named = re.search(r"_(\d+)um$", shapes_key)
    if named and width > 0:
        said[f"{shapes_key!r} would have a width of {width:.3g} um"] = float(named[1]) / width, MPP_TOLERANCE
    if hexagonal and gaps:
        where = f"spots on a hexagonal array would be {step:.3g} um apart, those of Visium are {VISIUM_STEP_UM:g} um"
        said[where] = VISIUM_STEP_UM / step, ARRAY_TOLERANCE
    against = [(who, ratio) for who, (ratio, tolerance) in said.items() if abs(ratio - 1) > tolerance]
    given = f"`mpp=` gives the image {scene.mpp[0]:.4f} x {scene.mpp[1]:.4f} um per px and is used"
    if against:
        who = "; ".join(words for words, _ in against)
        logger.warning("%s, but %s. That fits about %.4f um per px", given, who, mpp * against[0][1])
    elif not hexagonal and gaps and width < SMALL_SPOT_UM and scene.kind == "circles":
        words = "%s, but the spots would be %.3g um wide and %.3g um apart: is it the size of a px of this very image?"
        logger.warning(words, given, width, step)


def _microns_per_pixel(uns: Mapping[str, Any]) -> float | None:
    """Pixel size of the full image as Space Ranger's scale factors state it, where a reader kept them in the table."""
    spatial = uns.get("spatial")
    for library in spatial.values() if isinstance(spatial, Mapping) else ():
        factors = library.get("scalefactors") if isinstance(library, Mapping) else None
        stated = factors.get("microns_per_pixel") if isinstance(factors, Mapping) else None
        if isinstance(stated, int | float | np.number) and stated > 0:
            return float(stated)
    return None
