"""What a SpatialData holds: the H&E, the nuclei, and the affine between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
import spatialdata as sd
import xarray as xr
from spatialdata.models import get_axes_names
from spatialdata.transformations import get_transformation

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, listing, missing_key
from lemon_sc.geometry.affine import Affine, PixelSize, check_affine, invert, pixel_size
from lemon_sc.geometry.windows import check_mpp
from lemon_sc.io.image import Image, dask_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import geopandas as gpd
    from numpy.typing import NDArray

Kind = Literal["polygons", "circles", "labels", "points"]
AXES = ("x", "y")
MPP_TOLERANCE = 0.05
"""Relative difference between the derived pixel size and the one a file states, above which one of them is wrong."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """An H&E and nuclei in one SpatialData, related.

    Attributes
    ----------
    image
        The H&E, read in parts.
    nuclei
        The element with the nuclei, as SpatialData holds it.
    kind
        What that element is.
    to_pixel
        Affine from the nuclei's own coordinates to level-0 image px.
    px_to_um
        Affine from image px to um; carries pixel size, rotation and handedness.
    coordinate_system
        The shared coordinate system through which the two were related.
    """

    image: Image
    nuclei: Any
    kind: Kind
    to_pixel: Affine
    px_to_um: Affine
    coordinate_system: str

    @property
    def pixel_size(self) -> PixelSize:
        """Pixel size, anisotropy and handedness of the image against um."""
        return pixel_size(self.px_to_um)

    @property
    def mpp(self) -> tuple[float, float]:
        """um per image px, (x, y)."""
        return self.pixel_size.mpp


def levels_of(element: Any, name: str) -> list[xr.DataArray]:
    """The scales of a raster element, finest first; one for a single-scale element.

    Parameters
    ----------
    element
        ``DataArray`` or multiscale ``DataTree``.
    name
        Name of the variable at each scale, ``"image"`` in SpatialData.
    """
    if isinstance(element, xr.DataArray):
        return [element]
    if isinstance(element, xr.DataTree):
        scales = sorted(element.children, key=lambda s: int(s.removeprefix("scale")))
        return [element[scale].ds[name] for scale in scales]
    msg = f"Expected a raster element, got {type(element).__name__}."
    raise TypeError(msg)


def check_rgb(array: xr.DataArray, image_key: str) -> None:
    """Raise unless the finest level of an image is uint8 RGB, channel first.

    Parameters
    ----------
    array
        Finest level.
    image_key
        Its name, for messages.
    """
    where = f"`sdata.images[{image_key!r}]`"
    if array.dims != ("c", "y", "x"):
        msg = f"{where} must have the axes c, y, x, got {array.dims}."
        raise ValueError(msg)
    n, height, width = array.shape
    names = [str(c) for c in array.coords["c"].values] if "c" in array.coords else []
    if n != 3 and width in {3, 4} and height > 4:
        msg = (
            f"{where} has {n} channels and is {width} px wide: it looks channel-last. Parse it again with "
            '`Image2DModel.parse(array, dims=("y", "x", "c"))`, or use `lm.pp.add_image`.'
        )
        raise ValueError(msg)
    if n == 4:
        msg = f"{where} has 4 channels {names}; an H&E is RGB. Keep the first three: `element.isel(c=slice(0, 3))`."
        raise ValueError(msg)
    if n != 3:
        msg = f"{where} has {n} channel{'s' * (n != 1)} {names}; an H&E has 3 (RGB). Pass the H&E as `image_key=`."
        raise ValueError(msg)
    if array.dtype != np.uint8:
        msg = (
            f"{where} is {array.dtype}; an H&E is uint8, 0 to 255. Convert it first, for 16-bit data that fill their "
            "range by `(array // 257).astype('uint8')`."
        )
        raise ValueError(msg)


def _open_image(sdata: sd.SpatialData, image_key: str) -> Image:
    """``sdata.images[image_key]`` as an image that is read in parts, after checking that it is uint8 RGB."""
    if image_key not in sdata.images:
        raise missing_key(image_key, where="sdata.images", have=sdata.images, fix="Add the H&E with `lm.pp.add_image`.")
    levels = levels_of(sdata.images[image_key], "image")
    check_rgb(levels[0], image_key)
    return dask_image(*(level.data for level in levels))


def find_nuclei(sdata: sd.SpatialData, shapes_key: str) -> tuple[Any, Kind]:
    """The element with the nuclei and what it is.

    Parameters
    ----------
    sdata
        SpatialData.
    shapes_key
        Name of the element, looked for in shapes, labels and points.
    """
    if shapes_key in sdata.shapes:
        shapes: gpd.GeoDataFrame = sdata.shapes[shapes_key]
        types = shapely.get_type_id(shapes.geometry.to_numpy())
        return shapes, "circles" if len(types) and (types == 0).all() else "polygons"
    if shapes_key in sdata.labels:
        return sdata.labels[shapes_key], "labels"
    if shapes_key in sdata.points:
        return sdata.points[shapes_key], "points"
    have = [*sdata.shapes, *sdata.labels, *sdata.points]
    raise missing_key(shapes_key, where="sdata.shapes, .labels, .points", have=have, fix="Pass `shapes_key=`.")


def to_system(element: Any, system: str) -> Affine:
    """Affine from an element's own coordinates to a coordinate system.

    Parameters
    ----------
    element
        Any element of a SpatialData.
    system
        Name of a coordinate system it is placed in.
    """
    matrix = get_transformation(element, to_coordinate_system=system).to_affine_matrix(AXES, AXES)
    return check_affine(matrix, name=f"transformation to {system!r}")


def _shared_system(image: Any, nuclei: Any, *, image_key: str, shapes_key: str) -> str:
    """A coordinate system that both elements are placed in: 'global' if it is one, else the first by name."""
    of_image, of_nuclei = (set(get_transformation(e, get_all=True)) for e in (image, nuclei))
    both = sorted(of_image & of_nuclei, key=lambda s: (s != "global", s))
    if not both:
        msg = (
            f"{image_key!r} and {shapes_key!r} share no coordinate system ({image_key!r} is in "
            f"{listing(sorted(of_image))}, {shapes_key!r} in {listing(sorted(of_nuclei))}). Place one with "
            "`spatialdata.transformations.set_transformation`, or add the image with "
            "`lm.pp.add_image(..., alignment=)`."
        )
        raise ValueError(msg)
    return str(both[0])


def _um_of_system(sdata: sd.SpatialData, system: str) -> Affine:
    """Affine from a coordinate system to um, from the vector elements that Xenium keeps in um.

    Label images are in px and cannot say how large a px is. Outlines and transcripts of the same run are in um and
    are placed in the same system, so the inverse of their transformation leads from the system to um.
    """
    found: dict[str, Affine] = {}
    for name in [*sdata.shapes, *sdata.points]:
        placed = get_transformation(sdata[name], get_all=True)
        if system in placed:
            matrix = to_system(sdata[name], system)
            if not np.allclose(matrix, np.eye(3)):  # an identity says that the element is in px
                found[name] = invert(matrix)
    if not found:
        msg = (
            f"The size of a pixel of {system!r} in um is unknown: no shapes or points in um are placed in it. "
            "Pass `mpp=`, the um per px of the image."
        )
        raise ValueError(msg)
    first, *others = found.values()
    if any(not np.allclose(first, other, rtol=1e-3) for other in others):
        msg = f"{listing(found)} disagree on the size of a pixel of {system!r} in um. Pass `mpp=`, that of the image."
        raise ValueError(msg)
    return first


def _derive_um(
    sdata: sd.SpatialData, *, kind: Kind, to_pixel: Affine, image_to_system: Affine, system: str, shapes_key: str
) -> Affine:
    """Affine from image px to um, from the transformation chain alone."""
    if kind == "labels":
        return _um_of_system(sdata, system) @ image_to_system
    if np.allclose(to_pixel, np.eye(3)):
        msg = (
            f"{shapes_key!r} is in the pixels of the image (the transformation between them is the identity), so the "
            "pixel size cannot be derived from it. Pass `mpp=`, the um per px of the image."
        )
        raise ValueError(msg)
    return invert(to_pixel)


def _given_um(image_to_system: Affine, mpp: tuple[float, float]) -> Affine:
    """Affine from image px to um of a given pixel size, turned and mirrored as the transformations say."""
    px_to_um = np.eye(3)
    px_to_um[:2, :2] = image_to_system[:2, :2] / np.linalg.norm(image_to_system[:2, :2], axis=0) * mpp
    return px_to_um


def _check_transcripts(sdata: sd.SpatialData, mpp: tuple[float, float], image_to_system: Affine, system: str) -> None:
    """Raise if points of the run, which Xenium keeps in um, contradict the pixel size derived from the nuclei."""
    for name, points in sdata.points.items():
        if system not in get_transformation(points, get_all=True):
            continue
        to_um = invert(to_system(points, system))
        if np.allclose(to_um, np.eye(3)):
            continue
        theirs = pixel_size(to_um @ image_to_system).mpp
        off = float(np.abs(np.asarray(mpp) / np.asarray(theirs) - 1).max())
        if off > MPP_TOLERANCE:
            ours, others = (f"{m[0]:.4f} x {m[1]:.4f}" for m in (mpp, theirs))
            msg = (
                f"The nuclei say that the image has {ours} um per px, {name!r} say {others} ({off:.0%} off). One of "
                "the two is not in um: check their transformations, or pass `mpp=`, the um per px of the image."
            )
            raise ValueError(msg)


def _check_stated_mpp(sdata: sd.SpatialData, image_key: str, mpp: tuple[float, float]) -> None:
    """Raise if the derived pixel size contradicts the one that the image's file states."""
    stated = sdata.attrs.get(keys.UNS, {}).get(keys.IMAGES, {}).get(image_key, {}).get("mpp")
    if stated is None:
        return
    off = float(np.abs(np.asarray(mpp) / np.asarray(stated) - 1).max())
    if off > MPP_TOLERANCE:
        msg = (
            f"The pixel size of {image_key!r} is {mpp[0]:.4f} x {mpp[1]:.4f} um by the transformations, but its file "
            f"states {stated[0]:.4f} x {stated[1]:.4f} um ({off:.0%} off). One is wrong: check the alignment, or pass "
            "`mpp=` to say which holds."
        )
        raise ValueError(msg)


def resolve(
    sdata: sd.SpatialData,
    *,
    image_key: str = "he_image",
    shapes_key: str = "nucleus_boundaries",
    mpp: float | Sequence[float] | None = None,
) -> Scene:
    """Relate an H&E and nuclei of a SpatialData through all their transformations.

    Parameters
    ----------
    sdata
        SpatialData with both.
    image_key, shapes_key
        The H&E in ``sdata.images``; the nuclei in ``sdata.shapes``, ``.labels`` or ``.points``.
    mpp
        um per image px, one number or (x, y), where the transformations cannot tell: nuclei in px.

    Raises
    ------
    MissingKeyError
        If either is not there.
    ValueError
        If the image is not uint8 RGB, the two share no coordinate system, or the pixel size is unknown or contradicts
        the image's file.
    """
    if not isinstance(sdata, sd.SpatialData):
        msg = f"`sdata` must be a SpatialData, got {type(sdata).__name__}."
        raise TypeError(msg)
    image = _open_image(sdata, image_key)
    nuclei, kind = find_nuclei(sdata, shapes_key)
    system = _shared_system(sdata.images[image_key], nuclei, image_key=image_key, shapes_key=shapes_key)
    image_to_system = to_system(sdata.images[image_key], system)
    to_pixel = invert(image_to_system) @ to_system(nuclei, system)
    if mpp is None:
        px_to_um = _derive_um(
            sdata,
            kind=kind,
            to_pixel=to_pixel,
            image_to_system=image_to_system,
            system=system,
            shapes_key=shapes_key,
        )
        _check_transcripts(sdata, pixel_size(px_to_um).mpp, image_to_system, system)
        _check_stated_mpp(sdata, image_key, pixel_size(px_to_um).mpp)
    else:
        px_to_um = _given_um(image_to_system, check_mpp(mpp))
    return Scene(image=image, nuclei=nuclei, kind=kind, to_pixel=to_pixel, px_to_um=px_to_um, coordinate_system=system)


def label_blocks(labels: Any) -> Iterator[tuple[int, int, NDArray[np.integer]]]:
    """The finest level of a label image, storage chunk by storage chunk: (y0, x0, values)."""
    array = levels_of(labels, "image")[0]
    if get_axes_names(array) != ("y", "x"):
        raise bad_value("labels", must="have the axes y, x", got=get_axes_names(array))
    y0 = 0
    for height in array.data.chunks[0]:
        x0 = 0
        for width in array.data.chunks[1]:
            yield y0, x0, np.asarray(array.data[y0 : y0 + height, x0 : x0 + width])
            x0 += width
        y0 += height
