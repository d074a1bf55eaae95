"""What a SpatialData holds: the H&E, the nuclei, and the affine between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
import spatialdata as sd
import xarray as xr
from spatialdata.models import get_axes_names

from lemon_sc._core.errors import bad_value, listing, missing_key
from lemon_sc.geometry.affine import Affine, PixelSize, invert, pixel_size
from lemon_sc.geometry.windows import check_mpp
from lemon_sc.io.image import Image, dask_image
from lemon_sc.io.image_size import systems_of
from lemon_sc.io.mpp import Chain, check_stated_mpp, check_transcripts, doubt_of, given_um, to_system

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import geopandas as gpd
    from numpy.typing import NDArray

Kind = Literal["polygons", "circles", "labels", "points"]


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
    doubt
        What contradicts a given pixel size, in words; "" if nothing does.
    """

    image: Image
    nuclei: Any
    kind: Kind
    to_pixel: Affine
    px_to_um: Affine
    coordinate_system: str
    doubt: str = ""

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

    Returns
    -------
    The scales.
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


def open_image(sdata: sd.SpatialData, image_key: str) -> Image:
    """An image of a SpatialData as one that is read in parts, after checking that it is uint8 RGB.

    Parameters
    ----------
    sdata
        SpatialData with the image.
    image_key
        Its name in ``sdata.images``.

    Returns
    -------
    The image.
    """
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

    Returns
    -------
    The element, and its kind.
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


def _shared_system(image: Any, nuclei: Any, *, image_key: str, shapes_key: str) -> str:
    """A coordinate system that both elements are placed in: 'global' if it is one, else the first by name."""
    of_image, of_nuclei = systems_of(image), systems_of(nuclei)
    both = [name for name in of_image if name in of_nuclei]
    if not both:
        msg = (
            f"{image_key!r} and {shapes_key!r} share no coordinate system ({image_key!r} is in "
            f"{listing(sorted(of_image))}, {shapes_key!r} in {listing(sorted(of_nuclei))}). Place one with "
            "`spatialdata.transformations.set_transformation`, or add the image with "
            "`lm.pp.add_image(..., alignment=)`."
        )
        raise ValueError(msg)
    return both[0]


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
        um per image px, one number or (x, y), where the transformations cannot tell: nuclei in px. It is used whatever
        the transformations or the file say; what contradicts it stands in ``doubt``.

    Returns
    -------
    The image and the nuclei, the affines between them, and the pixel size.

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
    image = open_image(sdata, image_key)
    nuclei, kind = find_nuclei(sdata, shapes_key)
    system = _shared_system(sdata.images[image_key], nuclei, image_key=image_key, shapes_key=shapes_key)
    image_to_system = to_system(sdata.images[image_key], system)
    to_pixel = invert(image_to_system) @ to_system(nuclei, system)
    chain = Chain(
        sdata=sdata,
        image_key=image_key,
        shapes_key=shapes_key,
        kind=kind,
        system=system,
        to_pixel=to_pixel,
        image_to_system=image_to_system,
    )
    doubt = ""
    if mpp is None:
        px_to_um = chain.px_to_um()
        check_transcripts(chain, pixel_size(px_to_um).mpp)
        check_stated_mpp(chain, pixel_size(px_to_um).mpp)
    else:
        px_to_um = given_um(image_to_system, check_mpp(mpp))
        doubt = doubt_of(chain, pixel_size(px_to_um).mpp)
    return Scene(
        image=image,
        nuclei=nuclei,
        kind=kind,
        to_pixel=to_pixel,
        px_to_um=px_to_um,
        coordinate_system=system,
        doubt=doubt,
    )


def label_blocks(labels: Any) -> Iterator[tuple[int, int, NDArray[np.integer]]]:
    """The finest level of a label image, storage chunk by storage chunk: (y0, x0, values).

    Parameters
    ----------
    labels
        Label image of a SpatialData, axes y and x.

    Yields
    ------
    First row and first column of a chunk, and its labels, (height, width).

    Raises
    ------
    ValueError
        If it has other axes.
    """
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
