"""Exact nearest neighbours of many cells: fast matrix products rule out, exact distances decide.

Squared distances from a matrix product, ``|x|^2 + |y|^2 - 2 x.y``, cost little, and are wrong by a known amount: the
sums round, and some processors round the factors to bfloat16, too. A pair that this error leaves in doubt has its
distance taken by difference in float64. The result is therefore that of a plain search in float64, whatever the size
of the blocks, the device or the precision of the product; of equal distances, the lower index comes first.

Letters of array names: N cells, D dimensions, M queries, K neighbours.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import logger, progress
from lemon_sc.analysis import nearest_kernels as kernels
from lemon_sc.embed.devices import resolve_devices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_QUERIES, _CELLS = 2048, 8192  # of a block on the CPU: 64 MiB of scores
_DEVICE_QUERIES, _DEVICE_CELLS = 8192, 32768  # of a block on an accelerator: 1 GiB of scores
_SPARE = 16  # candidates beyond the neighbours that an accelerator hands back
_WORTH_A_DEVICE = 1e11  # multiplications below which starting one takes longer
_NONE = np.iinfo(np.int64).max
IEEE, _BF16 = 2.0**-24, 2.0**-8
"""Unit roundoff."""


@dataclass(frozen=True, kw_only=True)
class _Points:
    """Rows as they came, and a float32 copy, centred and scaled to about unit size, that the products are taken of."""

    raw: NDArray[np.floating]
    near: torch.Tensor
    norm2: Array

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> _Points:
        return _Points(raw=self.raw[rows], near=self.near[rows], norm2=self.norm2[rows])


@dataclass(frozen=True, kw_only=True)
class _Search:
    cells: _Points
    queries: _Points
    own: NDArray[np.int64]
    """Index of the query among the cells, which is not its own neighbour; -1 for new points."""
    k: int
    scale2: float
    """Squared distance in the copy over squared distance."""


def nearest(
    x_ND: NDArray[np.floating], *, k: int, query_MD: NDArray[np.floating] | None = None, device: str = "auto"
) -> tuple[NDArray[np.int64], Array]:
    """The `k` nearest cells of each query, Euclidean, exact.

    Memory beyond the input and the result: one float32 copy of the input, unless it is float32 already and centred,
    and one block of scores. The time grows with N * M * D.

    Parameters
    ----------
    x_ND
        Cells, finite, floating point.
    k
        Neighbours per query: below N, and up to N for new queries.
    query_MD
        New points; ``None`` takes each cell of `x_ND`, which is then not its own neighbour.
    device
        ``"auto"`` takes the first CUDA device for large problems and the CPU otherwise; or a name as torch writes it.

    Returns
    -------
    index, distance
        (M, k) each, nearest first; of equal distances the lower index first. The distances are float64.

    Raises
    ------
    ValueError
        If `k` is out of range, or values are not finite.
    """
    x = np.ascontiguousarray(x_ND)
    n_others = len(x) - (query_MD is None)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= n_others:
        raise bad_value("k", must=f"be an int between 1 and {n_others} for {len(x)} cells", got=k)
    search = _prepare(x, query_MD, int(k))
    shape = len(search.own), search.k
    found = kernels.Found(d2_QK=np.full(shape, np.inf), index_QK=np.full(shape, _NONE))
    name = choose_device(device, work=float(len(x)) * len(search.own) * x.shape[1])
    with progress(total=len(search.own), desc="Neighbours", unit="cells") as bar:
        if torch.device(name).type == "cpu":
            _on_cpu(search, np.arange(shape[0]), found, bar.update)
        else:
            _on_device(search, name, found, bar.update)
    return found.index_QK, np.sqrt(found.d2_QK)


def choose_device(device: str, *, work: float) -> str:
    """The device that is worth starting.

    Parameters
    ----------
    device
        ``"auto"``, or a name as torch writes it.
    work
        Multiplications.

    Returns
    -------
    A name: for ``"auto"``, the first CUDA device for large problems and the CPU otherwise.
    """
    name = resolve_devices(device)[0]
    if device == "auto" and (work < _WORTH_A_DEVICE or not name.startswith("cuda")):
        return "cpu"
    return name


def _prepare(x: NDArray[np.floating], query: NDArray[np.floating] | None, k: int) -> _Search:
    with np.errstate(all="ignore"):  # what is not finite shows in the end
        mean = x.mean(axis=0, dtype=np.float64)
        power = sum(np.square(x[s] - mean).sum() for s in _slices(len(x))) / x.size
        power = max(power, 1e-24 * np.mean(mean**2))  # of equal rows, rounding is not to be blown up
        scale = 2.0 ** -np.round(np.log2(power) / 2) if power > 0 else 1.0  # a power of two: no rounding
    cells = _points(x, mean, scale)
    if query is None:
        return _Search(cells=cells, queries=cells, own=np.arange(len(x)), k=k, scale2=scale**2)
    new = np.ascontiguousarray(query)
    return _Search(cells=cells, queries=_points(new, mean, scale), own=np.full(len(new), -1), k=k, scale2=scale**2)


def _points(x: NDArray[np.floating], mean: Array, scale: float) -> _Points:
    near = x
    with np.errstate(all="ignore"):
        if x.dtype != np.float32 or scale != 1 or not np.mean(mean**2) < 0.01:
            near = np.empty(x.shape, np.float32)
            for rows in _slices(len(x)):
                near[rows] = (x[rows] - mean) * scale
        norm2 = np.concatenate([np.square(near[rows].astype(np.float64)).sum(axis=1) for rows in _slices(len(x))])
    if not np.isfinite(norm2).all():
        msg = f"The embedding {x.shape} must be finite, and no row too far from the others for float32."
        raise ValueError(msg)
    return _Points(raw=x, near=torch.from_numpy(near), norm2=norm2)


def _slices(n: int) -> list[slice]:
    return [slice(start, min(start + _CELLS, n)) for start in range(0, n, _CELLS)]


def _bound(search: _Search, unit: float) -> kernels.Bound:
    """Of ``2 x.y`` if the factors are rounded to `unit`, and of float32 sums in any order."""
    n_dims = search.cells.raw.shape[1]
    product = 0.0 if unit == IEEE else 4 * unit + 2 * unit**2
    return kernels.Bound(product=product, sums=IEEE * (n_dims / 2 + 16), scale2=search.scale2)


def _on_cpu(search: _Search, rows: NDArray[np.int64], found: kernels.Found, done: Callable[[int], Any]) -> None:
    """Fill `rows` of `found`."""
    cells, n_threads = search.cells, torch.get_num_threads()
    scores = torch.empty(min(_QUERIES, len(rows)) * min(_CELLS, len(cells.norm2)))
    norm2 = cells.norm2.astype(np.float32)
    unit = _faster_unit(cells.near, work=float(len(rows)) * cells.raw.size)
    bound = _bound(search, unit)
    with ThreadPoolExecutor(n_threads, thread_name_prefix="lemon_sc-nearest") as pool, product_precision("cpu", unit):
        for at in range(0, len(rows), _QUERIES):
            some = rows[at : at + _QUERIES]
            q = search.queries[some]
            queries = kernels.Queries(raw_QD=q.raw, own_Q=search.own[some], norm_Q=np.sqrt(q.norm2))
            mine = kernels.Found(found.d2_QK[some], found.index_QK[some])
            twice = -2 * q.near
            for part in _own_first(len(norm2), queries.own_Q[0]):
                score = scores[: len(some) * len(norm2[part])].view(len(some), -1)
                torch.mm(twice, cells.near[part].T, out=score)
                block = kernels.Block(first=part.start, score_QB=score.numpy(), norm2_B=norm2[part])
                _share(pool, kernels.scan, len(some), block, cells.raw, queries, bound, mine)
            found.d2_QK[some], found.index_QK[some] = mine
            done(len(some))


def _on_device(search: _Search, device: str, found: kernels.Found, done: Callable[[int], Any]) -> None:
    """Candidates from the device, neighbours among them here, and the rows that this leaves open on the CPU."""
    proven = np.zeros(len(search.own), bool)
    try:
        _prove(search, device, found, proven, done)
    except torch.cuda.OutOfMemoryError:
        logger.warning("Out of memory on %s: the neighbours of %d cells come from the CPU.", device, (~proven).sum())
    if not proven.all():
        found.d2_QK[~proven], found.index_QK[~proven] = np.inf, _NONE
        _on_cpu(search, np.flatnonzero(~proven), found, done)


def _prove(
    search: _Search, device: str, found: kernels.Found, proven: NDArray[np.bool_], done: Callable[[int], Any]
) -> None:
    """Fill the rows of `found` that are right for sure, and mark them."""
    cells, n_threads = search.cells, torch.get_num_threads()
    n_others = len(cells.norm2) - int(search.own[0] >= 0)
    keep = min(search.k + _SPARE, n_others)
    near, norm2 = cells.near.to(device), torch.from_numpy(cells.norm2.astype(np.float32)).to(device)
    bound = _bound(search, IEEE)
    with ThreadPoolExecutor(n_threads, thread_name_prefix="lemon_sc-nearest") as pool, product_precision(device, IEEE):
        for at in range(0, len(proven), _DEVICE_QUERIES):
            rows = slice(at, min(at + _DEVICE_QUERIES, len(proven)))
            q = search.queries[rows]
            score, index = _candidates(q.near.to(device), near, norm2, own=search.own[rows], keep=keep)
            worst = score.max(axis=1).astype(np.float64) if keep < n_others else np.full(len(score), np.inf)
            candidates = kernels.Candidates(index_QC=index, worst_Q=worst, proven_Q=proven[rows])
            queries = kernels.Queries(raw_QD=q.raw, own_Q=search.own[rows], norm_Q=np.sqrt(q.norm2))
            mine = kernels.Found(found.d2_QK[rows], found.index_QK[rows])
            _share(pool, kernels.settle, len(score), candidates, cells.raw, queries, bound, mine)
            done(int(proven[rows].sum()))


def _share(pool: ThreadPoolExecutor, kernel: Callable[..., None], n: int, *arguments: Any) -> None:
    """Run a kernel over `n` rows, split among the threads of the pool."""
    edges = np.linspace(0, n, 4 * torch.get_num_threads() + 1).astype(int).tolist()
    list(pool.map(lambda rows: kernel(rows, *arguments), zip(edges[:-1], edges[1:], strict=True)))


def _candidates(
    q: torch.Tensor, near: torch.Tensor, norm2: torch.Tensor, *, own: NDArray[np.int64], keep: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `keep` smallest scores of each query and whose they are."""
    twice = -2 * q
    score = torch.empty(len(q), 0, device=q.device)
    index = torch.empty(len(q), 0, dtype=torch.int64, device=q.device)
    at = torch.from_numpy(own).to(q.device)
    for start in range(0, len(near), _DEVICE_CELLS):
        stop = min(start + _DEVICE_CELLS, len(near))
        block = torch.addmm(norm2[start:stop], twice, near[start:stop].T)
        mine = torch.nonzero((at >= start) & (at < stop)).ravel()
        block[mine, at[mine] - start] = torch.inf
        low, where = torch.topk(block, min(keep, stop - start), dim=1, largest=False)
        score, index = torch.cat([score, low], dim=1), torch.cat([index, where + start], dim=1)
        score, where = torch.topk(score, min(keep, score.shape[1]), dim=1, largest=False)
        index = torch.gather(index, 1, where)
    return score.cpu().numpy(), index.cpu().numpy()


def _own_first(n: int, own: int) -> list[slice]:
    """Blocks of the cells, from the one that holds the queries: cells often lie beside their like."""
    blocks, first = _slices(n), max(own, 0) // _CELLS
    return [blocks[first], *blocks[:first], *blocks[first + 1 :]]


def _faster_unit(near: torch.Tensor, *, work: float) -> float:
    """Roundoff of the faster product on this processor: some have matrix units for bfloat16. Both are exact enough."""
    if work < _WORTH_A_DEVICE:
        return IEEE
    seconds = {}
    for unit in (IEEE, _BF16):
        with product_precision("cpu", unit):
            torch.mm(near[:_QUERIES], near[:_CELLS].T)
            start = time.perf_counter()
            torch.mm(near[:_QUERIES], near[:_CELLS].T)
            seconds[unit] = time.perf_counter() - start
    return _BF16 if seconds[_BF16] < 0.7 * seconds[IEEE] else IEEE


@contextmanager
def product_precision(device: str, unit: float) -> Iterator[None]:
    """Products of float32 with factors of that roundoff, whatever is set outside, and back.

    Parameters
    ----------
    device
        Where the products are made.
    unit
        `IEEE`, or the roundoff of bfloat16.

    Yields
    ------
    Nothing.
    """
    backend: Any = torch.backends.cuda.matmul if device.startswith("cuda") else torch.backends.mkldnn
    backend = getattr(backend, "matmul", backend)
    if hasattr(backend, "fp32_precision"):
        before = backend.fp32_precision
        backend.fp32_precision = "bf16" if unit == _BF16 else "ieee"
        try:
            yield
        finally:
            backend.fp32_precision = before
        return
    level = torch.get_float32_matmul_precision()  # torch before 2.9 knows one setting for all devices
    torch.set_float32_matmul_precision("medium" if unit == _BF16 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(level)
