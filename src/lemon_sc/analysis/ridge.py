"""Ridge regression of all targets at all penalties at once, from sums over cells.

Everything that ridge with standardised features needs of a set of cells are sums (`Moments`), and sums of disjoint sets
add. So each cell is read once, a training set is a sum of a few small matrices, and one eigen-decomposition per
training set serves every target and every penalty. Features are standardised with the mean and sd of the training set,
by algebra on its sums; the penalty is that of scikit-learn: ``||y - b - Z w||^2 + alpha ||w||^2``, the intercept free.

Letters of array names: N cells, D features, G targets, A penalties.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.metrics.correlation import MIN_CELLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ALPHAS: tuple[float, ...] = tuple(10.0**e for e in range(-2, 7))
"""Penalties tried, 10^-2 .. 10^6."""

_ROWS = 8192  # rows cast to float64 at a time
_COLUMNS = 2048  # coefficient vectors, of targets and penalties, held at a time
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

    def of_targets(self, part: slice) -> Moments:
        """The sums for some of the targets, without a copy."""
        return replace(self, y=self.y[part], xy=self.xy[:, part], yy=self.yy[part])


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
    """Column means, in float64.

    Parameters
    ----------
    x_ND
        Features.
    y_NG
        Targets.

    Returns
    -------
    Means of both.
    """
    return Centre(x=x_ND.mean(axis=0, dtype=np.float64), y=y_NG.mean(axis=0, dtype=np.float64))


def moments(x_ND: NDArray[np.floating], y_NG: NDArray[np.floating], rows: NDArray[np.intp], centre: Centre) -> Moments:
    """Sums over the cells `rows`, cast to float64 a few thousand rows at a time.

    Parameters
    ----------
    x_ND
        Features.
    y_NG
        Targets.
    rows
        Cells to sum over.
    centre
        What is subtracted first.

    Returns
    -------
    The sums.
    """
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
    """(D, G) sum of x y': features of `x_rows` against targets of `y_rows`, which is `Moments.xy` after a shuffle.

    Parameters
    ----------
    x_ND
        Features.
    y_NG
        Targets.
    x_rows, y_rows
        Cells whose features and whose targets are multiplied, pairwise; as many of each.
    centre
        What is subtracted first.

    Returns
    -------
    Float64 (D, G).
    """
    sxy = np.zeros((x_ND.shape[1], y_NG.shape[1]))
    for start in range(0, len(x_rows), _ROWS):
        part = slice(start, start + _ROWS)
        sxy += (x_ND[x_rows[part]] - centre.x).T @ (y_NG[y_rows[part]] - centre.y)
    return sxy


def add(parts: Iterable[Moments]) -> Moments:
    """Moments of the union of disjoint sets of cells.

    Parameters
    ----------
    parts
        Moments of each set, about one centre; at least one.

    Returns
    -------
    Their sum.
    """
    first, *rest = parts
    names = ("x", "y", "xx", "xy", "yy")
    total = {name: getattr(first, name).copy() for name in names}
    for part in rest:
        for name in names:
            total[name] += getattr(part, name)
    return Moments(n=first.n + sum(part.n for part in rest), **total)


def n_components(n_pcs: int | None, *, n_features: int, n_cells: int) -> int:
    """Features that a fit sees: all of them, or principal components, of which there are at most as many as cells.

    Parameters
    ----------
    n_pcs
        Principal components asked for; None takes the features.
    n_features, n_cells
        What there is.

    Returns
    -------
    Their number.
    """
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

    Returns
    -------
    Eigenvalues and eigenvectors, with the mean and the scale of the features.
    """
    mean = train.x / train.n
    covariance = train.xx / train.n - np.outer(mean, mean)
    sd = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    constant = sd <= floor_D
    inverse_sd = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, sd))
    gram = train.n * covariance * np.outer(inverse_sd, inverse_sd)
    # divide and conquer, as scipy has it too; but numpy lets other threads run meanwhile
    values, vectors = np.linalg.eigh(gram)
    first = len(values) - n_components(n_pcs, n_features=len(values), n_cells=train.n)  # eigenvalues ascend
    return Basis(
        mean=mean, inverse_sd=inverse_sd, values=np.clip(values[first:], 0.0, None), vectors=vectors[:, first:]
    )


def weights(basis: Basis, train: Moments, alphas: Sequence[float] | Array) -> Array:
    """(D, A, G) coefficients for features on their own scale (no longer standardised).

    Parameters
    ----------
    basis, train
        Decomposition of the training features, and their sums.
    alphas
        A penalties.

    Returns
    -------
    Float64 (D, A, G).
    """
    z_y = basis.inverse_sd[:, None] * (train.xy - np.outer(basis.mean, train.y))
    rotated_KG = basis.vectors.T @ z_y
    shrunk_KAG = rotated_KG[:, None, :] / (basis.values[:, None] + np.asarray(alphas))[:, :, None]
    # all penalties in one product, which uses the processor better than one product for each
    weight = basis.vectors @ shrunk_KAG.reshape(len(shrunk_KAG), -1)
    weight *= basis.inverse_sd[:, None]
    return weight.reshape(len(weight), *shrunk_KAG.shape[1:])


def predict(
    x_ND: NDArray[np.floating],
    rows: NDArray[np.intp],
    weight_DG: Array,
    *,
    train: Moments,
    centre: Centre,
    intercept: bool = True,
) -> Array:
    """(len(rows), G) predictions, in units of the target; without `intercept` the training mean is not added.

    Parameters
    ----------
    x_ND
        Features.
    rows
        Cells to predict.
    weight_DG
        Coefficients of one penalty.
    train
        Sums over the training cells, whose means are the intercept.
    centre
        What was subtracted before summing.
    intercept
        Whether the training mean of the targets is added.

    Returns
    -------
    Float64 (len(rows), G).
    """
    mean_y = centre.y + train.y / train.n if intercept else np.zeros(len(centre.y))
    base = mean_y - train.x @ weight_DG / train.n
    out = np.empty((len(rows), weight_DG.shape[1]))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        out[part] = (x_ND[rows[part]] - centre.x) @ weight_DG + base
    return out


def pearson_from_moments(held_out: Moments, weight_DXG: Array, floor_G: Array) -> Array:
    """Pearson correlation of predictions and targets over a set of cells, from its sums alone.

    Parameters
    ----------
    held_out
        Sums over the cells to score.
    weight_DXG
        Coefficients (D, G), or (D, A, G) as `weights` gives them; the intercept does not matter.
    floor_G
        Sd at or below which a target counts as constant.

    Returns
    -------
    (G,) or (A, G); NaN where target or prediction is constant, or with fewer than three cells.
    """
    m, n = held_out, held_out.n
    if n < MIN_CELLS:
        return np.full(weight_DXG.shape[1:], np.nan)
    scatter_xy = m.xy - np.outer(m.x, m.y / n)
    scatter_xx = m.xx - np.outer(m.x, m.x / n)
    scatter_y = m.yy - m.y**2 / n
    flat_weight = weight_DXG.reshape(len(weight_DXG), -1)
    scatter_p = np.einsum("dk,dk->k", flat_weight, scatter_xx @ flat_weight).reshape(weight_DXG.shape[1:])
    size_p = np.einsum("d,d...g,d...g->...g", np.diag(m.xx), weight_DXG, weight_DXG)
    flat = (scatter_y <= n * floor_G**2) | (scatter_p <= _FLAT * size_p)
    scale = np.sqrt(np.where(flat, 1.0, scatter_y * scatter_p))
    r = np.clip(np.einsum("d...g,dg->...g", weight_DXG, scatter_xy) / scale, -1.0, 1.0)
    return np.where(flat, np.nan, r)


def correlations(
    basis: Basis, train: Moments, held_out: Sequence[Moments], alphas: Array, floor_G: Array
) -> list[Array]:
    """(A, G) correlation of each set of held-out cells with its predictions, for every penalty.

    Parameters
    ----------
    basis, train
        Decomposition of the training features, and their sums.
    held_out
        Sums over each set of cells to score.
    alphas
        (A,) penalties.
    floor_G
        Sd at or below which a target counts as constant.

    Returns
    -------
    Float64 (A, G) for each of `held_out`.
    """
    n_targets = len(train.y)
    step = max(_COLUMNS // len(alphas), 1)
    scores: list[list[Array]] = [[] for _ in held_out]
    for start in range(0, n_targets, step):  # so that coefficients for all penalties do not fill the memory
        part = slice(start, start + step)
        weight_DAG = weights(basis, train.of_targets(part), alphas)
        for made, cells in zip(scores, held_out, strict=True):
            made.append(pearson_from_moments(cells.of_targets(part), weight_DAG, floor_G[part]))
    return [np.concatenate(made, axis=1) for made in scores]
