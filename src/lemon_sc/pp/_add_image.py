"""`lm.pp.add_image`: place an H&E in a SpatialData without reading it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata.transformations import get_transformation

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.log import logger
from lemon_sc._core.table import check_key
from lemon_sc.geometry.affine import pixel_size
from lemon_sc.io.alignment import check_direction, load_alignment
from lemon_sc.io.mpp import AXES
from lemon_sc.io.raster import Raster, from_array, from_path, image_element

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from spatialdata import SpatialData

    from lemon_sc.geometry.affine import Affine


@doc
def add_image(
    sdata: SpatialData,
    image: str | os.PathLike[str] | Any,
    *,
    alignment: str | os.PathLike[str] | ArrayLike | None = None,
    key_added: str = "he_image",
    coordinate_system: str = "global",
) -> None:
    """Add an H&E to a SpatialData, aligned to its Xenium run.

    Nothing is decoded: pixels are read tile by tile when they are needed, so a 30 GB image opens at once. A pyramid in
    the file is kept. An image that `spatialdata_io.xenium` has already placed needs no call of this.

    Parameters
    ----------
    sdata
        SpatialData to add it to, as `spatialdata_io.xenium` reads a Xenium run; ``spatialdata.SpatialData()`` where
        there is nothing but an H&E.
    image
        Path of an OME-TIFF (or other tiled TIFF, or SVS), path of an OME-Zarr image, or an array, uint8, (h, w, 3) or
        (3, h, w): numpy, dask or zarr.
    alignment
        Xenium Explorer's ``*_imagealignment.csv`` (or ``matrix.csv``) or that 3 x 3 matrix, from image px to px of the
        morphology image; or its ``keypoints.csv``, to all of which an affine is fitted by least squares. ``None``: the
        image's px are px of the coordinate system.
    %(key_added)s
    coordinate_system
        Where `alignment` leads to; ``"global"`` is the px grid of the Xenium morphology image.

    Returns
    -------
    Nothing. Adds to the object:

    `sdata.images[key_added]`
        The image, lazy, single scale or multiscale as in its file.
    `sdata.attrs["lemon_sc"]["images"][key_added]`
        Source path and the pixel size that the file states, against which later steps check the alignment. Of the
        alignment: ``kind`` (``"matrix"``, ``"keypoints"`` or ``"none"``), number of keypoints and their residuals in
        um, of which the log gives the root mean square.

    Raises
    ------
    FileNotFoundError
        If the image or the alignment file is not there.
    ValueError
        If `key_added` names an element that is no image, the image is not uint8 RGB, the alignment is not an invertible
        affine or leads the wrong way, or its keypoints lie on a line or contradict each other.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> lm.pp.add_image(sdata, "he.ome.tif", alignment="he_imagealignment.csv")  # doctest: +SKIP
    """
    _check_free(sdata, check_key(key_added))
    aligned = load_alignment(alignment) if alignment is not None else None
    matrix = None if aligned is None else aligned.matrix
    raster = from_path(Path(image)) if isinstance(image, str | os.PathLike) else from_array(image)
    _check_rgb(raster)
    element = image_element(raster.levels, matrix, coordinate_system=coordinate_system)
    if coordinate_system not in sdata.coordinate_systems and len(list(sdata.gen_elements())):
        raise missing_key(
            coordinate_system, where="sdata.coordinate_systems", have=sdata.coordinate_systems, fix="Name one of them."
        )
    if matrix is not None:
        _check_direction(sdata, matrix, raster, coordinate_system)
    sdata.images[key_added] = element
    images = sdata.attrs.setdefault(keys.UNS, {}).setdefault(keys.IMAGES, {})
    images[key_added] = {
        "path": raster.path,
        "mpp": None if raster.mpp is None else list(raster.mpp),
        "alignment": {
            "kind": "none" if aligned is None else aligned.kind,
            "n_points": 0 if aligned is None else aligned.n_points,
            "residual_um": [] if aligned is None else aligned.residual_um.tolist(),
        },
    }
    if matrix is None:
        logger.warning("%r has no alignment: its px are taken to be the px of %r", key_added, coordinate_system)
    else:
        placed = pixel_size(matrix)
        logger.info(
            "%r placed in %r: %.4f units per px, rotated by %.1f degrees%s",
            key_added,
            coordinate_system,
            placed.mpp[0],
            placed.rotation_deg,
            ", mirrored" if placed.mirrored else "",
        )


def _check_free(sdata: SpatialData, key_added: str) -> None:
    """Raise if another element has the name: SpatialData keeps one for all kinds, upper and lower case alike."""
    for kind, name, _ in sdata.gen_elements():
        if name.lower() == key_added.lower() and not (kind == "images" and name == key_added):
            raise bad_value(
                "key_added",
                must="be a name of its own, upper and lower case apart",
                got=key_added,
                fix=f"There is `sdata.{kind}[{name!r}]`.",
            )


def _check_rgb(raster: Raster) -> None:
    """Raise unless the pixels are uint8 RGB, naming the file or array that was given."""
    where = f"'{raster.path}'" if raster.path else "The array passed as `image`"
    n, dtype = raster.levels[0].shape[0], raster.levels[0].dtype
    if n != 3:
        fix = " Leave the alpha channel out: pass the first three channels as an array." if n == 4 else ""
        msg = f"{where} has {n} channel{'s' * (n != 1)}; an H&E has 3 (RGB).{fix}"
        raise ValueError(msg)
    if dtype != np.uint8:
        msg = (
            f"{where} is {dtype}; an H&E is uint8, 0 to 255. Convert it first, for 16-bit data that fill their range "
            "by `(array // 257).astype('uint8')`."
        )
        raise ValueError(msg)


def _check_direction(sdata: SpatialData, matrix: Affine, raster: Raster, coordinate_system: str) -> None:
    """Raise if the alignment leads from the run to the image; nothing to ask where no outlines in um are placed."""
    for shapes in sdata.shapes.values():
        placed = get_transformation(shapes, get_all=True)
        if coordinate_system not in placed or not len(shapes):
            continue
        run = placed[coordinate_system].to_affine_matrix(AXES, AXES)
        if not np.allclose(run, np.eye(3)):  # an identity says that the outlines are in px
            _, height, width = raster.levels[0].shape
            x0, y0, x1, y1 = (float(v) for v in shapes.total_bounds)
            box = (x0, y0, x1, y1)
            check_direction(matrix, shape=(height, width), run=run, run_box=box, stated_mpp=raster.mpp)
            return
