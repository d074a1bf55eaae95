"""Images from files and arrays, as lazy SpatialData elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import Affine as SdAffine
from spatialdata.transformations import Identity, Scale, Sequence, set_transformation

from lemon_sc._core.errors import bad_value
from lemon_sc.io import wsi
from lemon_sc.io.chunks import ZarrPixels
from lemon_sc.io.image import downsample
from lemon_sc.io.mpp import AXES
from lemon_sc.io.pixels import MemoryPixels
from lemon_sc.io.tiff import NotTiffError, UnsupportedColoursError, lazy_levels, open_tiff

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lemon_sc.geometry.affine import Affine

RGB = ["r", "g", "b"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Raster:
    """Lazy levels (c, h, w), finest first, where they came from, and the pixel size stated there (um, (x, y))."""

    levels: list[da.Array]
    path: str
    mpp: tuple[float, float] | None


def from_path(path: Path) -> Raster:
    """Open an image file: OME-Zarr if it is a folder, else TIFF, else whatever OpenSlide knows.

    Parameters
    ----------
    path
        File, or folder of an OME-Zarr.

    Returns
    -------
    Lazy levels, and the pixel size where it is stated.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ImportError
        If the format needs OpenSlide, which is not installed.
    ValueError
        If it cannot be read, or is not a single plane.
    """
    if path.is_dir():
        return open_ome_zarr(path)
    if path.suffix.lower() in wsi.SUFFIXES:
        found = wsi.open_slide(path)
    else:
        try:
            found = open_tiff(path)
        except (NotTiffError, UnsupportedColoursError):
            if not wsi.recognises(path):
                raise
            found = wsi.open_slide(path)
    return Raster(levels=found.levels, path=str(path.resolve()), mpp=found.mpp)


def from_array(array: Any) -> Raster:
    """Array (h, w, c) or (c, h, w), numpy, dask or zarr; the axis that is 1 to 4 long is the colour.

    Parameters
    ----------
    array
        The pixels.

    Returns
    -------
    One level without a pixel size.

    Raises
    ------
    ValueError
        If it has not two or three axes, or none or several that could be the colour.
    """
    shape = tuple(getattr(array, "shape", ()))
    if len(shape) == 2:
        shape = (1, *shape)
        array = array[None]
    if len(shape) != 3:
        raise bad_value(
            "image", must="be a path, or an array of shape (h, w, 3) or (3, h, w)", got=type(array).__name__
        )
    first, last = shape[0] <= 4, shape[2] <= 4
    if first == last:
        raise bad_value("image", must="have its colours along the first or the last axis", got=shape)
    if isinstance(array, zarr.Array):
        return Raster(levels=lazy_levels([ZarrPixels(array, "yxc" if last else "cyx")]), path="", mpp=None)
    if isinstance(array, da.Array):
        return Raster(levels=[da.moveaxis(array, 2, 0) if last else array], path="", mpp=None)
    plain = np.asarray(array)
    return Raster(levels=lazy_levels([MemoryPixels(np.moveaxis(plain, 2, 0) if last else plain)]), path="", mpp=None)


def open_ome_zarr(path: Path) -> Raster:
    """Open an OME-Zarr image (0.4 in zarr v2, 0.5 in zarr v3) lazily.

    Parameters
    ----------
    path
        Its folder.

    Returns
    -------
    Lazy levels, and the pixel size where it is stated.

    Raises
    ------
    ValueError
        If the folder is not an OME-Zarr image, or has axes other than c, y, x and singletons.
    """
    try:
        group = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError) as error:
        msg = f"'{path}' is a folder but not an OME-Zarr image ({error})."
        raise ValueError(msg) from error
    attrs: dict[str, Any] = dict(group.attrs)
    scales = attrs.get("ome", attrs).get("multiscales")
    if not scales:
        msg = (
            f"'{path}' has no 'multiscales' metadata: it is not an OME-Zarr image. Pass the folder of the image itself."
        )
        raise ValueError(msg)
    axes = [a["name"] for a in scales[0]["axes"]]
    if not {"c", "y", "x"} <= set(axes):
        msg = f"'{path}' has the axes {axes}; an H&E needs c, y and x."
        raise ValueError(msg)
    levels = [_plane(group, d["path"], axes, path) for d in scales[0]["datasets"]]
    return Raster(levels=lazy_levels(levels), path=str(path.resolve()), mpp=_ome_zarr_mpp(scales[0]))


def _plane(group: zarr.Group, name: str, axes: list[str], path: Path) -> ZarrPixels:
    """One level as (c, y, x): time and depth must be one deep."""
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        msg = f"'{path}' lacks its level '{name}', which its metadata name: it was written or copied in part only."
        raise ValueError(msg)
    deep = {a: n for a, n in zip(axes, array.shape, strict=True) if a not in "cyx" and n > 1}
    if deep:
        msg = f"'{path}' is {deep} deep; an H&E is a single plane."
        raise ValueError(msg)
    return ZarrPixels(array, axes)


def _ome_zarr_mpp(multiscale: dict[str, Any]) -> tuple[float, float] | None:
    """Pixel size of the finest level in um, where axes are in um and a scale is given."""
    units = {a["name"]: a.get("unit") for a in multiscale["axes"]}
    scale = [t["scale"] for t in multiscale["datasets"][0].get("coordinateTransformations", []) if t["type"] == "scale"]
    if not scale or any(units[a] != "micrometer" for a in AXES):
        return None
    names = [a["name"] for a in multiscale["axes"]]
    x, y = (float(scale[0][names.index(a)]) for a in AXES)
    return x, y


def image_element(levels: list[da.Array], matrix: Affine | None, *, coordinate_system: str) -> Any:
    """A SpatialData image over lazy levels, placed by `matrix` (px -> coordinate system; None: identity).

    Parameters
    ----------
    levels
        Lazy levels (c, h, w), finest first.
    matrix
        Affine from level-0 px to the coordinate system, or None.
    coordinate_system
        Where it is placed.

    Returns
    -------
    ``DataArray`` of one level, ``DataTree`` of several.
    """
    n = levels[0].shape[0]
    channels = RGB if n == 3 else [str(i) for i in range(n)]
    place = Identity() if matrix is None else SdAffine(np.asarray(matrix), input_axes=AXES, output_axes=AXES)
    return placed_element(levels, {coordinate_system: place}, channels=channels)


def placed_element(levels: list[da.Array], places: Mapping[str, Any], *, channels: list[str]) -> Any:
    """A SpatialData image over lazy levels, placed in one or more coordinate systems.

    Parameters
    ----------
    levels
        Lazy levels (c, h, w), finest first.
    places
        SpatialData transformation from level-0 px, by coordinate system.
    channels
        Names of the channels.

    Returns
    -------
    ``DataArray`` of one level, ``DataTree`` of several.
    """
    if len(levels) == 1:
        return Image2DModel.parse(levels[0], dims=("c", "y", "x"), c_coords=channels, transformations=dict(places))
    _, height, width = levels[0].shape
    scales = {}
    for k, level in enumerate(levels):
        factor = [downsample(width, level.shape[2]), downsample(height, level.shape[1])]
        array = Image2DModel.parse(level, dims=("c", "y", "x"), c_coords=channels)
        # pixel centres in level-0 px, as SpatialData's own pyramids have them
        x, y = ((np.arange(m) + 0.5) * f for m, f in zip((level.shape[2], level.shape[1]), factor, strict=True))
        array = array.assign_coords(x=x, y=y)
        to_level0 = Scale(factor, axes=AXES)
        placed = {name: place if k == 0 else Sequence([to_level0, place]) for name, place in places.items()}
        set_transformation(array, placed, set_all=True)
        scales[f"scale{k}"] = xr.Dataset({"image": array})
    tree = xr.DataTree.from_dict(scales)
    Image2DModel().validate(tree)
    return tree
