"""Cell bodies: every nucleus grows until it meets a neighbour or has grown enough, as in Xenium. Units: um."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.spatial import cKDTree

from lemon_sc.datasets import _structures as st
from lemon_sc.datasets import _tissue as ti

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

RAYS = 32
GROWTH = {
    ti.TUMOUR: 6.0,
    ti.EPITHELIAL: 9.0,
    ti.LYMPHOCYTE: 1.6,
    ti.FIBROBLAST: 2.5,
    ti.ENDOTHELIAL: 1.2,
    ti.MACROPHAGE: 4.5,
    ti.PLASMA: 3.5,
}
HALVINGS = 6


def ray_angles() -> Array:
    """World directions of the rays, (RAYS,)."""
    return np.linspace(0, 2 * np.pi, RAYS, endpoint=False)


def grow(tissue: ti.Tissue) -> Array:
    """Radius of the cell body around every nucleus' origin along `ray_angles`, (m, RAYS)."""
    theta = ray_angles()
    ray = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    radius = tissue.nuclei.radius(np.broadcast_to(theta, (len(tissue.nuclei), RAYS)))
    contour = tissue.nuclei.origin[:, None] + radius[..., None] * ray
    tree = cKDTree(contour.reshape(-1, 2))
    owner = np.repeat(tissue.cell_of, RAYS)
    low, high = np.zeros_like(radius), np.ones_like(radius)
    growth = np.array([GROWTH[k] for k in range(len(ti.TYPES))])[tissue.cell_type[tissue.cell_of]][:, None]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tip = contour + (middle * growth)[..., None] * ray
        mine = owner[tree.query(tip.reshape(-1, 2), workers=-1)[1]].reshape(radius.shape) == tissue.cell_of[:, None]
        mine &= _in_wall(tissue, tip)
        low, high = np.where(mine, middle, low), np.where(mine, high, middle)
    return radius + low * growth


def _in_wall(tissue: ti.Tissue, tip: Array) -> NDArray[np.bool_]:
    """Whether ray tips (m, RAYS, 2) of wall cells stay in the wall; true for the other cells."""
    inside = np.ones(tip.shape[:2], dtype=bool)
    wall = tissue.wall[tissue.cell_of]
    for s in np.unique(wall[wall >= 0]):
        rows = np.flatnonzero(wall == s)
        d = tissue.structures.distance(s, tip[rows, :, 0], tip[rows, :, 1])
        inside[rows] = (d < 0.5) & (d > -st.WALL[int(tissue.structures.kind[s])])
    return inside


def cell_polygons(tissue: ti.Tissue, body: Array) -> NDArray[np.object_]:
    """One shapely polygon per cell: the union of the bodies around its nuclei."""
    theta = ray_angles()
    xy = tissue.nuclei.origin[:, None] + body[..., None] * np.stack([np.cos(theta), np.sin(theta)], axis=1)
    bodies = shapely.polygons(np.concatenate([xy, xy[:, :1]], axis=1))
    cells = np.empty(len(tissue.cell_type), dtype=object)
    order = np.argsort(tissue.cell_of, kind="stable")
    rows, starts = np.unique(tissue.cell_of[order], return_index=True)
    for cell, group in zip(rows, np.split(order, starts[1:]), strict=True):
        merged = bodies[group[0]] if len(group) == 1 else shapely.union_all(bodies[group])
        cells[cell] = shapely.Polygon(merged.exterior) if merged.geom_type == "Polygon" else merged.convex_hull
    return cells
