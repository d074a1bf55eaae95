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
from lemon_sc.io.elements import AXES
from lemon_sc.io.image import downsample
from lemon_sc.io.tiff import CHUNK_PX, open_tiff

if TYPE_CHECKING:
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
    """Open an image file: OME-Zarr if it is a folder, TIFF otherwise."""
    if path.is_dir():
        return open_ome_zarr(path)
    tif = open_tiff(path)
    return Raster(levels=tif.levels, path=str(path.resolve()), mpp=tif.mpp)


def from_array(array: Any) -> Raster:
    """Array (h, w, c) or (c, h, w), numpy, dask or zarr; the axis that is 1 to 4 long is the colour."""
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
    lazy = array if isinstance(array, da.Array) else da.from_array(array, chunks="auto")
    if last:
        lazy = da.moveaxis(lazy, 2, 0)
    n, height, width = lazy.shape
    if not isinstance(array, da.Array):
        lazy = lazy.rechunk((n, min(CHUNK_PX, height), min(CHUNK_PX, width)))
    return Raster(levels=[lazy], path="", mpp=None)


def open_ome_zarr(path: Path) -> Raster:
    """Open an OME-Zarr image (0.4 in zarr v2, 0.5 in zarr v3) lazily.

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
    levels = [_plane(da.from_zarr(path / d["path"]), axes, path) for d in scales[0]["datasets"]]
    return Raster(levels=levels, path=str(path.resolve()), mpp=_ome_zarr_mpp(scales[0]))


def _plane(array: da.Array, axes: list[str], path: Path) -> da.Array:
    """Reduce to (c, y, x): time and depth must be one deep."""
    deep = {a: n for a, n in zip(axes, array.shape, strict=True) if a not in "cyx" and n > 1}
    if deep:
        msg = f"'{path}' is {deep} deep; an H&E is a single plane."
        raise ValueError(msg)
    array = array[tuple(slice(None) if a in "cyx" else 0 for a in axes)]
    kept = [a for a in axes if a in "cyx"]
    return array.transpose([kept.index(a) for a in "cyx"])


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
    """
    n, height, width = levels[0].shape
    names = RGB if n == 3 else [str(i) for i in range(n)]
    place = Identity() if matrix is None else SdAffine(np.asarray(matrix), input_axes=AXES, output_axes=AXES)
    if len(levels) == 1:
        return Image2DModel.parse(
            levels[0], dims=("c", "y", "x"), c_coords=names, transformations={coordinate_system: place}
        )
    scales = {}
    for k, level in enumerate(levels):
        factor = [downsample(width, level.shape[2]), downsample(height, level.shape[1])]
        array = Image2DModel.parse(level, dims=("c", "y", "x"), c_coords=names)
        # pixel centres in level-0 px, as SpatialData's own pyramids have them
        x, y = ((np.arange(m) + 0.5) * f for m, f in zip((level.shape[2], level.shape[1]), factor, strict=True))
        array = array.assign_coords(x=x, y=y)
        to_level0 = Scale(factor, axes=AXES)
        set_transformation(array, place if k == 0 else Sequence([to_level0, place]), coordinate_system)
        scales[f"scale{k}"] = xr.Dataset({"image": array})
    tree = xr.DataTree.from_dict(scales)
    Image2DModel().validate(tree)
    return tree
