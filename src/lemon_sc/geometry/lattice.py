"""How far apart spots lie, and whether they form the hexagonal array that Visium prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS = 6
EQUAL = 1.1
"""Neighbours are at the same distance up to this factor; on a square array the fifth is 1.41 times as far."""

INNER_SHARE = 1 / 3
"""Of the spots of a hexagonal array, at least this share has all neighbours: others lie at the edge of the tissue."""


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Distance to the nearest neighbour, median, and whether six lie around a spot at that distance."""

    step: float
    hexagonal: bool


def lattice_of(xy: NDArray[np.floating]) -> Lattice | None:
    """Step and kind of the array that some points form.

    Parameters
    ----------
    xy
        Finite points, (n, 2), in any unit of length.

    Returns
    -------
    The array, its step in that unit; None for fewer than seven points, or where most share their place with another.
    """
    if len(xy) <= NEIGHBOURS:
        return None
    far = cKDTree(xy).query(xy, k=NEIGHBOURS + 1)[0]
    step = float(np.median(far[:, 1]))
    if step <= 0:
        return None
    inner = (far[:, 1] >= step / EQUAL) & (far[:, NEIGHBOURS] <= EQUAL * step)
    return Lattice(step=step, hexagonal=bool(inner.mean() >= INNER_SHARE))
