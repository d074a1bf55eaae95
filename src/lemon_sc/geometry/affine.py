"""Affine maps of the plane and the pixel size they imply.

A map is a float64 (3, 3) matrix that acts on column vectors ``[x, y, 1]``. Coordinates are continuous: pixel (r, c)
covers ``[c, c+1) x [r, r+1)``, so its centre lies at (c + 0.5, r + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemon_sc._core.errors import bad_value

Affine = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PixelSize:
    """What a map from pixels to um says about the pixels.

    Attributes
    ----------
    mpp
        Micrometres travelled per pixel along the image's x and y axis: the lengths of the first two columns.
    anisotropy
        Ratio of the singular values, >= 1. Far from 1, the map stretches the tissue.
    rotation_deg
        Direction of the image's x axis in the um frame, counter-clockwise from its x axis, in (-180, 180].
    mirrored
        Whether the map turns left into right (negative determinant), as a flipped scan does. Legal.
    """

    mpp: tuple[float, float]
    anisotropy: float
    rotation_deg: float
    mirrored: bool


def check_affine(matrix: ArrayLike, *, name: str = "affine") -> Affine:
    """Return `matrix` as float64 (3, 3) if it is a finite, invertible affine map, else raise.

    Parameters
    ----------
    matrix
        What should be one.
    name
        What to call it in the message.

    Returns
    -------
    Float64 (3, 3).

    Raises
    ------
    ValueError
        If it is of another shape, not finite, has another last row than 0, 0, 1, or cannot be inverted.
    """
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape != (3, 3) or not np.isfinite(m).all():
        raise bad_value(name, must="be a finite 3 x 3 matrix", got=m.tolist())
    if not np.allclose(m[2], [0, 0, 1], atol=1e-9):
        raise bad_value(name, must="have the last row 0, 0, 1", got=m[2].tolist())
    if abs(np.linalg.det(m)) < 1e-12:
        raise bad_value(name, must="be invertible", got=m.tolist())
    return m


def transform(affine: Affine, xy: ArrayLike) -> NDArray[np.float64]:
    """Map points (n, 2) -> (n, 2).

    Parameters
    ----------
    affine
        The map.
    xy
        Points, (n, 2).

    Returns
    -------
    Float64 (n, 2).
    """
    points = np.asarray(xy, dtype=np.float64)
    return points @ affine[:2, :2].T + affine[:2, 2]


def invert(affine: Affine) -> Affine:
    """The map back.

    Parameters
    ----------
    affine
        A map that `check_affine` lets pass.

    Returns
    -------
    Its inverse.
    """
    return np.asarray(np.linalg.inv(affine), dtype=np.float64)


def scaling(x: float, y: float) -> Affine:
    """Map that multiplies x and y.

    Parameters
    ----------
    x, y
        Factors.

    Returns
    -------
    The map.
    """
    return np.diag([float(x), float(y), 1.0])


def pixel_size(px_to_um: Affine) -> PixelSize:
    """Pixel size, anisotropy and handedness of the map from image px to um.

    Parameters
    ----------
    px_to_um
        Affine from image px to um.

    Returns
    -------
    um per px along x and y, and what the map does besides.
    """
    linear = px_to_um[:2, :2]
    long, short = np.linalg.svd(linear, compute_uv=False)
    return PixelSize(
        mpp=(float(np.linalg.norm(linear[:, 0])), float(np.linalg.norm(linear[:, 1]))),
        anisotropy=float(long / short),
        rotation_deg=float(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0]))),
        mirrored=bool(np.linalg.det(linear) < 0),
    )
