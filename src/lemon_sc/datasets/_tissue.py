"""A synthetic tissue section: which cell of which type lies where, with its nuclei. Units: um."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from lemon_sc.datasets import _structures as st
from lemon_sc.datasets._noise import Noise
from lemon_sc.datasets._outlines import HARMONICS, Outlines, make_outlines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]
    Ints = NDArray[np.integer]


class NucleusType(NamedTuple):
    """What the nuclei of a cell type look like (means; areas in um2, chromatin as haematoxylin optical density)."""

    area: float
    area_sd: float
    elongation: float
    chromatin: float
    roughness: float


TYPES = {
    "tumour": NucleusType(64.0, 0.26, 1.22, 0.80, 0.035),
    "epithelial": NucleusType(37.0, 0.17, 1.45, 1.15, 0.020),
    "lymphocyte": NucleusType(23.0, 0.15, 1.08, 1.95, 0.025),
    "fibroblast": NucleusType(27.0, 0.24, 2.90, 1.40, 0.030),
    "endothelial": NucleusType(19.0, 0.18, 2.70, 1.60, 0.030),
    "macrophage": NucleusType(36.0, 0.20, 1.45, 1.00, 0.090),
    "plasma": NucleusType(26.0, 0.15, 1.10, 1.70, 0.020),
}
NAMES = tuple(TYPES)
TUMOUR, EPITHELIAL, LYMPHOCYTE, FIBROBLAST, ENDOTHELIAL, MACROPHAGE, PLASMA = range(len(TYPES))
CHROMATIN_SD = 0.18
STROMA_MIX = {FIBROBLAST: 0.70, LYMPHOCYTE: 0.11, PLASMA: 0.06, MACROPHAGE: 0.09, ENDOTHELIAL: 0.04}
LYMPHOID_MIX = {LYMPHOCYTE: 0.90, PLASMA: 0.06, MACROPHAGE: 0.04}
AREA_PER_CELL = 150.0
MULTINUCLEATE = 0.03
NO_NUCLEUS = 0.04
EDGE = 9.0  # mean distance of the tissue's edge from the border of the field


@dataclass(frozen=True)
class Tissue:
    """Cells (n) and nuclei (m, real ones first; the last `n_virtual` only seed the cells without a nucleus).

    ``cell_of[j]`` is the cell of nucleus ``j``; ``chromatin`` its mean haematoxylin density. ``wall`` is the structure
    whose wall a cell is part of, or -1.
    """

    side: float
    structures: st.Structures
    collagen: st.Collagen
    edge: Noise
    cell_type: Ints
    wall: Ints
    nuclei: Outlines
    cell_of: Ints
    chromatin: Array
    n_virtual: int

    @property
    def n_nuclei(self) -> int:
        """Nuclei that exist."""
        return len(self.nuclei) - self.n_virtual


def edge_distance(edge: Noise, side: float, x: Array, y: Array) -> Array:
    """Distance from the irregular edge of the section, positive in the tissue."""
    border = np.minimum(np.minimum(x, side - x), np.minimum(y, side - y))
    return border - EDGE - 3.5 * edge(x / 45, y / 45) - 0.8 * edge(x / 6, y / 6)


def make_tissue(rng: np.random.Generator, n_cells: int, *, multinucleate: bool) -> Tissue:
    """Lay out exactly `n_cells` cells; without `multinucleate` no cell has more than one nucleus."""
    side = float(np.sqrt(n_cells * AREA_PER_CELL)) + 2 * EDGE
    while True:
        structures = st.place_structures(rng, side)
        collagen, edge = st.Collagen(rng, structures), Noise(rng, 128)
        sites = _sites(rng, side, structures, collagen, edge)
        if len(sites.xy) >= n_cells:
            break
        side *= 1.04  # the structures drawn leave room for too few cells
    keep = rng.permutation(len(sites.xy))[:n_cells]
    sites = sites.take(keep)
    cell_of, xy, angle = _count_nuclei(rng, sites, multinucleate=multinucleate)
    n_virtual = int(np.sum(cell_of < 0))
    cell_of = np.where(cell_of < 0, -1 - cell_of, cell_of)
    kind = sites.kind[cell_of]
    nuclei = _draw_nuclei(rng, kind, xy, angle)
    chromatin = np.array([t.chromatin for t in TYPES.values()])[kind] * _spread(rng, CHROMATIN_SD, len(kind))
    nuclei = nuclei.moved(_push_apart(nuclei, structures, sites.structure[cell_of], cell_of, side))
    return Tissue(side, structures, collagen, edge, sites.kind, sites.structure, nuclei, cell_of, chromatin, n_virtual)


class _Sites(NamedTuple):
    """Candidate cells: position, type, orientation of the nucleus, structure whose wall holds the cell (or -1)."""

    xy: Array
    kind: Ints
    angle: Array
    structure: Ints

    def take(self, rows: NDArray[np.generic]) -> _Sites:
        """Some of the sites."""
        return _Sites(self.xy[rows], self.kind[rows], self.angle[rows], self.structure[rows])


def _sites(
    rng: np.random.Generator, side: float, structures: st.Structures, collagen: st.Collagen, edge: Noise
) -> _Sites:
    parts = [_structure_sites(rng, structures, s) for s in range(len(structures))]
    xy = _lattice(rng, (0, 0), side, 17.0, square=True)
    xy = xy[collagen.nearest(*xy.T) > 5.0]
    along = collagen.direction(*xy.T) + 0.18 * rng.standard_normal(len(xy))
    kind = rng.choice(list(STROMA_MIX), size=len(xy), p=list(STROMA_MIX.values()))
    parts.append(_Sites(xy, kind, along, np.full(len(xy), -1)))
    xy, kind, angle, structure = (np.concatenate(field) for field in zip(*parts, strict=True))
    sites = _Sites(xy, kind, angle, structure)
    inside = edge_distance(edge, side, *sites.xy.T) > 5.0
    return sites.take(inside)


def _structure_sites(rng: np.random.Generator, structures: st.Structures, s: int) -> _Sites:
    kind = structures.kind[s]
    if kind in st.WALL:
        return _wall_sites(rng, structures, s)
    spacing, margin = (13.5, 5.0) if kind == st.NEST else (7.4, 2.0)
    xy = _lattice(rng, structures.centre[s], structures.radius[s] * 1.4, spacing)
    xy = xy[structures.distance(s, *xy.T) < -margin]
    n = len(xy)
    mix = {TUMOUR: 0.97, LYMPHOCYTE: 0.03} if kind == st.NEST else LYMPHOID_MIX
    types = rng.choice(list(mix), size=n, p=list(mix.values()))
    return _Sites(xy, types, rng.uniform(0, np.pi, n), np.full(n, -1))


def _wall_sites(rng: np.random.Generator, structures: st.Structures, s: int) -> _Sites:
    """Cells along the wall of a duct (nuclei upright) or a vessel (nuclei flat)."""
    duct = structures.kind[s] == st.DUCT
    spacing, depth, scatter = (6.4, 6.0, 1.4) if duct else (13.0, 0.6, 0.2)
    n = max(3, int(2 * np.pi * (structures.radius[s] - depth) / spacing))
    theta = (np.arange(n) + rng.uniform(-0.25, 0.25, n)) * 2 * np.pi / n
    ray = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    radius = -structures.distance(s, *(structures.centre[s] + 1e-6 * ray).T)
    xy = structures.centre[s] + ray * (radius - depth + scatter * rng.standard_normal(n))[:, None]
    angle = theta + (0 if duct else np.pi / 2) + 0.12 * rng.standard_normal(n)
    return _Sites(xy, np.full(n, EPITHELIAL if duct else ENDOTHELIAL), angle, np.full(n, s))


def _lattice(
    rng: np.random.Generator, centre: Array | tuple[float, float], half: float, spacing: float, *, square: bool = False
) -> Array:
    """Jittered hexagonal lattice over the square of half-side `half` around `centre`, or over [0, half]^2."""
    low = np.zeros(2) if square else np.asarray(centre) - half
    extent = half if square else 2 * half
    rows = np.arange(0, extent, spacing * np.sqrt(3) / 2)
    x = np.arange(0, extent, spacing)
    grid = np.stack(np.broadcast_arrays(x[None] + (np.arange(len(rows)) % 2)[:, None] * spacing / 2, rows[:, None]), -1)
    points = grid.reshape(-1, 2)
    return low + points + rng.uniform(-0.4, 0.4, points.shape) * spacing


def _count_nuclei(rng: np.random.Generator, sites: _Sites, *, multinucleate: bool) -> tuple[Ints, Array, Array]:
    """Cell, position and angle of every nucleus; cell ``-1 - i`` marks the virtual nucleus of a cell without one."""
    n = len(sites.xy)
    order = rng.permutation(n)
    able = order[np.isin(sites.kind[order], (TUMOUR, MACROPHAGE))]
    double = able[: max(1, round(MULTINUCLEATE * n))] if multinucleate else able[:0]
    single = order[~np.isin(order, double)]
    none = single[: max(1, round(NO_NUCLEUS * n))]
    real = np.setdiff1d(np.arange(n), none)
    cell_of = np.concatenate([real, double, -1 - none])
    source = np.concatenate([real, double, none])
    xy, angle = sites.xy[source].copy(), sites.angle[source].copy()
    second = slice(len(real), len(real) + len(double))
    beside = angle[second] + np.pi / 2
    xy[second] += 6.0 * np.stack([np.cos(beside), np.sin(beside)], axis=1)
    return cell_of, xy, angle


def _spread(rng: np.random.Generator, sd: float | Array, n: int) -> Array:
    return np.exp(sd * rng.standard_normal(n).clip(-2.5, 2.5))


def _draw_nuclei(rng: np.random.Generator, kind: Ints, xy: Array, angle: Array) -> Outlines:
    looks = np.array(list(TYPES.values()))[kind]
    area = looks[:, 0] * _spread(rng, looks[:, 1], len(kind))
    elongation = 1 + (looks[:, 2] - 1) * _spread(rng, 0.25, len(kind))
    falloff = np.array([1.0, 0.7, 0.4])
    amplitude = looks[:, 4:5] * falloff * rng.standard_normal((len(kind), len(HARMONICS))).clip(-1.8, 1.8)
    phase = rng.uniform(0, 2 * np.pi, amplitude.shape)
    return make_outlines(xy, angle, area, elongation, amplitude, phase)


def _push_apart(
    nuclei: Outlines, structures: st.Structures, wall: Ints, cell_of: Ints, side: float, rounds: int = 40
) -> Array:
    """Move nuclei until they hardly overlap: each is three discs along its long axis that repel one another."""
    xy = nuclei.centre.copy()
    n = len(xy)
    axis = np.stack([np.cos(nuclei.angle), np.sin(nuclei.angle)], axis=1) * (nuclei.a - nuclei.b)[:, None]
    owner, radius = np.tile(np.arange(n), 3), np.tile(nuclei.b, 3) + 0.35
    second = np.setdiff1d(np.arange(n), np.unique(cell_of, return_index=True)[1])
    first = np.array([np.flatnonzero(cell_of == c)[0] for c in cell_of[second]], dtype=int)
    for turn in range(rounds):
        discs = np.concatenate([xy - axis, xy, xy + axis])
        if turn % 5 == 0:  # between two searches a pair may come closer by a little, hence the margin
            i, j = cKDTree(discs).query_pairs(2 * radius.max() + 1, output_type="ndarray").T
            near = np.hypot(*(discs[i] - discs[j]).T) < radius[i] + radius[j] + 1
            near &= owner[i] != owner[j]
            i, j = i[near], j[near]
        delta = discs[i] - discs[j]
        gap = np.hypot(*delta.T)
        push = (radius[i] + radius[j] - gap).clip(0)
        force = delta * (0.25 * push / (gap + 1e-9))[:, None]
        step = np.stack([np.bincount(owner[i], f, n) - np.bincount(owner[j], f, n) for f in force.T], axis=1)
        xy += step.clip(-2, 2)
        _keep_in_wall(xy, structures, wall)
        _keep_together(xy, first, second, nuclei.b[first] + nuclei.b[second] + 0.7)
        xy = xy.clip(EDGE, side - EDGE)
    return xy


def _keep_together(xy: Array, first: Ints, second: Ints, reach: Array) -> None:
    """Pull the two nuclei of a cell towards each other until no more than `reach` lies between them, in place."""
    delta = xy[second] - xy[first]
    length = np.hypot(*delta.T)
    pull = delta * ((length - reach).clip(0) / (length + 1e-9) * 0.4)[:, None]
    xy[first] += pull
    xy[second] -= pull


def _keep_in_wall(xy: Array, structures: st.Structures, wall: Ints) -> None:
    """Pull the cells of ducts and vessels back between the two faces of their wall, in place."""
    for s in np.unique(wall[wall >= 0]):
        rows = np.flatnonzero(wall == s)
        low, high = (-9.0, -4.0) if structures.kind[s] == st.DUCT else (-1.5, 0.5)
        d = structures.distance(s, *xy[rows].T)
        ray = xy[rows] - structures.centre[s]
        xy[rows] += ray * ((d.clip(low, high) - d) / np.hypot(*ray.T))[:, None]
