"""Which cell types lie beside which: bivariate Moran's R of all pairs, and how alike two such matrices are.

``R_ab = sum_ij w_ij a_i b_j / sqrt(sum_i a_i^2 sum_i b_i^2)`` with ``a``, ``b`` centred and the weights scaled so that
their sum is N.

Letters of array names: N spots, C cell types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from lemon_sc._core.errors import bad_value
from lemon_sc.metrics.correlation import constant_floor, pearson
from lemon_sc.metrics.means import nanmean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NEXT = 1.55
"""Neighbours are nearer than this many times the lattice's step: the 6 of a hexagonal lattice (the next are at 1.73),
the 8 of a square one (1.41; the next are at 2)."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike two matrices of pairs of cell types are, row by row, the diagonal left out."""

    cosine: float
    """Mean over rows; NaN if no row has one."""
    correlation: float
    """Mean over rows of the Pearson correlation."""
    n_undefined: int
    """Rows without a correlation: fewer than three pairs known in both, or constant ones."""


def lattice_neighbours(xy_N2: NDArray[np.floating]) -> sparse.csr_matrix:
    """Spots that lie beside one another on a lattice, of one slide.

    Parameters
    ----------
    xy_N2
        Centres, finite, in any unit of length.

    Returns
    -------
    Symmetric (N, N) of ones, empty on the diagonal: spots nearer than `NEXT` times the median distance to the nearest
    spot. A spot that stands alone has none.

    Raises
    ------
    ValueError
        If there are fewer than three spots, or they lie at one place.
    """
    xy = np.asarray(xy_N2, dtype=np.float64)
    if len(xy) < 3:
        raise bad_value("xy", must="hold at least three spots", got=f"{len(xy)} spots")
    tree = cKDTree(xy)
    step = float(np.median(tree.query(xy, k=2)[0][:, 1]))
    if step <= 0:
        raise bad_value("xy", must="hold spots at different places", got="most spots share their place with another")
    pairs = tree.query_pairs(NEXT * step, output_type="ndarray")
    at = np.concatenate([pairs, pairs[:, ::-1]])
    return sparse.csr_matrix((np.ones(len(at)), (at[:, 0], at[:, 1])), shape=(len(xy), len(xy)))


def bivariate_morans(w: sparse.spmatrix, x_NC: NDArray[np.floating]) -> Array:
    """Bivariate Moran's R of every pair of columns.

    Parameters
    ----------
    w
        (N, N) weights, not negative, of any scale.
    x_NC
        Values, finite.

    Returns
    -------
    (C, C): how the first type (row) goes with the second (column) in the neighbours. Symmetric if `w` is; NaN for
    columns that are constant.

    Raises
    ------
    ValueError
        If `w` is no (N, N) matrix with edges, or a weight is negative or not finite.

    References
    ----------
    S.-I. Lee, Journal of Geographical Systems 2001, without its second smoothing; PySAL's ``esda.Moran_BV``.
    """
    x = np.asarray(x_NC, dtype=np.float64)
    weights = sparse.csr_matrix(w, dtype=np.float64)
    if weights.shape != (len(x), len(x)):
        raise bad_value("w", must=f"have shape {(len(x), len(x))}", got=weights.shape)
    if not np.isfinite(weights.data).all() or (weights.data < 0).any() or weights.data.sum() == 0:
        raise bad_value("w", must="have finite weights >= 0, some above 0", got=f"{weights.nnz} stored weights")
    z = x - x.mean(axis=0)
    flat = z.std(axis=0) <= constant_floor(x)
    z /= np.where(flat, np.nan, np.sqrt((z**2).sum(axis=0)))
    return np.asarray(z.T @ (weights @ z)) * (len(x) / float(weights.data.sum()))


def agreement(truth_CC: Array, prediction_CC: Array) -> Agreement:
    """Cosine and Pearson correlation of the rows of two matrices, the diagonal left out.

    Parameters
    ----------
    truth_CC, prediction_CC
        As `bivariate_morans` makes them, types in the same order. Pairs that are NaN in either are left out of both.

    Returns
    -------
    `Agreement`.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    if truth_CC.shape != prediction_CC.shape:
        msg = f"Both matrices must have the same cell types, got shapes {truth_CC.shape} and {prediction_CC.shape}."
        raise ValueError(msg)
    known = np.isfinite(truth_CC) & np.isfinite(prediction_CC) & ~np.eye(len(truth_CC), dtype=bool)
    cosine, correlation = np.full((2, len(truth_CC)), np.nan)
    for row, there in enumerate(known):
        a, b = truth_CC[row, there], prediction_CC[row, there]
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        if size > 0:
            cosine[row] = float(a @ b) / size
        correlation[row] = pearson(a[:, None], b[:, None])[0]
    return Agreement(
        cosine=float(nanmean(cosine, axis=0)),
        correlation=float(nanmean(correlation, axis=0)),
        n_undefined=int((~np.isfinite(correlation)).sum()),
    )
