"""Local Moran's I: which cells make a variable smooth over a graph, and which break it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from lemon_sc.metrics.correlation import constant_floor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

QUADRANTS = ("high-high", "low-high", "low-low", "high-low")
"""Own value, then the neighbours' mean, each against the mean over all cells; esda's numbers 1 to 4."""


@dataclass(frozen=True, kw_only=True)
class LocalMoran:
    """Local Moran's I of one variable, (N,) each."""

    I: NDArray[np.float64]
    pvalue: NDArray[np.float64]
    quadrant: NDArray[np.intp]
    """Index into `QUADRANTS`."""


def local_morans_i(
    w: sparse.csr_matrix, x_N: NDArray[np.floating], *, rng: np.random.Generator, n_perms: int = 0
) -> LocalMoran:
    """Local Moran's I as esda computes it, under conditional randomisation: the cell stays, the others are shuffled.

    Parameters
    ----------
    w
        (N, N) row-normalised weights.
    x_N
        Values, finite, not constant.
    rng
        Draws the permutations.
    n_perms
        Permutations per cell; the p-value is then ``(1 + min(#above, #below)) / (1 + n_perms)``. With 0 it is that of a
        normal deviate with the mean and variance of the same null in closed form. Both are of the smaller tail.

    Returns
    -------
    Local statistic, p-value and quadrant of each cell.

    Raises
    ------
    ValueError
        If `x_N` is constant.

    References
    ----------
    Anselin, Geographical Analysis 27 (1995) 93-115; moments: Sokal, Oden and Thomson, ibid. 30 (1998) 331-354,
    equations A7 and A8.
    """
    x = np.asarray(x_N, dtype=np.float64)
    if x.std() <= constant_floor(x[:, None])[0]:
        msg = "Local Moran's I is not defined for a constant variable."
        raise ValueError(msg)
    with warnings.catch_warnings():  # esda sets a global filter and announces its own future defaults
        warnings.simplefilter("ignore", DeprecationWarning)
        from esda.moran import Moran_Local  # takes a second, with all of libpysal
        from libpysal.graph import Graph

        local = Moran_Local(
            x,
            Graph.from_sparse(w),
            transformation="r",
            permutations=n_perms,
            keep_simulations=False,  # an (N, n_perms) array otherwise
            seed=int(rng.integers(2**31)),
        )
    pvalue = local.p_sim if n_perms else _analytic_p(local.Is, mean=local.EIc, var=local.VIc)
    return LocalMoran(
        I=local.Is,
        pvalue=np.asarray(pvalue, dtype=np.float64),
        quadrant=np.asarray(local.q, dtype=np.intp) - 1,
    )


def _analytic_p(I: NDArray[np.float64], *, mean: NDArray[np.float64], var: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where there is no variance: a cell without neighbours, or at the mean."""
    return stats.norm.sf(np.abs(I - mean) / np.sqrt(np.where(var > 0, var, np.nan)))
