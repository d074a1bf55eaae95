"""The H&E image, drawn straight into its own pixel grid from the geometry of the tissue, tile by tile.

Colour follows Beer and Lambert: ``I = I0 exp(-(H h + E e))`` with stain amounts H, E and the stain vectors h, e that
Macenko normalisation takes as its reference.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from lemon_sc.datasets import _structures as st
from lemon_sc.datasets._cells import RAYS
from lemon_sc.datasets._looks import LOOK_TABLE, MAX_NUCLEOLI, Details
from lemon_sc.datasets._outlines import polar_radius
from lemon_sc.datasets._tissue import Tissue, edge_distance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Plane = NDArray[np.float32]
    Array = NDArray[np.floating]

STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]], dtype=np.float32)
WHITE = np.array([243.0, 241.0, 244.0], dtype=np.float32)
TILE = 768
PSF_UM = 0.25
SCANNER_NOISE = 1.6
MAX_THREADS = 8
BATCH = 1 << 20  # pixels of object windows drawn at once


class Canvas:
    """Stain amounts of one tile, with the maps between its pixels and um."""

    def __init__(self, to_um: Array, x0: int, y0: int, width: int, height: int) -> None:
        self.to_um = np.asarray(to_um, dtype=np.float64)
        self.to_px = np.linalg.inv(self.to_um)
        self.pixel = float(np.sqrt(abs(np.linalg.det(self.to_um[:2, :2]))))
        self.px_per_um = float(np.linalg.norm(self.to_px[:2, :2], 2))
        self.x0, self.y0, self.shape = x0, y0, (height, width)
        self.x, self.y = self.positions(slice(0, height), slice(0, width))
        self.h = np.zeros(self.shape, np.float32)
        self.e = np.zeros(self.shape, np.float32)

    def positions(self, rows: slice, cols: slice) -> tuple[Plane, Plane]:
        """Position in um of the pixel centres of a window."""
        px = np.arange(cols.start, cols.stop) + self.x0 + 0.5
        py = (np.arange(rows.start, rows.stop) + self.y0 + 0.5)[:, None]
        m = self.to_um
        x, y = (m[i, 0] * px + m[i, 1] * py + m[i, 2] for i in (0, 1))
        return x.astype(np.float32), y.astype(np.float32)

    def windows(self, centre: Array, reach: Array) -> Iterator[tuple[NDArray[np.intp], Plane, Plane, Array]]:
        """Batches of objects that touch the tile: rows, offsets in um from their centre, window corners (tile px)."""
        at = centre @ self.to_px[:2, :2].T + self.to_px[:2, 2] - (self.x0, self.y0)
        half = np.ceil((reach * self.px_per_um + 1.5) / 4).astype(int) * 4
        height, width = self.shape
        near = (at[:, 0] > -half) & (at[:, 0] < width + half) & (at[:, 1] > -half) & (at[:, 1] < height + half)
        for size in np.unique(half[near]):
            rows = np.flatnonzero(near & (half == size))
            for part in np.array_split(rows, -(-len(rows) * (2 * size) ** 2 // BATCH)):
                corner = np.rint(at[part]).astype(int) - size
                step = np.arange(2 * size) + 0.5
                dx = (step + (corner[:, :1] - at[part, :1]))[:, None, :]
                dy = (step + (corner[:, 1:] - at[part, 1:]))[:, :, None]
                m = self.to_um
                u, v = m[0, 0] * dx + m[0, 1] * dy, m[1, 0] * dx + m[1, 1] * dy
                yield part, u.astype(np.float32), v.astype(np.float32), corner

    def paste(self, corner: Array, mask: Plane, h: Plane, e: Plane) -> None:
        """Lay windows (k, s, s) over the tile, in order; `mask` is their coverage."""
        size = mask.shape[-1]
        height, width = self.shape
        for i, (cx, cy) in enumerate(corner):
            rows, cols = slice(max(cy, 0), min(cy + size, height)), slice(max(cx, 0), min(cx + size, width))
            if rows.start >= rows.stop or cols.start >= cols.stop:
                continue
            inner = (i, slice(rows.start - cy, rows.stop - cy), slice(cols.start - cx, cols.stop - cx))
            m = mask[inner]
            for plane, value in ((self.h, h), (self.e, e)):
                plane[rows, cols] += m * (value[inner] - plane[rows, cols])


def render_he(
    tissue: Tissue,
    body: Array,
    details: Details,
    *,
    to_um: Array,
    shape: tuple[int, int],
    rng: np.random.Generator,
    stains: Array = STAINS,
) -> NDArray[np.uint8]:
    """Draw the section.

    Parameters
    ----------
    tissue, body, details
        The section, the cell bodies around its nuclei, and their random detail.
    to_um
        Affine (3, 3) from image px (pixel centres at half-integers) to um.
    shape
        Height and width in px.
    rng
        For the scanner's noise, which is drawn tile by tile, whatever the number of threads.
    stains
        Optical density per amount of haematoxylin and of eosin, (2, 3).

    Returns
    -------
    uint8 (height, width, 3).
    """
    image = np.empty((*shape, 3), np.uint8)
    corners = [(x, y) for y in range(0, shape[0], TILE) for x in range(0, shape[1], TILE)]

    def draw(corner: tuple[int, int], noise: np.random.Generator) -> None:
        x, y = corner
        target = image[y : y + TILE, x : x + TILE]
        canvas, halo = _draw_tile(tissue, body, details, to_um, (x, y, target.shape[1], target.shape[0]))
        light = _develop(canvas, np.asarray(stains, dtype=np.float32))
        light = light[halo : halo + target.shape[0], halo : halo + target.shape[1]]
        light += noise.standard_normal(light.shape, dtype=np.float32) * SCANNER_NOISE
        target[:] = np.rint(light).clip(0, 255)

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        list(pool.map(draw, corners, rng.spawn(len(corners))))
    return image


def _draw_tile(
    tissue: Tissue, body: Array, details: Details, to_um: Array, box: tuple[int, int, int, int]
) -> tuple[Canvas, int]:
    """Stain amounts of the tile ``box = (x, y, width, height)`` with a halo around it, and the width of the halo."""
    x, y, width, height = box
    halo = int(np.ceil(4 * PSF_UM / np.sqrt(abs(np.linalg.det(to_um[:2, :2])))))
    canvas = Canvas(to_um, x - halo, y - halo, width + 2 * halo, height + 2 * halo)
    _background(canvas, tissue, details)
    _cytoplasm(canvas, tissue, body, details)
    _chromatin(canvas, tissue, details)
    _section_edge(canvas, tissue, details)
    return canvas, halo


def _background(canvas: Canvas, tissue: Tissue, details: Details) -> None:
    """Collagen, the lumens of ducts and vessels, the ground of nests and aggregates."""
    structures = tissue.structures
    near, bent = np.full((2, *canvas.shape), st.FAR, np.float32)
    kind = np.full(canvas.shape, -1)
    for s in range(len(structures)):
        window = _box(canvas, structures.centre[s], structures.reach(s))
        if window is not None:
            d = structures.distance(s, canvas.x[window], canvas.y[window]).astype(np.float32)
            kind[window] = np.where(d < near[window], structures.kind[s], kind[window])
            near[window] = np.minimum(near[window], d)
            if structures.kind[s] in st.BENT:
                bent[window] = np.minimum(bent[window], d)
    across, along = tissue.collagen.potential(canvas.x, canvas.y, bent)
    _collagen(canvas, details, across, along)
    canvas.e += 0.16 * np.exp(-(((bent - 0.3) / 0.7) ** 2))  # basement membrane
    _fill_structures(canvas, details, near, kind)


def _collagen(canvas: Canvas, details: Details, across: Plane, along: Plane) -> None:
    """Bundles and single fibres with clefts between them; where the stroma is loose there are more clefts."""
    x, y = canvas.x, canvas.y
    fine, broad = details.fibre(across / 0.9, along / 9), details.fibre(across / 3.4 + 31, along / 24)
    loose = details.slow(x / 55, y / 55)
    cleft = _step(details.clump(across / 3.6, along / 17) - 0.45 * loose, -1.7, -0.7)
    grain = details.fine(x / 0.8, y / 0.8)
    body = 0.50 - 0.07 * loose + 0.10 * fine + 0.11 * broad + 0.035 * grain
    canvas.e[:] = body.clip(0.06) * (0.10 + 0.90 * cleft)
    canvas.h[:] = (0.06 + 0.02 * fine + 0.012 * grain) * (0.3 + 0.7 * cleft)


GROUND = {st.NEST: (0.50, 0.19, 0.07), st.LYMPHOID: (0.28, 0.10, 0.08), st.DUCT: (0.52, 0.13, 0.05)}


def _fill_structures(canvas: Canvas, details: Details, near: Plane, kind: NDArray[np.integer]) -> None:
    """Eosin, haematoxylin and grain inside of each kind of structure; aggregates have no sharp border."""
    speck, ragged = details.fine(canvas.x / 1.3, canvas.y / 1.3), details.clump(canvas.x / 6, canvas.y / 6)
    sharp, diffuse = _step(-near, -0.4, 0.4), 0.8 * _step(-near + 4 * ragged, -4, 6)
    for k, (eosin, haematoxylin, grain) in GROUND.items():
        m = (diffuse if k == st.LYMPHOID else sharp) * (kind == k)
        canvas.e += m * (eosin + grain * speck - canvas.e)
        canvas.h += m * (haematoxylin + 0.3 * grain * speck - canvas.h)
    for k, depth in st.WALL.items():
        lumen = (kind == k) * _step(-near - depth + 0.6 * speck, -0.5, 0.5)
        canvas.e *= 1 - 0.97 * lumen
        canvas.h *= 1 - 0.97 * lumen


def _cytoplasm(canvas: Canvas, tissue: Tissue, body: Array, details: Details) -> None:
    table = np.concatenate([body, body[:, :1]], axis=1).astype(np.float32)
    for rows, u, v, corner in canvas.windows(tissue.nuclei.origin, body.max(axis=1)):
        look = LOOK_TABLE[details.rows[rows]].astype(np.float32)[:, None, None]
        turn = np.arctan2(v, u) % np.float32(2 * np.pi) * np.float32(RAYS / (2 * np.pi))
        left = turn.astype(np.intp).clip(0, RAYS - 1)
        pick = np.arange(len(rows))[:, None, None]
        part = table[rows]
        radius = part[pick, left] + (turn - left) * (part[pick, left + 1] - part[pick, left])
        depth = radius - np.hypot(u, v)
        mask = look[..., 8] * _step(depth, -0.35, 0.35)
        origin = tissue.nuclei.origin[rows].astype(np.float32)[:, :, None, None]
        grain = details.fine((u + origin[:, 0]) / 0.9, (v + origin[:, 1]) / 0.9)
        line = look[..., 6] * np.exp(-((depth / 0.45) ** 2))
        tint = details.tint[rows].astype(np.float32)[:, :, None, None]
        eosin = (look[..., 4] * (1 + look[..., 7] * grain) + line) * tint[:, 0]
        canvas.paste(corner, mask, (look[..., 5] * (1 + 0.2 * grain) + 0.5 * line) * tint[:, 1], eosin)


def _chromatin(canvas: Canvas, tissue: Tissue, details: Details) -> None:
    real = tissue.nuclei.take(np.arange(tissue.n_nuclei))
    for rows, u, v, corner in canvas.windows(real.origin, real.a * 1.35):
        nuclei = real.take(rows)
        look = LOOK_TABLE[details.rows[rows]].astype(np.float32)[:, None, None]
        cos, sin = (f(nuclei.angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        p, q = u * cos + v * sin, v * cos - u * sin
        rho = np.hypot(p, q) + np.float32(1e-6)
        a, b = (f.astype(np.float32)[:, None, None] for f in (nuclei.a, nuclei.b))
        harmonics = (f.astype(np.float32)[:, None, None] for f in (nuclei.amplitude, nuclei.phase))
        radius, slope = polar_radius(p / rho, q / rho, a, b, *harmonics)
        depth = (radius - rho) / np.sqrt(1 + slope**2)
        mask = (0.5 + depth / canvas.pixel).clip(0, 1).astype(np.float32)
        origin = nuclei.origin.astype(np.float32)[:, :, None, None]
        x, y = u + origin[:, 0], v + origin[:, 1]
        pattern = 1 + look[..., 0] * details.fine(x / 0.55, y / 0.55) + look[..., 1] * details.clump(x / 1.3, y / 1.3)
        pattern += look[..., 2] * np.exp(-(((depth - 0.3) / 0.4) ** 2))
        spots = _nucleoli(p, q, details, rows)
        pattern = (pattern + 1.2 * spots).clip(0.25)
        share = (mask * pattern).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))  # so that the mean amount is the planted one
        amount = pattern * (tissue.chromatin[rows] / share).astype(np.float32)[:, None, None]
        canvas.paste(corner, mask, amount, np.float32(0.28) + 0.35 * spots)


def _nucleoli(p: Plane, q: Plane, details: Details, rows: NDArray[np.intp]) -> Plane:
    spots = np.zeros_like(p)
    for i in range(MAX_NUCLEOLI):
        radius = details.nucleolus_radius[rows, i]
        there = np.flatnonzero(radius > 0)
        x, y = (details.nucleolus_xy[rows[there], i, axis].astype(np.float32)[:, None, None] for axis in (0, 1))
        square = ((p[there] - x) ** 2 + (q[there] - y) ** 2) / radius[there].astype(np.float32)[:, None, None] ** 2
        spots[there] += np.exp(-(square**2))
    return spots


def _section_edge(canvas: Canvas, tissue: Tissue, details: Details) -> None:
    """Nothing outside the section; inside it, stain and thickness drift slowly."""
    there = _step(edge_distance(tissue.edge, tissue.side, canvas.x, canvas.y), -0.5, 1.5)
    canvas.h *= there * (1 + 0.05 * details.slow(canvas.x / 260, canvas.y / 260))
    canvas.e *= there * (1 + 0.08 * details.slow(canvas.x / 200 + 40, canvas.y / 200))


def _develop(canvas: Canvas, stains: Plane) -> Plane:
    """Stain amounts to light (h, w, 3), blurred by the optics."""
    density = canvas.h[..., None] * stains[0] + canvas.e[..., None] * stains[1]
    sigma = PSF_UM / canvas.pixel
    return gaussian_filter(WHITE * np.exp(-density), (sigma, sigma, 0), truncate=4)


def _box(canvas: Canvas, centre: Array, reach: float) -> tuple[slice, slice] | None:
    x, y = canvas.to_px[:2, :2] @ centre + canvas.to_px[:2, 2] - (canvas.x0, canvas.y0)
    half = reach * canvas.px_per_um + 1
    height, width = canvas.shape
    rows = slice(max(int(y - half), 0), min(int(y + half) + 1, height))
    cols = slice(max(int(x - half), 0), min(int(x + half) + 1, width))
    return (rows, cols) if rows.start < rows.stop and cols.start < cols.stop else None


def _step(value: Plane, low: float, high: float) -> Plane:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = ((value - low) / (high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)
