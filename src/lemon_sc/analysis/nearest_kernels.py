"""Compiled loops of the exact neighbour search. They release the GIL and treat each row alone, so threads share them.

Letters of array names: N cells, D dimensions, M queries, Q queries of a block, B cells of a block, K neighbours,
C candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_CHUNK = 128  # scores that are compared at once, before any of them is looked at


class Bound(NamedTuple):
    """How wrong a squared distance from a product can be."""

    product: float
    """Part of ``|x| |y|``: rounding of the factors."""
    sums: float
    """Part of ``(|x| + |y|)^2``: float32 sums, and everything else."""
    scale2: float
    """Squared distances that the products give over true ones, apart from the error."""


class Queries(NamedTuple):
    """Of one block."""

    raw_QD: NDArray[np.floating]
    own_Q: NDArray[np.int64]
    """Index of the query among the cells, which is not its own neighbour; -1 for new points."""
    norm_Q: Array
    """Of the centred and scaled rows."""


class Block(NamedTuple):
    """Scores of the cells ``first ... first + B``."""

    first: int
    score_QB: NDArray[np.float32]
    """``-2 q.y`` of centred and scaled rows."""
    norm2_B: NDArray[np.float32]


class Candidates(NamedTuple):
    """Cells with the smallest scores."""

    index_QC: NDArray[np.int64]
    worst_Q: Array
    """Every other cell has this score plus squared norm, or more."""
    proven_Q: NDArray[np.bool_]
    """To be filled: whether no other cell can be nearer."""


class Found(NamedTuple):
    """Neighbours so far, sorted by squared distance, then index; infinite where there is none yet."""

    d2_QK: Array
    index_QK: NDArray[np.int64]


@numba.njit(nogil=True, cache=True)
def _squared_distance(a_D: NDArray[np.floating], b_D: NDArray[np.floating]) -> float:
    """By difference, in float64, in one fixed order: the same on every machine, 0 for equal rows."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = a_D.size - a_D.size % 8
    for t in range(0, whole, 8):
        d0, d1 = np.float64(a_D[t]) - b_D[t], np.float64(a_D[t + 1]) - b_D[t + 1]
        d2, d3 = np.float64(a_D[t + 2]) - b_D[t + 2], np.float64(a_D[t + 3]) - b_D[t + 3]
        d4, d5 = np.float64(a_D[t + 4]) - b_D[t + 4], np.float64(a_D[t + 5]) - b_D[t + 5]
        d6, d7 = np.float64(a_D[t + 6]) - b_D[t + 6], np.float64(a_D[t + 7]) - b_D[t + 7]
        s0 += d0 * d0
        s1 += d1 * d1
        s2 += d2 * d2
        s3 += d3 * d3
        s4 += d4 * d4
        s5 += d5 * d5
        s6 += d6 * d6
        s7 += d7 * d7
    for t in range(whole, a_D.size):
        d0 = np.float64(a_D[t]) - b_D[t]
        s0 += d0 * d0
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@numba.njit(nogil=True, cache=True)
def _insert(best_K: Array, index_K: NDArray[np.int64], d2: float, j: int) -> None:
    """Put (d2, j) at its place among the sorted pairs if it belongs there; the last one falls out."""
    last = best_K.size - 1
    if d2 > best_K[last] or (d2 == best_K[last] and j > index_K[last]):
        return
    at = last
    while at > 0 and (d2 < best_K[at - 1] or (d2 == best_K[at - 1] and j < index_K[at - 1])):
        best_K[at], index_K[at] = best_K[at - 1], index_K[at - 1]
        at -= 1
    best_K[at], index_K[at] = d2, j


@numba.njit(nogil=True, cache=True)
def _limit(norm: float, d2: float, bound: Bound) -> float:
    """Largest score that a cell at a true squared distance of at most `d2` may have.

    Its norm is at most ``norm + sqrt(d2)``.
    """
    if np.isinf(d2):
        return np.inf
    near = d2 * bound.scale2
    other = norm + np.sqrt(near)
    return near - norm**2 + bound.product * norm * other + bound.sums * (norm + other) ** 2


@numba.njit(nogil=True, cache=True)
def _any_below(norm2_B: NDArray[np.float32], score_B: NDArray[np.float32], limit: np.float32) -> np.bool_:
    hits = np.uint32(0)  # a count of the width of the scores: this loop becomes vector instructions
    for j in range(norm2_B.size):
        hits = np.uint32(hits + np.uint32(norm2_B[j] + score_B[j] <= limit))
    return hits > 0


@numba.njit(nogil=True, cache=True)
def scan(
    rows: tuple[int, int], block: Block, x_ND: NDArray[np.floating], queries: Queries, bound: Bound, found: Found
) -> None:
    """Take the cells of a block into what `rows` have found so far.

    A pair is looked at, that is its distance is taken exactly, where its score cannot rule it out.

    Parameters
    ----------
    rows
        First query, and the one after the last.
    block
        Scores of a run of cells against all queries.
    x_ND
        All cells.
    queries
        What is asked for.
    bound
        How far a score can lie from the exact distance.
    found
        Neighbours so far, written in place.
    """
    first, last = block.first, found.d2_QK.shape[1] - 1
    for q in range(rows[0], rows[1]):
        d2, index, score, norm = found.d2_QK[q], found.index_QK[q], block.score_QB[q], queries.norm_Q[q]
        if d2[last] == 0.0 and first > index[last]:
            continue  # enough copies of this very row with lower indices
        limit = np.float32(_limit(norm, d2[last], bound))
        for start in range(0, block.norm2_B.size, _CHUNK):
            stop = min(start + _CHUNK, block.norm2_B.size)
            if not _any_below(block.norm2_B[start:stop], score[start:stop], limit):
                continue
            for j in range(start, stop):
                if block.norm2_B[j] + score[j] <= limit and first + j != queries.own_Q[q]:
                    _insert(d2, index, _squared_distance(queries.raw_QD[q], x_ND[first + j]), first + j)
                    limit = np.float32(_limit(norm, d2[last], bound))
            if d2[last] == 0.0 and first + stop > index[last]:
                break


@numba.njit(nogil=True, cache=True)
def settle(
    rows: tuple[int, int],
    candidates: Candidates,
    x_ND: NDArray[np.floating],
    queries: Queries,
    bound: Bound,
    found: Found,
) -> None:
    """Find neighbours among candidates, and say whether a cell beyond them could be nearer.

    Parameters
    ----------
    rows
        First query, and the one after the last.
    candidates
        Cells to look at per query; whether they suffice is written to ``proven_Q``.
    x_ND
        All cells.
    queries
        What is asked for.
    bound
        How far a score can lie from the exact distance.
    found
        Neighbours so far, written in place.
    """
    last = found.d2_QK.shape[1] - 1
    for q in range(rows[0], rows[1]):
        for j in candidates.index_QC[q]:
            _insert(found.d2_QK[q], found.index_QK[q], _squared_distance(queries.raw_QD[q], x_ND[j]), j)
        limit = _limit(queries.norm_Q[q], found.d2_QK[q, last], bound)
        candidates.proven_Q[q] = candidates.worst_Q[q] > limit
