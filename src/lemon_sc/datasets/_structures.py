"""Where the tissue has ducts, tumour nests, lymphoid aggregates and vessels, and how its collagen runs. Units: um."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.datasets._noise import Noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

DUCT, NEST, LYMPHOID, VESSEL = range(4)
RADIUS = {DUCT: (28.0, 50.0), NEST: (34.0, 75.0), LYMPHOID: (32.0, 65.0), VESSEL: (8.0, 17.0)}
AREA_FRACTION = {DUCT: 0.19, NEST: 0.24, LYMPHOID: 0.10, VESSEL: 0.02}
WALL = {DUCT: 13.0, VESSEL: 2.5}
GAP = 10.0
HARMONICS = np.arange(2, 6)
ROUGHNESS = np.array([0.10, 0.07, 0.045, 0.03])
FAR = 1e3
WRAP = 5.0  # collagen runs around a structure up to about this far from it
BENT = (DUCT, NEST, VESSEL)  # the structures it runs around


@dataclass(frozen=True)
class Structures:
    """Closed blobs ``r(theta) = radius (1 + sum amplitude cos(k theta + phase))``, one row each."""

    kind: NDArray[np.int64]
    centre: Array
    radius: Array
    amplitude: Array
    phase: Array

    def __len__(self) -> int:
        return len(self.kind)

    def distance(self, s: int | np.integer, x: Array, y: Array) -> Array:
        """Radial distance from the outline of structure `s`, negative inside."""
        dx, dy = x - self.centre[s, 0], y - self.centre[s, 1]
        theta = np.arctan2(dy, dx)
        wave = sum(
            a * np.cos(k * theta + p) for k, a, p in zip(HARMONICS, self.amplitude[s], self.phase[s], strict=True)
        )
        return np.hypot(dx, dy) - self.radius[s] * (1 + wave)

    def reach(self, s: int) -> float:
        """Radius of a circle around structure `s` and the collagen that it bends."""
        return float(self.radius[s] * (1 + np.abs(self.amplitude[s]).sum()) + 4 * WRAP)


def place_structures(rng: np.random.Generator, side: float) -> Structures:
    """Fill a square field with structures that do not touch, at least one of each kind."""
    wanted = [(kind, _radius(rng, kind, side)) for kind in RADIUS]
    for kind, fraction in AREA_FRACTION.items():
        area = sum(np.pi * r**2 for k, r in wanted if k == kind)
        while area < fraction * side**2:
            radius = _radius(rng, kind, side)
            wanted.append((kind, radius))
            area += np.pi * radius**2
    first, rest = wanted[: len(RADIUS)], sorted(wanted[len(RADIUS) :], key=lambda w: -w[1])
    placed: list[tuple[int, float, float, float]] = []
    for kind, radius in first + rest:
        spot = _free_spot(rng, radius, side, placed)
        if spot is not None:
            placed.append((kind, radius, *spot))
    table = np.array(placed)
    n = len(table)
    return Structures(
        kind=table[:, 0].astype(int),
        centre=table[:, 2:],
        radius=table[:, 1],
        amplitude=ROUGHNESS * rng.standard_normal((n, len(HARMONICS))).clip(-1.5, 1.5),
        phase=rng.uniform(0, 2 * np.pi, (n, len(HARMONICS))),
    )


def _radius(rng: np.random.Generator, kind: int, side: float) -> float:
    low, high = RADIUS[kind]
    return min(rng.uniform(low, high), 0.19 * side)


def _free_spot(
    rng: np.random.Generator, radius: float, side: float, placed: list[tuple[int, float, float, float]]
) -> tuple[float, float] | None:
    """A random centre that keeps `GAP` to all placed structures; the first structures are placed wherever best."""
    margin = 0.9 * radius
    tries = rng.uniform(margin, side - margin, (200, 2))
    if not placed:
        return tuple(tries[0])
    others = np.array(placed)
    room = np.hypot(*(tries[:, None] - others[None, :, 2:]).transpose(2, 0, 1)) - others[:, 1] * 1.15
    room = room.min(axis=1) - 1.15 * radius
    fits = np.flatnonzero(room > min(GAP, 0.03 * side))
    if len(fits):
        return tuple(tries[fits[0]])
    return tuple(tries[room.argmax()]) if len(placed) < len(RADIUS) else None


class Collagen:
    """Direction of the fibres: level lines of a wavy potential, bent around the structures."""

    def __init__(self, rng: np.random.Generator, structures: Structures) -> None:
        self.structures = structures
        self.angle = rng.uniform(0, np.pi)
        self.warp = Noise(rng, 128)

    def potential(self, x: Array, y: Array, nearest: Array) -> tuple[Array, Array]:
        """Coordinates (across, along) the fibres in um, given the distance to the nearest structure in `BENT`."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        across = x * s - y * c + 22 * self.warp(x / 85, y / 85) + 3.2 * self.warp(x / 24 + 7, y / 24)
        across += 0.7 * self.warp(x / 8 + 13, y / 8)
        near = np.exp(-np.maximum(nearest, 0) / WRAP)
        return (1 - near) * across + near * nearest, x * c + y * s

    def nearest(self, x: Array, y: Array, *, kinds: tuple[int, ...] = tuple(RADIUS)) -> Array:
        """Distance of points (n,) from the nearest structure of some kinds, `FAR` where none is near."""
        out = np.full(len(x), FAR)
        for s in np.flatnonzero(np.isin(self.structures.kind, kinds)):
            at = np.flatnonzero(np.hypot(x - self.structures.centre[s, 0], y - self.structures.centre[s, 1]) < FAR / 5)
            out[at] = np.minimum(out[at], self.structures.distance(s, x[at], y[at]))
        return out

    def direction(self, x: Array, y: Array, step: float = 1.0) -> Array:
        """Angle of the fibres at points (n,), by central differences of the potential."""

        def across(dx: float, dy: float) -> Array:
            return self.potential(x + dx, y + dy, self.nearest(x + dx, y + dy, kinds=BENT))[0]

        gx, gy = across(step, 0) - across(-step, 0), across(0, step) - across(0, -step)
        return np.arctan2(gx, -gy)
