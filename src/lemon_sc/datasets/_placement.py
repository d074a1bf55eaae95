"""Where the H&E lies on the Xenium field: an affine with its own pixel size, rotation, flip and shear."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

PIXEL_SIZE = 0.2125
"""um per px of the Xenium morphology image, SpatialData's ``global``."""

PAD_UM = 6.0
CUT = 0.045  # share of the nuclei that the H&E misses on its left side


class Placement(NamedTuple):
    """Affine (3, 3) from H&E px to global px, and the image's (height, width)."""

    affine: Array
    shape: tuple[int, int]


def place_he(xy_um: Array, side: float, *, mpp: float, rotation: float, flip: bool, shear: float) -> Placement:
    """Choose the image so that it holds the whole field but for a strip on its left that cuts through nuclei.

    Parameters
    ----------
    xy_um
        Nucleus centres (n, 2).
    side
        Side of the square field in um.
    mpp
        um per px of the image, ``0.2125 sqrt(|det affine|)``.
    rotation
        Degrees, from image axes to global axes.
    flip
        Mirror the image's y axis.
    shear
        Image x gains ``shear`` times image y.
    """
    angle = np.deg2rad(rotation)
    c, s = np.round([np.cos(angle), np.sin(angle)], 15)  # quarter turns are exact
    turn = np.array([[c, -s], [s, c]])
    linear = mpp / PIXEL_SIZE * turn @ np.array([[1, shear], [0, 1]]) @ np.diag([1, -1 if flip else 1])
    to_image = np.linalg.inv(linear) / PIXEL_SIZE
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]]) @ to_image.T
    pad = PAD_UM / mpp
    low, high = corners.min(axis=0) - pad, corners.max(axis=0) + pad
    low[0] = np.quantile((xy_um @ to_image.T)[:, 0], CUT)
    low, high = np.floor(low), np.ceil(high)
    affine = np.eye(3)
    affine[:2, :2] = linear
    affine[:2, 2] = linear @ low
    width, height = (high - low).astype(int)
    return Placement(affine, (int(height), int(width)))
