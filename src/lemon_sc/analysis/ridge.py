"""Ridge regression of all targets at all penalties at once, from sums over cells.

Everything that ridge with standardised features needs of a set of cells are sums (`Moments`), and sums of disjoint sets
add. So each cell is read once, a training set is a sum of a few small matrices, and one eigen-decomposition per
training set serves every target and every penalty. Features are standardised with the mean and sd of the training set,
by algebra on its sums; the penalty is that of scikit-learn: ``||y - b - Z w||^2 + alpha ||w||^2``, the intercept free.

Letters of array names: N cells, D features, G targets, A penalties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from lemon_sc.analysis.correlation import MIN_CELLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ALPHAS: tuple[float, ...] = tuple(10.0**e for e in range(-2, 7))
"""Penalties tried, 10^-2 .. 10^6."""

_ROWS = 8192  # rows cast to float64 at a time
_FLAT = 1e-12  # variance of a prediction, as part of its uncentred size, that is rounding error


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over a set of cells, of features ``x - centre.x`` and targets ``y - centre.y``."""

    n: int
    x: Array
    """(D,)"""
    y: Array
    """(G,)"""
    xx: Array
    """(D, D)"""
    xy: Array
    """(D, G)"""
    yy: Array
    """(G,) sum of squares."""


@dataclass(frozen=True, kw_only=True)
class Centre:
    """Fixed shift of the data before sums are taken, so that large means do not eat the digits of small variances.

    It is an aid to rounding only and cancels from every result.
    """

    x: Array
    """(D,)"""
    y: Array
    """(G,)"""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Eigen-decomposition of the standardised features of one training set."""

    mean: Array
    """(D,) training mean, from the centre."""
    inverse_sd: Array
    """(D,) 1 / training sd (ddof 0); 0 for constant features, which then have weight 0."""
    values: Array
    """(K,) eigenvalues of Z'Z, K = D or the number of principal components kept."""
    vectors: Array
    """(D, K)"""


def centre_of(x_ND: NDArray[np.floating], y_NG: NDArray[np.floating]) -> Centre:
    """Column means, in float64."""
    return Centre(x=x_ND.mean(axis=0, dtype=np.float64), y=y_NG.mean(axis=0, dtype=np.float64))


def moments(x_ND: NDArray[np.floating], y_NG: NDArray[np.floating], rows: NDArray[np.intp], centre: Centre) -> Moments:
    """Sums over the cells `rows`, cast to float64 a few thousand rows at a time."""
    n_features, n_targets = x_ND.shape[1], y_NG.shape[1]
    sx, sy, syy = np.zeros(n_features), np.zeros(n_targets), np.zeros(n_targets)
    sxx, sxy = np.zeros((n_features, n_features)), np.zeros((n_features, n_targets))
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        x, y = x_ND[part] - centre.x, y_NG[part] - centre.y
        sx += x.sum(axis=0)
        sy += y.sum(axis=0)
        syy += np.einsum("ng,ng->g", y, y)
        sxx += x.T @ x
        sxy += x.T @ y
    return Moments(n=len(rows), x=sx, y=sy, xx=sxx, xy=sxy, yy=syy)


def cross_moment(
    x_ND: NDArray[np.floating],
    y_NG: NDArray[np.floating],
    x_rows: NDArray[np.intp],
    y_rows: NDArray[np.intp],
    centre: Centre,
) -> Array:
    """(D, G) sum of x y': features of `x_rows` against targets of `y_rows`, which is `Moments.xy` after a shuffle."""
    sxy = np.zeros((x_ND.shape[1], y_NG.shape[1]))
    for start in range(0, len(x_rows), _ROWS):
        part = slice(start, start + _ROWS)
        sxy += (x_ND[x_rows[part]] - centre.x).T @ (y_NG[y_rows[part]] - centre.y)
    return sxy


def add(parts: Iterable[Moments]) -> Moments:
    """Moments of the union of disjoint sets of cells."""
    first, *rest = parts
    total = {name: getattr(first, name) for name in ("n", "x", "y", "xx", "xy", "yy")}
    for part in rest:
        total = {name: value + getattr(part, name) for name, value in total.items()}
    return Moments(**total)


def n_components(n_pcs: int | None, *, n_features: int, n_cells: int) -> int:
    """Features that a fit sees: all of them, or principal components, of which there are at most as many as cells."""
    return n_features if n_pcs is None else min(n_pcs, n_features, n_cells)


def decompose(train: Moments, floor_D: Array, *, n_pcs: int | None = None) -> Basis:
    """Standardise the training features and decompose their Gram matrix.

    Ridge on principal components is ridge on the leading eigenvectors of that matrix: with `n_pcs`, the others are
    left out and everything else stays as it is.

    Parameters
    ----------
    train
        Sums over the training cells.
    floor_D
        Sd at or below which a feature counts as constant (`correlation.constant_floor`).
    n_pcs
        Keep this many principal components of the standardised features; ``None`` keeps the features.
    """
    mean = train.x / train.n
    covariance = train.xx / train.n - np.outer(mean, mean)
    sd = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    constant = sd <= floor_D
    inverse_sd = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, sd))
    gram = train.n * covariance * np.outer(inverse_sd, inverse_sd)
    values, vectors = eigh(gram, check_finite=False, overwrite_a=True)
    first = len(values) - n_components(n_pcs, n_features=len(values), n_cells=train.n)  # eigenvalues ascend
    return Basis(
        mean=mean, inverse_sd=inverse_sd, values=np.clip(values[first:], 0.0, None), vectors=vectors[:, first:]
    )


def weights(basis: Basis, train: Moments, alphas: Iterable[float]) -> Array:
    """(A, D, G) coefficients for features on their own scale (no longer standardised)."""
    z_y = basis.inverse_sd[:, None] * (train.xy - np.outer(basis.mean, train.y))
    rotated = basis.vectors.T @ z_y
    back = basis.inverse_sd[:, None] * basis.vectors
    return np.stack([back @ (rotated / (basis.values + alpha)[:, None]) for alpha in alphas])


def predict(
    x_ND: NDArray[np.floating],
    rows: NDArray[np.intp],
    weight_DG: Array,
    *,
    train: Moments,
    centre: Centre,
    intercept: bool = True,
) -> Array:
    """(len(rows), G) predictions, in units of the target; without `intercept` the training mean is not added."""
    mean_y = centre.y + train.y / train.n if intercept else np.zeros(len(centre.y))
    base = mean_y - train.x @ weight_DG / train.n
    out = np.empty((len(rows), weight_DG.shape[1]))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        out[part] = (x_ND[rows[part]] - centre.x) @ weight_DG + base
    return out


def pearson_from_moments(held_out: Moments, weight_DG: Array, floor_G: Array) -> Array:
    """Pearson correlation of predictions and targets over a set of cells, from its sums alone.

    Parameters
    ----------
    held_out
        Sums over the cells to score.
    weight_DG
        Coefficients, as `weights` gives them; the intercept does not matter.
    floor_G
        Sd at or below which a target counts as constant.

    Returns
    -------
    (G,); NaN where target or prediction is constant, or with fewer than three cells.
    """
    m, n = held_out, held_out.n
    if n < MIN_CELLS:
        return np.full(weight_DG.shape[1], np.nan)
    covariance_xy = m.xy / n - np.outer(m.x, m.y) / n**2
    covariance_xx = m.xx / n - np.outer(m.x, m.x) / n**2
    var_y = m.yy / n - (m.y / n) ** 2
    var_p = np.einsum("dg,dg->g", weight_DG, covariance_xx @ weight_DG)
    size_p = (np.diag(m.xx) / n) @ weight_DG**2
    flat = (var_y <= floor_G**2) | (var_p <= _FLAT * size_p)
    scale = np.sqrt(np.where(flat, 1.0, var_y * var_p))
    r = np.clip(np.einsum("dg,dg->g", weight_DG, covariance_xy) / scale, -1.0, 1.0)
    return np.where(flat, np.nan, r)
