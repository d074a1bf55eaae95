"""From nucleus outlines to centres and areas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

POLYGONAL = (3, 6)  # shapely type ids of Polygon and MultiPolygon
POINT = 0


@dataclass(frozen=True, kw_only=True)
class Centres:
    """Centre and area of n nuclei in the units of their outlines.

    Attributes
    ----------
    xy
        Area-weighted centroid, float64 (n, 2); NaN where there is no outline to speak of.
    area
        Float64 (n,); NaN for points.
    repaired
        Bool (n,): the outline crossed itself and its largest valid part was taken.
    """

    xy: NDArray[np.float64]
    area: NDArray[np.float64]
    repaired: NDArray[np.bool_]


def _largest_part(geometry: Any) -> Any:
    """The largest polygon of a geometry that may hold several, or lines and points besides."""
    parts = [g for g in shapely.get_parts(geometry) if shapely.get_type_id(g) in POLYGONAL]
    parts = [p for g in parts for p in shapely.get_parts(g)]
    return max(parts, key=shapely.area) if parts else shapely.Polygon()


def repair(geometries: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Replace outlines that cross themselves by their largest valid part; say which.

    Parameters
    ----------
    geometries
        Shapely geometries, (n,).

    Returns
    -------
    The geometries, (n,), and which of them were replaced, bool (n,).
    """
    broken = np.isin(shapely.get_type_id(geometries), POLYGONAL) & ~shapely.is_valid(geometries)
    mended = geometries.copy()
    for i in np.flatnonzero(broken):
        mended[i] = _largest_part(shapely.make_valid(geometries[i]))
    return mended, broken


def outline_centres(geometries: Iterable[Any], *, radius: NDArray[np.float64] | None = None) -> Centres:
    """Centres of polygons (area-weighted, not the vertex mean) or points.

    Parameters
    ----------
    geometries
        Shapely polygons, multipolygons or points; None and empty ones give NaN.
    radius
        Radius of each point where they stand for circles, (n,).

    Returns
    -------
    Centres and areas, and which outlines were repaired; one row per geometry.
    """
    given = np.asarray(list(geometries), dtype=object)
    geoms, repaired = repair(given)
    centroid = shapely.centroid(geoms)
    there = ~(shapely.is_missing(centroid) | shapely.is_empty(centroid))  # an empty point has no coordinates to ask for
    xy = np.full((len(geoms), 2), np.nan)
    xy[there] = np.column_stack([shapely.get_x(centroid[there]), shapely.get_y(centroid[there])])
    area = shapely.area(geoms).astype(np.float64)
    points = shapely.get_type_id(geoms) == POINT
    area[points] = np.nan if radius is None else np.pi * np.asarray(radius, dtype=np.float64)[points] ** 2
    flat = ~points & ~(area > 0)
    xy[flat] = np.nan
    area[flat] = np.nan
    return Centres(xy=xy, area=area, repaired=repaired)


def label_centres(
    blocks: Iterable[tuple[int, int, NDArray[np.integer]]],
) -> tuple[NDArray[np.int64], Centres]:
    """Centres of the labels of an image that is read block by block.

    Parameters
    ----------
    blocks
        (y0, x0, labels) with labels (h, w) and 0 for background; blocks do not overlap and may cut labels.

    Returns
    -------
    Label values in ascending order, and their centres in px (pixel centres lie at + 0.5).
    """
    parts: list[NDArray[np.float64]] = []
    for y0, x0, block in blocks:
        r, c = np.nonzero(block)
        if len(r):
            value, at = np.unique(block[r, c], return_inverse=True)
            sums = [np.bincount(at, weights=w) for w in (np.ones(len(r)), c + x0 + 0.5, r + y0 + 0.5)]
            parts.append(np.column_stack([value.astype(np.float64), *sums]))
    table = np.concatenate(parts) if parts else np.zeros((0, 4))
    value, at = np.unique(table[:, 0], return_inverse=True)
    n, sum_x, sum_y = (np.bincount(at, weights=table[:, k], minlength=len(value)) for k in (1, 2, 3))
    return value.astype(np.int64), Centres(
        xy=np.column_stack([sum_x, sum_y]) / np.maximum(n, 1)[:, None],
        area=n.astype(np.float64),
        repaired=np.zeros(len(value), dtype=np.bool_),
    )
