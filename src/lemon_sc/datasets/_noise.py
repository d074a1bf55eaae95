"""Smooth random fields over the plane, a function of position alone, so that they look the same in every pixel grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]
    Array = NDArray[np.floating]

TEXELS = 3.0  # lattice points per correlation length: enough for linear interpolation to look smooth


class Noise:
    """Stationary field with standard normal values and a correlation length of about one.

    Parameters
    ----------
    rng
        Generator that fills the lattice.
    size
        Side of the periodic lattice; the field repeats after ``size / 3`` correlation lengths.
    """

    def __init__(self, rng: np.random.Generator, size: int = 512) -> None:
        lattice = gaussian_filter(rng.standard_normal((size, size)), TEXELS / 2, mode="wrap")
        self.lattice: Plane = ((lattice - lattice.mean()) / lattice.std()).astype(np.float32)

    def __call__(self, x: Array, y: Array) -> Plane:
        """Values at positions in units of the correlation length; `x` and `y` have the same shape."""
        at = np.stack([y, x]).astype(np.float32, copy=False) * np.float32(TEXELS)
        return map_coordinates(self.lattice, at, order=1, mode="grid-wrap", prefilter=False, output=np.float32)
