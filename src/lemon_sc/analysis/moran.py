"""Moran's I of many variables on one graph, with its analytic and its permutation null.

``I = (N / S0) * sum_ij w_ij z_i z_j / sum_i z_i^2`` with ``z = x - mean(x)`` and ``S0 = sum w``. The graph may be
directed: I depends on its symmetric part alone, and the moments below take the direction into account.

Letters of array names: N cells, G variables, P permutations.

References
----------
Cliff and Ord, Spatial Processes (1981), sections 2.2-2.3: moments under normality and under randomisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse, stats

from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import progress
from lemon_sc.analysis.moran_sums import DenseValues, Pairs, SparseValues

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_BLOCK_BYTES = 256 * 2**20  # one float64 block of dense variables; about four of this size are alive at a time
_ROWS = 65536  # of a dense matrix that are looked at together
_SPARSE = 0.25  # variables of which at most this part is stored stay sparse
_TIE = 1e-9  # permuted values this many sds below the observed one are equal to it

_FLAT = 1e-9  # variance of I, as part of its squared mean, that is rounding error


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Permutation null of Moran's I, (G,) each."""

    mean: Array
    var: Array
    """Over permutations, ddof 0."""
    pvalue: Array
    """``(1 + #{I_perm >= I}) / (1 + P)``."""
    pvalue_z: Array
    """From the normal distribution with the mean and variance of the permutations."""


@dataclass(frozen=True, kw_only=True)
class MoranResult:
    """Moran's I of G variables. NaN for constant ones."""

    I: Array
    expected: float
    """``-1 / (N - 1)``."""
    var_norm: Array
    """Variance if the values are normal; the same for all variables."""
    var_rand: Array
    """Variance over all placements of the values (depends on their kurtosis)."""
    pvalue_norm: Array
    pvalue_rand: Array
    simulated: Simulated | None


def weight_sums(w: sparse.csr_matrix) -> tuple[float, float, float]:
    """``S0 = sum w``, ``S1 = sum (w_ij + w_ji)^2 / 2``, ``S2 = sum_i (w_i. + w_.i)^2``.

    Parameters
    ----------
    w
        Weights, (N, N).

    Returns
    -------
    S0, S1 and S2.
    """
    s1 = 0.5 * float(((w + w.T).data ** 2).sum())
    margins = np.asarray(w.sum(axis=1)).ravel() + np.asarray(w.sum(axis=0)).ravel()
    return float(w.data.sum()), s1, float((margins**2).sum())


def _check_weights(w: sparse.csr_matrix) -> None:
    """Raise `ValueError` unless the weights are finite, not negative and not all zero."""
    if not np.isfinite(w.data).all() or (w.data < 0).any():
        msg = "The graph must have finite weights >= 0: large for near cells, 0 for cells that are no neighbours."
        raise ValueError(msg)
    if w.data.sum() == 0:
        msg = "The graph has no edges between the cells that are left."
        raise ValueError(msg)


def row_normalise(w: sparse.spmatrix) -> sparse.csr_matrix:
    """Float64 copy of which each row sums to 1; rows without entries stay empty.

    Parameters
    ----------
    w
        Weights, (N, N).

    Returns
    -------
    Float64 (N, N), without explicit zeros.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or there is none.
    """
    out = sparse.csr_matrix(w, dtype=np.float64, copy=True)
    out.sum_duplicates()
    out.eliminate_zeros()
    _check_weights(out)
    total = np.asarray(out.sum(axis=1)).ravel()
    out.data /= np.repeat(np.where(total == 0, 1.0, total), np.diff(out.indptr))
    return out


def morans_i(
    w: sparse.csr_matrix,
    x_NG: NDArray[np.floating] | sparse.spmatrix,
    *,
    rng: np.random.Generator,
    n_perms: int = 0,
    two_tailed: bool = False,
) -> MoranResult:
    """Moran's I of the columns of `x_NG` on the graph `w`.

    One-sided p-values are those of the upper tail, for negative I as well: a test at 5 % is wrong in 5 % of null cases.
    Permutations move all values together over the fixed graph: every permutation is one relabelling of the cells, the
    same for all variables, and each cell's value and its neighbours' values move alike.

    Parameters
    ----------
    w
        (N, N) weights, used as they are: directed or not, row-normalised or not. Not negative.
    x_NG
        Values, finite; dense or sparse. Variables that are mostly zero are taken all at once and stay sparse, or are
        made so; the others are taken dense, a block at a time.
    rng
        Draws the permutations. Which they are does not depend on blocks, threads or sparsity.
    n_perms
        Number of permutations P; 0 leaves the permutation null out.
    two_tailed
        Whether p-values count both tails.

    Returns
    -------
    See `MoranResult`.

    Raises
    ------
    ValueError
        If `n_perms` is no int >= 0, `w` is no (N, N) matrix with edges or has negative weights, or N < 4.
    """
    n, n_columns = x_NG.shape
    _check(w, n=n, n_perms=n_perms)
    s0, s1, s2 = weight_sums(w)
    pairs = Pairs.of(w)
    seeds = rng.integers(2**63, size=n_perms)  # a block redraws the same permutations instead of storing them
    expected = -1.0 / (n - 1)
    var_norm = (n**2 * s1 - n * s2 + 3 * s0**2) / ((n - 1) * (n + 1) * s0**2) - expected**2
    I_G, var_rand_G = np.empty((2, n_columns))
    null = _Null(*np.zeros((4, n_columns)))
    with progress(total=n_columns * max(n_perms, 1), desc="Moran's I", unit="tests") as bar:
        for columns, values in _blocks(x_NG):
            I_G[columns] = values.statistic(pairs, np.arange(n))
            var_rand_G[columns] = _var_rand(values.kurtosis, n=n, s0=s0, s1=s1, s2=s2) - expected**2
            bar.update(0 if n_perms else len(columns))
            for seed in seeds:
                permuted = values.statistic(pairs, np.random.default_rng(seed).permutation(n))
                null.add(columns, permuted, observed=I_G[columns], tie=_TIE * np.sqrt(var_norm))
                bar.update(len(columns))
    var_norm_G = np.where(np.isfinite(I_G), var_norm, np.nan)
    return MoranResult(
        I=I_G,
        expected=expected,
        var_norm=var_norm_G,
        var_rand=var_rand_G,
        pvalue_norm=_normal_p(I_G - expected, var_norm_G, expected, two_tailed=two_tailed),
        pvalue_rand=_normal_p(I_G - expected, var_rand_G, expected, two_tailed=two_tailed),
        simulated=_summarise(I_G, null, n_perms, two_tailed=two_tailed) if n_perms else None,
    )


def benjamini_hochberg(p: Array) -> Array:
    """False discovery rate of each p-value; NaN stay NaN and do not count as tests.

    Parameters
    ----------
    p
        P-values, of any shape.

    Returns
    -------
    Float64, of the same shape.
    """
    finite = np.isfinite(p)
    out = np.full(p.shape, np.nan)
    if finite.any():
        out[finite] = stats.false_discovery_control(p[finite], method="bh")
    return out


@dataclass(frozen=True)
class _Null:
    """Running sums over permutations, (G,) each; the permuted values are not kept."""

    above: Array
    below: Array
    total: Array
    squares: Array

    def add(self, columns: NDArray[np.intp], permuted: Array, *, observed: Array, tie: float) -> None:
        """Take one permutation of some variables into the sums."""
        self.above[columns] += permuted >= observed - tie
        self.below[columns] += permuted <= observed + tie
        self.total[columns] += permuted
        self.squares[columns] += permuted * permuted


def _check(w: sparse.csr_matrix, *, n: int, n_perms: int) -> None:
    if isinstance(n_perms, bool) or not isinstance(n_perms, int | np.integer) or n_perms < 0:
        raise bad_value("n_perms", must="be an int >= 0", got=n_perms)
    if n < 4:
        msg = f"Moran's I needs at least 4 cells, got {n}."
        raise ValueError(msg)
    if w.shape != (n, n):
        msg = f"The graph must be ({n}, {n}), one row and column per cell, got {w.shape}."
        raise ValueError(msg)
    _check_weights(w)


def _blocks(
    x_NG: NDArray[np.floating] | sparse.spmatrix,
) -> Iterator[tuple[NDArray[np.intp], DenseValues | SparseValues]]:
    """Variables that are mostly zero, then blocks of the others, each with the columns that they are."""
    source: Any = x_NG
    if sparse.issparse(x_NG):
        source = _as_floats(sparse.csc_matrix(x_NG))
        if not source.has_canonical_format:
            source = source.copy()
            source.sum_duplicates()
        stored = np.diff(source.indptr)
    else:
        stored = sum(np.count_nonzero(source[at : at + _ROWS], axis=0) for at in range(0, len(source), _ROWS))
    few = stored <= _SPARSE * source.shape[0]
    if few.any():
        part = source if few.all() else source[:, few]
        yield np.flatnonzero(few), SparseValues.of(sparse.csc_matrix(_as_floats(part)))
    rest = np.flatnonzero(~few)
    width = max(1, _BLOCK_BYTES // (8 * source.shape[0]))
    for start in range(0, len(rest), width):
        columns = rest[start : start + width]
        part = source[:, columns]
        yield columns, DenseValues.of(part.toarray() if sparse.issparse(part) else part)


def _as_floats(x: Any) -> Any:
    """Float32 as it is; other types, in which sums could overflow, as float64."""
    return x if x.dtype == np.float32 else x.astype(np.float64, copy=False)


def _var_rand(kurtosis: Array, *, n: int, s0: float, s1: float, s2: float) -> Array:
    """Second moment of I about zero, over all N! placements."""
    a = n * ((n**2 - 3 * n + 3) * s1 - n * s2 + 3 * s0**2)
    b = kurtosis * ((n**2 - n) * s1 - 2 * n * s2 + 6 * s0**2)
    return (a - b) / ((n - 1) * (n - 2) * (n - 3) * s0**2)


def _summarise(I: Array, null: _Null, n_perms: int, *, two_tailed: bool) -> Simulated:
    mean = null.total / n_perms
    var = np.clip(null.squares / n_perms - mean**2, 0.0, None)
    p = (1.0 + null.above) / (1.0 + n_perms)
    if two_tailed:
        p = np.minimum(1.0, 2.0 * np.minimum(p, (1.0 + null.below) / (1.0 + n_perms)))
    pvalue_z = _normal_p(I - mean, var, mean, two_tailed=two_tailed)
    return Simulated(mean=mean, var=var, pvalue=np.where(np.isfinite(I), p, np.nan), pvalue_z=pvalue_z)


def _normal_p(deviation: Array, var: Array, mean: Array | float, *, two_tailed: bool) -> Array:
    """P-value of a normal deviate; NaN where the variance is rounding error: all placements then give the same I."""
    z = deviation / np.sqrt(np.where(var > _FLAT * np.square(mean), var, np.nan))
    return 2.0 * stats.norm.sf(np.abs(z)) if two_tailed else stats.norm.sf(z)
