"""How large a pixel of the H&E is where there are no nuclei yet that could tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from spatialdata.transformations import get_transformation

from lemon_sc._core.log import logger
from lemon_sc.geometry.windows import check_mpp
from lemon_sc.io.mpp import MPP_TOLERANCE, Chain, doubt_of, to_system

if TYPE_CHECKING:
    from collections.abc import Sequence

    import spatialdata as sd


def systems_of(element: object) -> list[str]:
    """Coordinate systems that an element is placed in, ``"global"`` first.

    Parameters
    ----------
    element
        Any element of a SpatialData.

    Returns
    -------
    Their names.
    """
    return sorted(get_transformation(element, get_all=True), key=lambda s: (s != "global", s))


def image_mpp(
    sdata: sd.SpatialData, *, image_key: str, mpp: float | Sequence[float] | None = None
) -> tuple[float, float]:
    """Pixel size of an image: as given, else as elements in um and the image's file say.

    Parameters
    ----------
    sdata
        SpatialData with the image.
    image_key
        Its name in ``sdata.images``.
    mpp
        um per px, one number or (x, y), if the user gave it. It is used whatever else is said; a warning names what
        contradicts it.

    Returns
    -------
    um per level-0 px, (x, y).

    Raises
    ------
    ValueError
        If nothing says it, or what is said differs by more than 2 %.
    """
    chains = [_chain(sdata, image_key, system) for system in systems_of(sdata.images[image_key])]
    if mpp is not None:
        given = check_mpp(mpp)
        for doubt in {doubt_of(chain, given) for chain in chains} - {""}:
            logger.warning("%s", doubt)
        return given
    said = {who: size for chain in chains for who, size in chain.said().items()}
    if not said:
        msg = (
            f"The size of a pixel of {image_key!r} in um is unknown: its file states none, and no shapes or points in "
            "um are placed with it. Pass `mpp=`, the um per px of the image."
        )
        raise ValueError(msg)
    (first, size), *rest = said.items()
    for who, other in rest:
        off = float(np.abs(np.asarray(other) / np.asarray(size) - 1).max())
        if off > MPP_TOLERANCE:
            msg = (
                f"{first} and {who} disagree on the size of a pixel of {image_key!r}: {size[0]:.4f} x {size[1]:.4f} "
                f"and {other[0]:.4f} x {other[1]:.4f} um ({off:.0%} off). Check the alignment, or pass `mpp=`."
            )
            raise ValueError(msg)
    return size


def _chain(sdata: sd.SpatialData, image_key: str, system: str) -> Chain:
    """The image by itself, related to nothing but its coordinate system."""
    return Chain(
        sdata=sdata,
        image_key=image_key,
        shapes_key=image_key,
        kind="polygons",
        system=system,
        to_pixel=np.eye(3),
        image_to_system=to_system(sdata.images[image_key], system),
    )
