"""`lm.pp.rechunk`: rewrite an H&E once, so that it can be read in parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import spatialdata as sd
from spatialdata.models import get_channel_names
from spatialdata.transformations import get_transformation

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.log import logger
from lemon_sc.io.elements import check_rgb, levels_of
from lemon_sc.io.image import dask_image
from lemon_sc.io.raster import open_ome_zarr, placed_element
from lemon_sc.io.rechunk import write_pyramid

if TYPE_CHECKING:
    import os


@doc
def rechunk(sdata: sd.SpatialData, *, path: str | os.PathLike[str], image_key: str = "he_image") -> None:
    """Write an H&E as a well-chunked OME-Zarr, and use that from now on.

    For images that are slow to read in parts: one chunk for the whole image, strips across a large slide, pixels that
    a reader gives as one frame. `lm.pp.extract_nuclei` says so where it matters. The new store has chunks of 3 x 1024 x
    1024 px in shards (OME-Zarr 0.5, zarr v3, zstd), and any tool that reads OME-Zarr opens it.

    Pixels are copied losslessly, a pyramid is kept as it is, and an image without one gets one. What is stored together
    is decoded once; memory holds a few strips or tiles, and never less than one chunk of the old store.

    Parameters
    ----------
    %(sdata)s
        Nuclei and table are not needed.
    path
        Folder to write, by custom ``*.ome.zarr``. It must not exist, and appears only when it is whole.
    %(image_key)s

    Returns
    -------
    Nothing. Changes the object:

    `sdata.images[image_key]`
        The same image, read from `path`: same size, channels and transformations. An image of a single scale is
        multiscale from now on. A store that `sdata` was read from is not touched and keeps its copy.
    `sdata.attrs["lemon_sc"]["images"][image_key]["path"]`
        The new path.

    Raises
    ------
    MissingKeyError
        If the image is not there.
    FileExistsError
        If there is something at `path`.
    ValueError
        If the image is not uint8 RGB, or `path` lies within the store of `sdata`.
    OSError
        If it cannot be written, as on a full disk. Nothing is left of it, and `sdata` is as it was.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.rechunk(sdata, path="he.ome.zarr")  # doctest: +SKIP
    """
    if not isinstance(sdata, sd.SpatialData):
        msg = f"`sdata` must be a SpatialData, got {type(sdata).__name__}."
        raise TypeError(msg)
    if image_key not in sdata.images:
        raise missing_key(image_key, where="sdata.images", have=sdata.images, fix="Pass `image_key=`.")
    target = Path(path)
    if target.exists():
        msg = f"There is something at '{target}' already. Name a folder that does not exist, or remove it first."
        raise FileExistsError(msg)
    if sdata.path is not None and target.resolve().is_relative_to(Path(sdata.path).resolve()):
        raise bad_value(
            "path", must="lie outside the store of `sdata`", got=str(target), fix="Name a folder beside it."
        )
    element = sdata.images[image_key]
    levels = levels_of(element, "image")
    check_rgb(levels[0], image_key)
    channels = [str(c) for c in get_channel_names(element)]
    places = get_transformation(element, get_all=True)
    record = sdata.attrs.get(keys.UNS, {}).get(keys.IMAGES, {}).get(image_key, {})
    mpp = record.get("mpp")
    write_pyramid(
        dask_image(*(level.data for level in levels)),
        target,
        channels=channels,
        mpp=None if mpp is None else (float(mpp[0]), float(mpp[1])),
    )
    written = open_ome_zarr(target)
    new = placed_element(written.levels, places, channels=channels)
    del sdata.images[image_key]
    sdata.images[image_key] = new
    if record:  # a new dict: a filtered copy of `sdata` may share the old one
        home = sdata.attrs[keys.UNS]
        images = {**home[keys.IMAGES], image_key: {**record, "path": written.path}}
        sdata.attrs[keys.UNS] = {**home, keys.IMAGES: images}
    logger.info("%r is now read from '%s' (%d levels)", image_key, target, len(written.levels))
    if sdata.path is not None:
        logger.warning("The store '%s' keeps its own copy of %r: write `sdata` anew to drop it", sdata.path, image_key)
