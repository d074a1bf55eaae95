"""The rows most similar to a query among millions: exact, block by block, by cosine.

A block of rows at a time is multiplied with all queries in float32, which is wrong by a known amount. What this leaves
in doubt is decided in float64, so the result is that of a plain search in float64, whatever the size of the blocks or
the device; of equal cosines, the lower row comes first. Nothing of the size of the embedding is copied.

Letters of array names: N rows, D dimensions, M queries, K hits, B rows of a block, P permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import progress
from lemon_sc.analysis.nearest import IEEE, choose_device, product_precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Ints = NDArray[np.int64]

BLOCK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
"""Rows and scores of a block, float32, by kind of device."""
QUERIES = 2048
"""Queries that are multiplied at once."""
SPARE = 16
"""Candidates beyond the hits that are looked at in float64."""

_TINY = 1e-15  # length of a row whose square float32 does not hold exactly enough


class Hits(NamedTuple):
    """Of M queries, best first."""

    index_MK: Ints
    score_MK: Array
    """Cosine."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Search:
    """Rows, those of them that may be found, and queries of length 1 with the row that each must not find (or -1)."""

    x: NDArray[np.floating]
    rows: NDArray[np.bool_] | None
    q: Array
    own: Ints
    device: str

    @property
    def bound(self) -> float:
        """How far a cosine of the product can be from the exact one."""
        return IEEE * (2 * self.x.shape[1] + 32)

    def take(self, at: Any) -> _Search:
        """Some of the queries."""
        return _Search(x=self.x, rows=self.rows, q=self.q[at], own=self.own[at], device=self.device)


def search(
    x_ND: NDArray[np.floating],
    query_MD: NDArray[np.floating],
    *,
    k: int,
    rows_N: NDArray[np.bool_] | None = None,
    own_M: Ints | None = None,
    device: str = "auto",
) -> Hits:
    """The `k` rows of highest cosine with each query, exact.

    Parameters
    ----------
    x_ND
        Rows, floating point. A row of zeros has cosine 0 with everything.
    query_MD
        Queries, finite, none of them zero.
    k
        Hits per query.
    rows_N
        Which rows may be found; ``None``: all, which must then be finite.
    own_M
        A row that the query must not find, or -1; ``None``: no such rows.
    device
        As for `lemon_sc.analysis.nearest.nearest`.

    Returns
    -------
    The hits.

    Raises
    ------
    ValueError
        If there are fewer than `k` rows to find, a query is zero, or values are not finite.
    """
    made = _prepare(x_ND, query_MD, rows_N, own_M, device)
    there = len(x_ND) if rows_N is None else int(rows_N.sum())
    least = there - int((made.own >= 0).any())
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= least:
        raise bad_value("k", must=f"be an int between 1 and {least}, the rows that can be found", got=k)
    parts = []
    with progress(total=len(made.q), desc="Retrieving", unit="queries") as bar:
        for start in range(0, len(made.q), QUERIES):
            part = made.take(slice(start, start + QUERIES))
            parts.append(_best(part, int(k), there))
            bar.update(len(part.q))
    if not parts:
        return Hits(np.empty((0, k), np.int64), np.empty((0, k)))
    return Hits(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def ranks(
    x_ND: NDArray[np.floating],
    query_MD: NDArray[np.floating],
    target_M: Ints,
    *,
    rows_N: NDArray[np.bool_] | None = None,
    device: str = "auto",
) -> Ints:
    """Rank of a given row among all rows by cosine with its query, 1 for the best, exact.

    Parameters
    ----------
    x_ND, query_MD, rows_N, device
        As for `search`.
    target_M
        The row whose rank is asked for, one per query.

    Returns
    -------
    int64 (M,).

    Raises
    ------
    ValueError
        As for `search`, or if a row asked for may not be found.
    """
    made = _prepare(x_ND, query_MD, rows_N, None, device)
    target = np.asarray(target_M, dtype=np.int64)
    if rows_N is not None and not rows_N[target].all():
        raise bad_value("target_M", must="name rows that can be found", got=target[~rows_N[target]][:5].tolist())
    aim = _cosine(made.x[target], made.q)
    rank = np.ones(len(target), dtype=np.int64)
    for at in range(0, len(target), QUERIES):
        some = slice(at, at + QUERIES)
        part = made.take(some)
        for start, score in _scores(part):
            above = score > torch.from_numpy(aim[some, None] + part.bound).to(score)
            rank[some] += above.sum(dim=1).cpu().numpy()
            near = (score >= torch.from_numpy(aim[some, None] - part.bound).to(score)) & ~above
            query, row = (v.cpu().numpy() for v in torch.nonzero(near, as_tuple=True))
            row += start
            exact = _exact(part, query, row)
            won = (exact > aim[some][query]) | ((exact == aim[some][query]) & (row < target[some][query]))
            rank[some] += np.bincount(query[won], minlength=len(part.q))
    return rank


def _prepare(
    x: NDArray[np.floating],
    query: NDArray[np.floating],
    rows: NDArray[np.bool_] | None,
    own: Ints | None,
    device: str,
) -> _Search:
    if query.ndim != 2 or query.shape[1] != x.shape[1]:
        raise bad_value("query", must=f"have {x.shape[1]} columns, as the embedding has", got=query.shape)
    q = np.ascontiguousarray(query, dtype=np.float64)
    length = np.sqrt(np.square(q).sum(axis=1))
    if not (np.isfinite(length) & (length > 0)).all():
        msg = f"{int((~(length > 0) | ~np.isfinite(length)).sum())} of {len(q)} queries are zero or not finite."
        raise ValueError(msg)
    none = np.full(len(q), -1, dtype=np.int64) if own is None else np.asarray(own, dtype=np.int64)
    name = choose_device(device, work=float(x.size) * len(q))
    return _Search(x=x, rows=rows, q=q / length[:, None], own=none, device=name)


def _scores(search: _Search) -> Iterator[tuple[int, torch.Tensor]]:
    """First row, and cosines (M, B) as float32 makes them, of block after block; -inf where nothing may be found."""
    device = torch.device(search.device)
    q = torch.from_numpy(search.q.astype(np.float32)).to(device)
    own = torch.from_numpy(search.own).to(device)
    size = max(BLOCK_BYTES.get(device.type, BLOCK_BYTES["cpu"]) // (4 * (search.x.shape[1] + 2 * len(q))), 1)
    with product_precision(search.device, IEEE):
        for start in range(0, len(search.x), size):
            block = np.ascontiguousarray(search.x[start : start + size], dtype=np.float32)
            x = torch.from_numpy(block).to(device)
            norm = torch.linalg.vector_norm(x, dim=1)
            tiny = torch.nonzero(norm < _TINY).ravel()
            if len(tiny):
                x[tiny] = torch.from_numpy(_enlarged(search.x[start + tiny.cpu().numpy()])).to(device)
                norm[tiny] = torch.linalg.vector_norm(x[tiny], dim=1)
            score = torch.mm(q, x.T)
            score /= torch.where(norm > 0, norm, 1)
            if search.rows is not None:
                hidden = torch.from_numpy(~search.rows[start : start + size]).to(device)
                score.masked_fill_(hidden, -torch.inf)
                norm[hidden] = 0
            if not torch.isfinite(norm).all():
                msg = f"The embedding {search.x.shape} must be finite and not too large for float32."
                raise ValueError(msg)
            mine = torch.nonzero((own >= start) & (own < start + len(x))).ravel()
            score[mine, own[mine] - start] = -torch.inf
            yield start, score


def _enlarged(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows in the same directions, with a largest element of 1; rows of zeros as they are."""
    rows = np.asarray(x, dtype=np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return (rows / np.where(largest > 0, largest, 1.0)).astype(np.float32)


def _best(search: _Search, k: int, n_there: int) -> Hits:
    """Candidates by float32, hits among them in float64, and a second look at all rows where that leaves a doubt."""
    keep = min(k + SPARE, n_there)
    score = torch.empty(len(search.q), 0, device=search.device)
    index = torch.empty(len(search.q), 0, dtype=torch.int64, device=search.device)
    for start, block in _scores(search):
        high, row = _promising(block, score[:, -1:] if score.shape[1] == keep else None, keep)
        score, index = torch.cat([score, high], dim=1), torch.cat([index, row + start], dim=1)
        score, where = torch.topk(score, min(keep, score.shape[1]), dim=1)
        index = torch.gather(index, 1, where)
    candidate, rough = index.cpu().numpy(), score.cpu().numpy()
    query = np.repeat(np.arange(len(candidate)), candidate.shape[1])
    exact = _exact(search, query, candidate.ravel()).reshape(candidate.shape)
    exact[np.isneginf(rough)] = -np.inf
    hits = _sorted(candidate, exact, k)
    sure = hits.score_MK[:, -1] > rough.min(axis=1) + search.bound
    if keep < n_there and not sure.all():
        _settle(search, hits, np.flatnonzero(~sure), k)
    return hits


def _promising(block: torch.Tensor, worst: torch.Tensor | None, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and places (M, few) of a block that are among its `keep` best, or better than the worst one kept so far.

    The latter are few once some blocks have been seen, and found much faster.
    """
    if worst is not None:
        query, row = torch.nonzero(block > worst, as_tuple=True)
        n = torch.bincount(query, minlength=len(block))
        width = int(n.max())
        if width <= keep:
            slot = torch.arange(len(query), device=n.device) - torch.repeat_interleave(torch.cumsum(n, 0) - n, n)
            high = torch.full((len(block), width), -torch.inf, device=block.device)
            place = torch.zeros((len(block), width), dtype=torch.int64, device=block.device)
            high[query, slot], place[query, slot] = block[query, row], row
            return high, place
    high, place = torch.topk(block, min(keep, block.shape[1]), dim=1)
    return high, place


def _settle(search: _Search, hits: Hits, doubtful: Ints, k: int) -> None:
    """Look in float64 at every row that may still belong to the hits of the doubtful queries."""
    part = search.take(doubtful)
    least = hits.score_MK[doubtful, -1] - part.bound
    index, score = np.empty((len(doubtful), 0), np.int64), np.empty((len(doubtful), 0))
    for start, block in _scores(part):
        maybe = (block >= torch.from_numpy(least[:, None]).to(block)) & (block > -torch.inf)
        for m in torch.nonzero(maybe.any(dim=1)).ravel().tolist():
            row = start + torch.nonzero(maybe[m]).ravel().cpu().numpy()
            exact = _exact(part, np.full(len(row), m), row)
            best = np.lexsort((row, -exact))[:k]
            found = np.concatenate([index[m][score[m] > -np.inf], row[best]])
            cosine = np.concatenate([score[m][score[m] > -np.inf], exact[best]])
            index, score = _put(index, score, m, found, cosine, k)
    made = _sorted(index, score, k)
    hits.index_MK[doubtful], hits.score_MK[doubtful] = made


def _put(index: Ints, score: Array, m: int, found: Ints, cosine: Array, k: int) -> tuple[Ints, Array]:
    """The tables with the best `k` of `found` in row `m`."""
    if index.shape[1] < k:
        index, score = np.zeros((len(index), k), np.int64), np.full((len(index), k), -np.inf)
    best = np.lexsort((found, -cosine))[:k]
    index[m, : len(best)], score[m, : len(best)] = found[best], cosine[best]
    return index, score


def _sorted(index: Ints, score: Array, k: int) -> Hits:
    """The `k` best of each query, higher cosines first, then lower rows."""
    order = np.lexsort((index, -score), axis=1)[:, :k]
    return Hits(np.take_along_axis(index, order, axis=1), np.take_along_axis(score, order, axis=1))


def _exact(search: _Search, query: Ints, row: Ints) -> Array:
    """Cosine of pairs in float64, some thousand at a time."""
    out = np.empty(len(row))
    size = max((16 << 20) // (8 * search.x.shape[1]), 1)
    for start in range(0, len(row), size):
        part = slice(start, start + size)
        out[part] = _cosine(search.x[row[part]], search.q[query[part]])
    return out


def _cosine(x: NDArray[np.floating], q: Array) -> Array:
    """Cosine of each row with its query of length 1, summed in one fixed order: equal rows give equal numbers."""
    x = np.asarray(x, dtype=np.float64)
    norm = np.sqrt(np.square(x).sum(axis=1))
    return np.asarray((x * q).sum(axis=1) / np.where(norm > 0, norm, 1.0))
