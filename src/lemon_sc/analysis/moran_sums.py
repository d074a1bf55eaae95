"""The sums over edges that Moran's I consists of, for many variables on one graph whose cells are relabelled.

Only the symmetric part of a graph counts, so each pair of cells is visited once. Sparse values stay sparse: with ``x``
instead of ``z = x - m`` the sum over edges is ``sum w_ij x_i x_j - m sum_i q_i x_i + m^2 S0``, where ``q`` are the row
sums plus the column sums of the graph.

Letters of array names: N cells, G variables, E pairs of cells.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
import torch
from scipy import sparse

from lemon_sc.metrics.correlation import MEASURED_RTOL, constant_floor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Order = NDArray[np.int64]

_LINE = 8  # entries of 8 bytes in a cache line
_PART, _PARTS = 2048, 256  # sums are over parts of so many cells or more, and no more parts: the threads change nothing


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs ``i <= j`` of cells as CSR arrays, with the weight ``w_ij + w_ji`` (``w_ii`` on the diagonal)."""

    start_N: NDArray[np.integer]
    other_E: NDArray[np.integer]
    weight_E: Array
    margin_N: Array
    """Row sum plus column sum."""
    total: float
    """Sum of all weights, S0."""

    @classmethod
    def of(cls, w: sparse.csr_matrix) -> Pairs:
        """Of an (N, N) graph, directed or not."""
        upper = sparse.csr_matrix(sparse.triu(w + w.T, k=1) + sparse.diags(w.diagonal(), format="csr"))
        margin = np.asarray(w.sum(axis=1)).ravel() + np.asarray(w.sum(axis=0)).ravel()
        return cls(
            start_N=upper.indptr,
            other_E=upper.indices,
            weight_E=upper.data.astype(np.float64, copy=False),
            margin_N=margin.astype(np.float64),
            total=float(w.data.sum()),
        )


@dataclass(frozen=True, kw_only=True)
class DenseValues:
    """Standardised values of some variables."""

    z_NG: Array
    kurtosis: Array
    """Fourth moment of z."""

    @classmethod
    def of(cls, x_NG: NDArray[np.floating]) -> DenseValues:
        """Mean 0 and mean square 1 by column; NaN where constant."""
        x = np.asarray(x_NG, dtype=np.float64)
        z = x - x.mean(axis=0)
        sd = np.sqrt(np.mean(z * z, axis=0))
        z /= np.where(sd <= constant_floor(x), np.nan, sd)
        return cls(z_NG=np.ascontiguousarray(z), kurtosis=np.mean(np.square(z * z), axis=0))

    def statistic(self, pairs: Pairs, order: Order) -> Array:
        """Moran's I with the values of cell ``order[i]`` at cell ``i``."""
        n, n_columns = self.z_NG.shape
        sums = np.zeros((_n_parts(n), n_columns))

        def add(part: int, first: int, stop: int) -> None:
            _add_dense((first, stop), order, (pairs.start_N, pairs.other_E, pairs.weight_E), self.z_NG, sums[part])

        _over_parts(n, add)
        return sums.sum(axis=0) / pairs.total


@dataclass(frozen=True, kw_only=True)
class SparseValues:
    """Values of some variables, of which zeros are not stored, with their moments."""

    start_N: NDArray[np.integer]
    """First entry of each cell, and the end of the last one."""
    column: NDArray[np.integer]
    """At ``2 t``, the variable of entry t, unsigned; in one array with `value`, so that a cell is in one place."""
    value: NDArray[np.floating]
    """At ``2 t + 1``, the value of entry t: the same memory as `column`, read as floats."""
    mean: Array
    var: Array
    """NaN where constant."""
    kurtosis: Array

    @classmethod
    def of(cls, x_NG: sparse.csc_matrix) -> SparseValues:
        """Of a matrix in canonical format. Moments are taken in two passes."""
        n, n_columns = x_NG.shape
        mean, var, fourth = np.empty((3, n_columns))
        for g in range(n_columns):
            x = x_NG.data[x_NG.indptr[g] : x_NG.indptr[g + 1]].astype(np.float64)
            n_zeros = n - len(x)
            mean[g] = x.sum() / n
            floor = MEASURED_RTOL * np.abs(x).max(initial=0.0)
            x -= mean[g]
            x *= x
            var[g] = (x.sum() + n_zeros * mean[g] ** 2) / n
            if np.sqrt(var[g]) <= floor:
                var[g] = np.nan
            fourth[g] = (x @ x + n_zeros * mean[g] ** 4) / n
        by_row = sparse.csr_matrix(x_NG)
        n_bytes = 4 if by_row.data.dtype == np.float32 else 8
        column = np.empty(2 * by_row.nnz, f"u{n_bytes}")
        value = column.view(f"f{n_bytes}")
        column[::2], value[1::2] = by_row.indices, by_row.data
        return cls(
            start_N=by_row.indptr, column=column, value=value, mean=mean, var=var, kurtosis=fourth / np.square(var)
        )

    def statistic(self, pairs: Pairs, order: Order) -> Array:
        """Moran's I with the values of cell ``order[i]`` at cell ``i``."""
        sums = np.zeros((_n_parts(len(order)), 2, len(self.mean)))
        begin, end = self.start_N[order], self.start_N[order + 1]

        def add(part: int, first: int, stop: int) -> None:
            _add_sparse(
                (first, stop),
                (begin, end),
                (pairs.start_N, pairs.other_E, pairs.weight_E, pairs.margin_N),
                (self.column, self.value),
                sums[part],
            )

        _over_parts(len(order), add)
        cross, linear = sums.sum(axis=0)
        return (cross - self.mean * linear + self.mean**2 * pairs.total) / (pairs.total * self.var)


def _n_parts(n: int) -> int:
    return min(-(-n // _PART), _PARTS)


def _over_parts(n: int, add: Callable[[int, int, int], None]) -> None:
    edges = np.linspace(0, n, _n_parts(n) + 1).astype(int)
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="lemon_sc-moran") as pool:
        list(pool.map(add, range(len(edges) - 1), edges[:-1], edges[1:]))


@numba.njit(nogil=True, cache=True)
def _add_dense(
    cells: tuple[int, int],
    order: Order,
    graph: tuple[NDArray[np.integer], NDArray[np.integer], Array],
    z_NG: Array,
    sum_G: Array,
) -> None:
    start_N, other_E, weight_E = graph
    around = np.empty(z_NG.shape[1])
    for i in range(cells[0], cells[1]):
        around[:] = 0.0
        for e in range(start_N[i], start_N[i + 1]):
            weight, z_G = weight_E[e], z_NG[order[other_E[e]]]
            for g in range(around.size):
                around[g] += weight * z_G[g]
        z_G = z_NG[order[i]]
        for g in range(around.size):
            sum_G[g] += z_G[g] * around[g]


@numba.njit(nogil=True, cache=True)
def _add_sparse(
    cells: tuple[int, int],
    entries: tuple[NDArray[np.integer], NDArray[np.integer]],
    graph: tuple[NDArray[np.integer], NDArray[np.integer], Array, Array],
    values: tuple[NDArray[np.integer], NDArray[np.floating]],
    sums: Array,
) -> int:
    (begin_N, end_N), (start_N, other_E, weight_E, margin_N), (column, value) = entries, graph, values
    cross_G, linear_G = sums
    around = np.zeros(cross_G.size)  # weighted sum of the neighbours' values
    touched = 0
    for i in range(cells[0], cells[1]):
        begin, end = begin_N[i], end_N[i]
        if begin == end:
            continue
        # The neighbours lie anywhere in memory. Reading a bit of each first lets all of them travel at once; the sum is
        # returned for the compiler not to leave it out.
        for e in range(start_N[i], start_N[i + 1]):
            for t in range(begin_N[other_E[e]], end_N[other_E[e]], _LINE):
                touched += column[2 * t]
        for e in range(start_N[i], start_N[i + 1]):
            weight = weight_E[e]
            for t in range(begin_N[other_E[e]], end_N[other_E[e]]):
                around[column[2 * t]] += weight * value[2 * t + 1]
        for t in range(begin, end):
            g = column[2 * t]
            cross_G[g] += around[g] * value[2 * t + 1]
            linear_G[g] += margin_N[i] * value[2 * t + 1]
        around[:] = 0.0
    return touched
