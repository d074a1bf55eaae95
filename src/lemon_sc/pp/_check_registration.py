"""`lm.pp.check_registration`: do the nuclei lie where the haematoxylin is?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import logger, progress
from lemon_sc._objects.candidates import own_centres
from lemon_sc.analysis.registration import (
    Region,
    choose_regions,
    contrast_by_shift,
    haematoxylin,
    match,
    rasterise,
)
from lemon_sc.analysis.verdict import Registration, judge
from lemon_sc.geometry.affine import Affine, invert, transform
from lemon_sc.geometry.outlines import repair
from lemon_sc.io.elements import levels_of, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from lemon_sc.io.elements import Scene

DISC_UM = 3.0
"""Radius of the disc that stands for a nucleus of which only the centre is known."""
NEAR_UM = 15.0
"""Nuclei with their centre this far outside a region may still reach into it."""


@doc
def check_registration(
    sdata: SpatialData,
    *,
    image_key: str = "he_image",
    shapes_key: str = "nucleus_boundaries",
    mpp: float | Sequence[float] | None = None,
    tolerance_um: float = 2.0,
) -> Registration:
    """Check that the H&E is aligned to the nuclei: haematoxylin inside them against a ring around them.

    In up to 25 regions of at most 200 um, spread over the run, the mean haematoxylin inside the nuclei less that in a
    ring of 0.5 to 3 um around them is computed for every shift up to 30 um. Nuclei and stain match in a region if the
    best shift stands out of all far ones by seven standard deviations. The alignment is ok if they match in half of the
    regions at least, within `tolerance_um` of no shift at all in the median and in four of five of these. A flip, a
    transposition or an inverse matrix match nowhere; a shift is measured; rotation and scale show as offsets that
    differ between regions. Only the regions are read, at about 0.5 um per px.

    Parameters
    ----------
    %(sdata)s
    %(image_key)s
    %(shapes_key)s
    mpp
        um per image px, one number or (x, y), where the transformations cannot tell (nuclei given in px). The um frame
        then has the axes of the image.
    tolerance_um
        Offset up to which nuclei and image fit.

    Returns
    -------
    A frozen report, which reads well when printed:

    `.ok`
        Whether image and nuclei fit.
    `.verdict`
        In one sentence.
    `.offset_um`
        (x, y) by which the image must be moved to fit best, along the axes of the um frame of the nuclei: median over
        the regions that match. An image that lies 5 um too far along x gives (-5, 0). NaN where nothing matches.
    `.regions`
        DataFrame, one row per region: centre (``x_um``, ``y_um``), ``n_nuclei``, ``contrast`` (inside less around, in
        optical density), ``best_contrast`` (at the best shift), ``z`` (how far that stands out), ``offset_x_um``,
        ``offset_y_um``, ``ok``.
    `.n_nuclei`, `.n_in_image`
        How many nuclei there are, and how many of them lie in the image.

    Raises
    ------
    MissingKeyError
        If the image or the nuclei are not there.
    ValueError
        If the image is not uint8 RGB, there are no nuclei, or the pixel size is unknown or contradicts the image's
        file.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> report = lm.pp.check_registration(lm.datasets.phantom(n_cells=300))
    >>> report.ok
    True
    """
    if isinstance(tolerance_um, bool) or not isinstance(tolerance_um, int | float) or not 0 < tolerance_um < np.inf:
        raise bad_value("tolerance_um", must="be a finite number > 0", got=tolerance_um)
    scene = resolve(sdata, image_key=image_key, shapes_key=shapes_key, mpp=mpp)
    centres, _ = own_centres(scene)
    to_um = scene.px_to_um @ scene.to_pixel
    xy_um, xy_px = transform(to_um, centres.xy), transform(scene.to_pixel, centres.xy)
    known = np.isfinite(xy_px).all(axis=1)
    if not known.any():
        msg = f"{shapes_key!r} holds no nuclei."
        raise ValueError(msg)
    height, width = scene.image.shape
    in_image = known & ((xy_px >= 0) & (xy_px <= [width, height])).all(axis=1)
    regions = choose_regions(xy_um[in_image])
    matches = []
    with progress(total=len(regions), desc="Checking registration", unit="regions") as bar:
        for region in regions:
            nuclei = nuclei_in(scene, region, xy_um, to_um)
            matches.append(match(contrast_by_shift(nuclei, haematoxylin(scene.image, scene.px_to_um, region))))
            bar.update()
    found = judge(
        regions, matches, n_nuclei=int(known.sum()), n_in_image=int(in_image.sum()), tolerance_um=tolerance_um
    )
    (logger.info if found.ok else logger.warning)("Registration of %r: %s", image_key, found.verdict)
    return found


def nuclei_in(scene: Scene, region: Region, xy_um: NDArray[np.float64], to_um: Affine) -> NDArray[np.bool_]:
    """Nuclei on the grid of a region, from polygons, circles, a label image or centres.

    Parameters
    ----------
    scene
        Image and nuclei.
    region
        Which.
    xy_um
        Centres of all nuclei in um.
    to_um
        Affine from the nuclei's own coordinates to um.
    """
    if scene.kind == "labels":
        return labelled(scene.nuclei, region, to_um)
    low = np.array(region.low)
    near = ((xy_um >= low - NEAR_UM) & (xy_um <= low + region.size + NEAR_UM)).all(axis=1)
    if scene.kind == "points":
        return rasterise(shapely.buffer(shapely.points(xy_um[near]), DISC_UM), region)
    geometry = scene.nuclei.geometry.to_numpy()[near]
    if scene.kind == "circles":
        geometry = shapely.buffer(geometry, scene.nuclei["radius"].to_numpy()[near])
    outlines, _ = repair(geometry)
    return rasterise(shapely.transform(outlines, lambda xy: transform(to_um, xy)), region)


def labelled(labels: Any, region: Region, to_um: Affine) -> NDArray[np.bool_]:
    """Whether each grid point of a region has a label; outside the label image, none.

    Parameters
    ----------
    labels
        The element; only the rectangle under the region is read.
    region
        Which.
    to_um
        Affine from label px to um.
    """
    array = levels_of(labels, "image")[0].data
    rows, cols = region.shape
    grid = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 2)
    at = np.floor(transform(invert(to_um) @ region.to_um(), grid)).astype(np.int64)
    size = np.array([array.shape[1], array.shape[0]])
    first, last = np.clip(at.min(axis=0), 0, size), np.clip(at.max(axis=0) + 1, 0, size)
    part = np.asarray(array[first[1] : last[1], first[0] : last[0]])
    there = ((at >= 0) & (at < size)).all(axis=1)
    mask = np.zeros(len(at), dtype=np.bool_)
    x, y = (at[there] - first).T
    mask[there] = part[y, x] > 0
    return mask.reshape(rows, cols)
