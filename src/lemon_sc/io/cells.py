"""The cell that a nucleus lies in, for nuclei that carry no cell's id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from spatialdata.transformations import get_transformation

from lemon_sc.geometry.affine import invert, transform
from lemon_sc.io.elements import label_blocks
from lemon_sc.io.ids import NO_ID, as_text
from lemon_sc.io.mpp import to_system

if TYPE_CHECKING:
    import geopandas as gpd
    import spatialdata as sd
    from numpy.typing import NDArray

POLYGONAL = (3, 6)  # shapely type ids of Polygon and MultiPolygon


def cells_at(sdata: sd.SpatialData, cells_key: str, nuclei: Any, xy: NDArray[np.float64]) -> NDArray[Any] | None:
    """Ids, as text, of the cells that some points lie in; `NO_ID` outside all of them.

    Parameters
    ----------
    sdata
        SpatialData with the cells.
    cells_key
        Label image or polygons of the cells. Circles do not delimit cells.
    nuclei
        Element that the points are given in.
    xy
        Points in its own coordinates, (n, 2).

    Returns
    -------
    None if there are no such cells, or nothing relates them to the nuclei.
    """
    is_label = cells_key in sdata.labels
    if not is_label and cells_key not in sdata.shapes:
        return None
    cells = sdata[cells_key]
    if not is_label and not np.isin(shapely.get_type_id(cells.geometry.to_numpy()), POLYGONAL).all():
        return None
    shared = sorted({*get_transformation(cells, get_all=True)} & {*get_transformation(nuclei, get_all=True)})
    if not shared:
        return None
    at = transform(invert(to_system(cells, shared[0])) @ to_system(nuclei, shared[0]), xy)
    known = np.isfinite(at).all(axis=1)
    ids = np.full(len(xy), NO_ID, dtype=object)
    ids[known] = label_at(cells, at[known]) if is_label else outline_at(cells, at[known])
    return ids


def label_at(labels: Any, xy: NDArray[np.float64]) -> NDArray[Any]:
    """Label under each point, as text; `NO_ID` on background and outside the image.

    Parameters
    ----------
    labels
        Label image, read block by block.
    xy
        Finite points in its px, (n, 2).

    Returns
    -------
    Text, (n,).
    """
    at = np.floor(xy).astype(np.int64)
    value = np.zeros(len(at), dtype=np.int64)
    for y0, x0, block in label_blocks(labels):
        x, y = (at - [x0, y0]).T
        inside = (x >= 0) & (y >= 0) & (x < block.shape[1]) & (y < block.shape[0])
        value[inside] = block[y[inside], x[inside]]
    return np.where(value > 0, as_text(value), NO_ID)


def outline_at(shapes: gpd.GeoDataFrame, xy: NDArray[np.float64]) -> NDArray[Any]:
    """Index of the polygon that each point lies in, as text; `NO_ID` outside all, and where polygons overlap.

    Parameters
    ----------
    shapes
        Polygons.
    xy
        Finite points in their coordinates, (n, 2).

    Returns
    -------
    Text, (n,).
    """
    point, polygon = shapely.STRtree(shapes.geometry.to_numpy()).query(shapely.points(xy), predicate="within")
    once = np.bincount(point, minlength=len(xy))[point] == 1
    ids = np.full(len(xy), NO_ID, dtype=object)
    ids[point[once]] = as_text(shapes.index)[polygon[once]]
    return ids
