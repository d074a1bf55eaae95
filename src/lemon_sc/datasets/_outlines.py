"""Nucleus outlines: slightly irregular ellipses in polar form, with exact area and centroid. Units: um."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

HARMONICS = (3, 4, 5)
ANGLES = 180  # of the quadrature for area and centroid
VERTICES = 24


def polar_radius(cos: Array, sin: Array, a: Array, b: Array, amplitude: Array, phase: Array) -> tuple[Array, Array]:
    """Radius of the outline in a direction of its own frame, and the slope ``R' / R``.

    Parameters
    ----------
    cos, sin
        Direction, any shape that broadcasts with `a` and `b` (semi-axes).
    amplitude, phase
        Contour harmonics, relative to the radius; last axis over `HARMONICS`.
    """
    square = (b * cos) ** 2 + (a * sin) ** 2
    ellipse = a * b / np.sqrt(square)
    slope = -(a**2 - b**2) * sin * cos / square
    wave, turn = np.ones_like(ellipse), np.zeros_like(ellipse)
    power = (cos + 1j * sin) ** 2
    for i, k in enumerate(HARMONICS):
        power = power * (cos + 1j * sin)
        rotated = power * np.exp(1j * phase[..., i])
        wave = wave + amplitude[..., i] * rotated.real
        turn = turn - k * amplitude[..., i] * rotated.imag
    return ellipse * wave, slope + turn / wave


@dataclass(frozen=True)
class Outlines:
    """One outline per row. `centre` is the area centroid; `origin` the pole of the polar form, a little beside it."""

    centre: Array
    angle: Array
    a: Array
    b: Array
    amplitude: Array
    phase: Array
    offset: Array

    def __len__(self) -> int:
        return len(self.angle)

    @property
    def origin(self) -> Array:
        """Pole of the polar form, (n, 2)."""
        return self.centre - self.offset

    @property
    def area(self) -> Array:
        """Area in um2, by quadrature."""
        return _moments(self.a, self.b, self.amplitude, self.phase)[0]

    def moved(self, centre: Array) -> Outlines:
        """The same outlines around other centroids."""
        return Outlines(centre, self.angle, self.a, self.b, self.amplitude, self.phase, self.offset)

    def take(self, rows: NDArray[np.integer]) -> Outlines:
        """Some of the outlines."""
        return Outlines(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))

    def radius(self, theta: Array) -> Array:
        """Radius from `origin` in world directions `theta`, (n, m)."""
        local = theta - self.angle[:, None]
        a, b = self.a[:, None], self.b[:, None]
        return polar_radius(np.cos(local), np.sin(local), a, b, self.amplitude[:, None], self.phase[:, None])[0]

    def polygons(self) -> Array:
        """Closed polygons (n, VERTICES + 1, 2) whose area centroid is `centre`."""
        t = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
        local = np.arctan2(self.b[:, None] * np.sin(t), self.a[:, None] * np.cos(t))  # evenly along the contour
        theta = local + self.angle[:, None]
        xy = self.radius(theta)[..., None] * np.stack([np.cos(theta), np.sin(theta)], axis=-1)
        return np.concatenate([xy, xy[:, :1]], axis=1) + (self.centre - _centroid(xy))[:, None]


def make_outlines(
    centre: Array, angle: Array, area: Array, elongation: Array, amplitude: Array, phase: Array
) -> Outlines:
    """Outlines of exactly the given areas (um2) around their centroids."""
    a = np.sqrt(area * elongation / np.pi)
    b = a / elongation
    scale = np.sqrt(area / _moments(a, b, amplitude, phase)[0])
    a, b = a * scale, b * scale
    shift = _moments(a, b, amplitude, phase)[1]
    cos, sin = np.cos(angle), np.sin(angle)
    offset = np.stack([shift[:, 0] * cos - shift[:, 1] * sin, shift[:, 0] * sin + shift[:, 1] * cos], axis=1)
    return Outlines(centre, angle, a, b, amplitude, phase, offset)


def _moments(a: Array, b: Array, amplitude: Array, phase: Array) -> tuple[Array, Array]:
    """Area (n,) and centroid from the pole in the outline's own frame (n, 2)."""
    t = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    cos, sin = np.cos(t)[None], np.sin(t)[None]
    r = polar_radius(cos, sin, a[:, None], b[:, None], amplitude[:, None], phase[:, None])[0]
    area = np.pi * (r**2).mean(axis=1)
    first = 2 * np.pi / 3 * np.stack([(r**3 * cos).mean(axis=1), (r**3 * sin).mean(axis=1)], axis=1)
    return area, first / area[:, None]


def _centroid(xy: Array) -> Array:
    """Area centroid of open polygons (n, m, 2)."""
    x, y = xy[..., 0], xy[..., 1]
    x1, y1 = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    cross = x * y1 - x1 * y
    area = cross.sum(axis=1) / 2
    return np.stack([((x + x1) * cross).sum(axis=1), ((y + y1) * cross).sum(axis=1)], axis=1) / (6 * area[:, None])
