"""How much of what a crop shows belongs to other nuclei."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 20
"""Points per side at which a window is asked whose it is."""


@numba.njit(nogil=True, cache=True)
def _shares(  # noqa: PLR0917
    xy: NDArray[np.float64],
    own: NDArray[np.int64],
    order: NDArray[np.int64],
    start: NDArray[np.int64],
    cell: NDArray[np.int64],
    grid: NDArray[np.int64],
    samples: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Fill `out` (n,) with the share of `samples` (k, 2), set on ``xy[own]``, that lie nearer to another of `xy`.

    `order` holds `xy` by grid cell, cell c from ``start[c]`` to ``start[c + 1]``; `cell` is each one's (column, row),
    `grid` the grid's width and height.
    """
    n_samples = len(samples)
    lost = np.empty(n_samples, np.bool_)
    reach = 4 * (samples[:, 0] ** 2 + samples[:, 1] ** 2).max()
    for k in range(len(own)):
        i = own[k]
        if i < 0:
            continue
        lost[:] = False
        for row in range(max(cell[i, 1] - 1, 0), min(cell[i, 1] + 2, grid[1])):
            for col in range(max(cell[i, 0] - 1, 0), min(cell[i, 0] + 2, grid[0])):
                c = row * grid[0] + col
                for at in range(start[c], start[c + 1]):
                    j = order[at]
                    dx, dy = xy[j, 0] - xy[i, 0], xy[j, 1] - xy[i, 1]
                    d2 = dx * dx + dy * dy
                    if j == i or d2 >= reach:
                        continue
                    for s in range(n_samples):  # beyond the perpendicular bisector of the two centres
                        lost[s] |= samples[s, 0] * dx + samples[s, 1] * dy > d2 / 2
        out[k] = lost.sum() / n_samples


def crowding(xy: NDArray[np.float64], own: NDArray[np.int64], *, side: float) -> NDArray[np.float64]:
    """Share of the square window around a nucleus that lies nearer to the centre of another one.

    Parameters
    ----------
    xy
        Centres of all nuclei, (m, 2), in any unit that is the same along both axes. NaN ones are in nobody's way.
    own
        Positions in `xy` of the nuclei asked about, (n,); -1 for none.
    side
        Side of the window, in the same unit; its sides are parallel to the axes.

    Returns
    -------
    From 0 (no other nucleus near) to below 1, (n,); NaN where there is no nucleus.
    """
    out = np.full(len(own), np.nan)
    finite = np.flatnonzero(np.isfinite(xy).all(axis=1))
    if not len(finite):
        return out
    points = xy[finite]
    position = np.full(len(xy) + 1, -1)  # the last one is what -1 points to
    position[finite] = np.arange(len(finite))
    width = max(side * np.sqrt(2), float(np.ptp(points, axis=0).max()) / 2048)  # nobody further away reaches the window
    cell = ((points - points.min(axis=0)) // width).astype(np.int64)
    grid = cell.max(axis=0) + 1
    number = cell[:, 1] * grid[0] + cell[:, 0]
    start = np.searchsorted(np.sort(number), np.arange(grid.prod() + 1))
    at = ((np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5) * side
    samples = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    _shares(points, position[own], np.argsort(number, kind="stable"), start, cell, grid, samples, out)
    return out
