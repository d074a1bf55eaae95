"""Which points lie in which of many circles or polygons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray


def in_circles(xy: NDArray[np.float64], centres: NDArray[Any], radius: NDArray[np.float64]) -> csr_matrix:
    """Which points lie in which circle, its border included.

    Parameters
    ----------
    xy
        Points, finite, (n, 2).
    centres
        Centres of the circles, shapely points (m,); an empty one holds nothing.
    radius
        Their radii, (m,), in the units of the points.

    Returns
    -------
    (m, n) ones and zeros; a point may lie in several circles.
    """
    there = np.flatnonzero(~shapely.is_empty(centres))
    middle = shapely.get_coordinates(centres[there])
    found = cKDTree(xy).query_ball_point(middle, radius[there], return_sorted=True) if len(xy) else []
    point = np.concatenate([np.zeros(0, np.int64), *(np.asarray(f, dtype=np.int64) for f in found)])
    circle = np.repeat(there[: len(found)], [len(f) for f in found])
    return _ones(circle, point, shape=(len(centres), len(xy)))


def in_polygons(xy: NDArray[np.float64], polygons: NDArray[Any]) -> csr_matrix:
    """Which points lie in which polygon; of polygons that share a border, a point on it lies in the first one only.

    Units that tile the plane therefore hold each point once.

    Parameters
    ----------
    xy
        Points, finite, (n, 2).
    polygons
        Shapely polygons (m,).

    Returns
    -------
    (m, n) ones and zeros; a point may lie inside of several polygons that overlap.
    """
    points = shapely.points(xy)
    point, polygon = shapely.STRtree(polygons).query(points, predicate="intersects")
    inner = shapely.contains(polygons[polygon], points[point])
    has_inner = np.zeros(len(xy), dtype=np.bool_)
    has_inner[point[inner]] = True
    first = np.full(len(xy), len(polygons), dtype=np.int64)
    np.minimum.at(first, point, polygon)
    kept = inner | (~has_inner[point] & (polygon == first[point]))
    return _ones(polygon[kept], point[kept], shape=(len(polygons), len(xy)))


def _ones(row: NDArray[np.int64], column: NDArray[np.int64], *, shape: tuple[int, int]) -> csr_matrix:
    return csr_matrix((np.ones(len(row)), (row, column)), shape=shape)
