"""Spots and bins: the element that a table annotates, and which nuclei lie in its units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import listing
from lemon_sc._core.log import logger
from lemon_sc.geometry.affine import invert, transform
from lemon_sc.geometry.members import in_circles, in_polygons
from lemon_sc.io.elements import resolve
from lemon_sc.io.join import join_nuclei
from lemon_sc.io.sides import declared

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData


def annotated(adata: ad.AnnData, table_key: str) -> str:
    """The one element that a table annotates."""
    regions, _, _ = declared(adata)
    if len(regions) != 1:
        says = f"annotates {listing(regions)}" if len(regions) else "annotates no element"
        msg = f"`sdata.tables[{table_key!r}]` {says}. Pass the element with its spots or bins as `shapes_key=`."
        raise ValueError(msg)
    return str(regions[0])


def members_of(
    sdata: SpatialData, units: ad.AnnData, xy: NDArray[np.float64], *, record: dict[str, Any], shapes_key: str
) -> csr_matrix:
    """Which nuclei lie in the unit of which row of a table, (rows, nuclei), ones and zeros.

    Parameters
    ----------
    sdata, units
        SpatialData, and its table of the units.
    xy
        Centres of nuclei in level-0 image px, (n, 2), finite.
    record
        Of the extraction of the nuclei: the image, and its pixel size.
    shapes_key
        The units.

    Raises
    ------
    ValueError
        If the units have no extent, or none belongs to a row of the table.
    """
    # the pixel size is known from the nuclei; units in px of the image could not tell it
    scene = resolve(sdata, image_key=record["image_key"], shapes_key=shapes_key, mpp=tuple(record["mpp"]))
    if scene.kind not in {"circles", "polygons"}:
        msg = f"{shapes_key!r} holds {scene.kind}, in which nothing can lie. Pass circles or polygons as `shapes_key=`."
        raise ValueError(msg)
    own = transform(invert(scene.to_pixel), xy)  # circles stay circles in their own coordinates
    geometry = scene.nuclei.geometry.to_numpy()
    if scene.kind == "circles":
        inside = in_circles(own, geometry, scene.nuclei["radius"].to_numpy(dtype=np.float64))
    else:
        inside = in_polygons(own, geometry)
    join = join_nuclei(sdata, units, nuclei=scene.nuclei, kind=scene.kind, shapes_key=shapes_key, noun="units")
    if (join.row < 0).any():
        logger.warning("%d units of %r belong to no row of the table", (join.row < 0).sum(), shapes_key)
    return rows_of_units(inside, join.row, n_obs=units.n_obs)


def rows_of_units(inside: csr_matrix, row: NDArray[np.int64], *, n_obs: int) -> csr_matrix:
    """The units' rows of a matrix at the places that a table gives them, zeros for its other rows."""
    known = np.flatnonzero(row >= 0)
    place = type(inside)((np.ones(len(known), inside.dtype), (row[known], known)), shape=(n_obs, inside.shape[0]))
    return place @ inside
