"""Nearest neighbours and Moran's I: ours against what users run today, and against the limit of the machine.

    python benchmarks/moran.py [--neighbours 5000 20000 50000] [--moran 2000 10000] [--dims 384] [--genes 100]
                               [--perms 99] [--repeat 3] [--json FILE]
    python benchmarks/moran.py --full [--cells 1000000] [--genes 300] [--perms 99]

Neighbours: 15 of each cell, in an embedding of `--dims` columns that is a curved sheet of 20 dimensions with noise.

(a) scikit-learn's brute force, which is exact, too;
(b) pynndescent with the settings of scanpy, which is not: the share of neighbours that it finds is given;
(c) the limit: the product of the embedding with itself, and nothing done with it.

Moran's I: genes of which 10 % of the values are not zero, on a graph of 15 neighbours, with joint permutations.

(d) squidpy's `spatial_autocorr`;
(e) esda's `Moran`, gene by gene, on a sample of the genes;
(f) the limit: for every pair of neighbours, the values of one are read from where the permutation puts them, and
    nothing is done with them.

All use all cores, but (d) and (e), which are given the one job that is their default. Values are compared, not only
times. Each ratio is of times taken in the same run, the best of `--repeat` for what takes less than ten seconds.

`--full` runs Moran's I alone, at the size of a whole Xenium section, and reports the peak memory of the process over
what it held before; the graph has no order, so that neighbours lie anywhere in memory. A few genes are checked against
the definition.
"""

import argparse
import json
import os
import resource
import time
import warnings
from pathlib import Path

import anndata as ad
import numba
import numpy as np
import torch
from scipy import sparse

from lemon_sc.analysis import nearest as engine
from lemon_sc.analysis.knn import knn_graph, zscore
from lemon_sc.analysis.moran import morans_i
from lemon_sc.analysis.moran_sums import Pairs, SparseValues
from lemon_sc.analysis.nearest import nearest

K = 15
WARM = 1000
"""Cells of a first run that is not timed: it compiles."""


def embedding(n, d, *, seed=0):
    """A curved sheet of 20 dimensions, in twelve clumps, with noise in all columns; z-scored."""
    r = np.random.default_rng(seed)
    u = r.standard_normal((n, 20)) + 3 * r.standard_normal((12, 20))[r.integers(12, size=n)]
    x = np.tanh(u @ r.standard_normal((20, 64)) / 3).astype(np.float32) @ r.standard_normal((64, d)).astype(np.float32)
    return zscore(x + np.float32(0.3) * x.std() * r.standard_normal((n, d)).astype(np.float32))


def expression(n, n_genes, *, density=0.1, seed=0):
    """Log counts, CSR, float32; made in parts, so that this is not where memory peaks."""
    r = np.random.default_rng(seed)
    parts = []
    for start in range(0, n, 50_000):
        m = min(50_000, n - start)
        at = r.random((m, n_genes), dtype=np.float32) < density
        counts = r.poisson(1.0, int(at.sum())) + 1
        columns = np.nonzero(at)[1].astype(np.int32)
        ends = np.concatenate([[0], np.cumsum(at.sum(axis=1))])
        parts.append(sparse.csr_matrix((np.log1p(counts).astype(np.float32), columns, ends), shape=(m, n_genes)))
    return sparse.vstack(parts, format="csr")


def disorder(n, *, seed=0):
    """Graph of 15 neighbours each, drawn at random."""
    other = np.random.default_rng(seed).integers(n - 1, size=(n, K), dtype=np.int32)
    other += other >= np.arange(n, dtype=np.int32)[:, None]
    ends = np.arange(0, n * K + 1, K, dtype=np.int32)
    w = sparse.csr_matrix((np.full(n * K, 1 / K), other.ravel(), ends), shape=(n, n))
    w.sum_duplicates()
    return w


def timed(function, repeat):
    """Best wall time in seconds of `repeat` calls, or of one if that takes ten seconds, and what it returned."""
    best = np.inf
    for _ in range(repeat):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
        if best > 10:
            break
    return best, result


def product_only(x):
    """(c): the blocks of the search and its precision, without looking at the scores."""
    near = torch.from_numpy(x)
    unit = engine._faster_unit(near, work=float(len(x)) * x.size)
    out = torch.empty(engine._QUERIES * engine._CELLS)
    with engine.product_precision("cpu", unit):
        for rows in range(0, len(x), engine._QUERIES):
            q = near[rows : rows + engine._QUERIES]
            for cells in range(0, len(x), engine._CELLS):
                y = near[cells : cells + engine._CELLS]
                torch.mm(q, y.T, out=out[: len(q) * len(y)].view(len(q), len(y)))


def neighbours(n, d, repeat):
    """Seconds of each way to find neighbours, and the agreement of their results."""
    from pynndescent import NNDescent
    from sklearn.neighbors import NearestNeighbors

    x = embedding(n, d)
    trees = {"n_trees": min(64, 5 + round(n**0.5 / 20)), "n_iters": max(5, round(np.log2(n)))}
    seconds, found = {}, {}
    seconds["ours"], (index, distance) = timed(lambda: nearest(x, k=K, device="cpu"), repeat)
    seconds["product"], _ = timed(lambda: product_only(x), repeat)
    seconds["sklearn"], found["sklearn"] = timed(
        lambda: NearestNeighbors(n_neighbors=K, algorithm="brute", n_jobs=-1).fit(x).kneighbors(), repeat
    )
    seconds["pynndescent"], graph = timed(
        lambda: NNDescent(x, n_neighbors=K + 1, random_state=0, **trees).neighbor_graph, repeat
    )
    shared = [len(np.intersect1d(a, b)) for a, b in zip(index, graph[0], strict=True)]
    return {
        "seconds": seconds,
        "recall": float(np.mean(shared) / K),
        "difference": float(np.abs(np.sort(found["sklearn"][0], axis=1) - distance).max()),
    }


@numba.njit(nogil=True)
def _read(first, stop, values, graph):
    (begin, end, column), (start_N, other_E) = values, graph
    total = 0
    for i in range(first, stop):
        for e in range(start_N[i], start_N[i + 1]):
            for t in range(begin[other_E[e]], end[other_E[e]], 8):
                total += column[2 * t]
    return total


def read_only(w, x, n_perms):
    """(f)."""
    from concurrent.futures import ThreadPoolExecutor

    pairs, values = Pairs.of(w), SparseValues.of(sparse.csc_matrix(x))
    edges = np.linspace(0, w.shape[0], 65).astype(int)
    begin, end = values.start_N[:-1], values.start_N[1:]
    _read(0, 0, (begin, end, values.column), (pairs.start_N, pairs.other_E))  # compiles
    start = time.perf_counter()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for seed in range(n_perms):
            order = np.random.default_rng(seed).permutation(w.shape[0])
            begin, end = values.start_N[order], values.start_N[order + 1]
            at = (begin, end, values.column), (pairs.start_N, pairs.other_E)
            list(pool.map(lambda a, b, at=at: _read(a, b, *at), edges[:-1], edges[1:]))
    return time.perf_counter() - start


def moran(n, n_genes, n_perms, repeat):
    """Seconds of each way to Moran's I, and the agreement of their results."""
    import squidpy as sq
    from esda import Moran
    from libpysal.graph import Graph

    x = expression(n, n_genes)
    w = knn_graph(embedding(n, 50), k=K)
    adata = ad.AnnData(x, obsp={"spatial_connectivities": w})
    some = range(0, n_genes, max(1, n_genes // 5))
    graph = Graph.from_sparse(w)

    def by_esda():
        return [Moran(x[:, [g]].toarray().ravel().astype(float), graph, permutations=n_perms).I for g in some]

    def by_squidpy():
        return sq.gr.spatial_autocorr(adata, n_perms=n_perms, seed=0, copy=True, show_progress_bar=False, n_jobs=1)

    seconds = {}
    seconds["ours"], ours = timed(lambda: morans_i(w, x, rng=np.random.default_rng(0), n_perms=n_perms), repeat)
    seconds["read"], _ = timed(lambda: read_only(w, x, n_perms), repeat)
    seconds["squidpy"], table = timed(by_squidpy, 1)
    esda_some, esda_I = timed(by_esda, 1)
    seconds["esda"] = esda_some * n_genes / len(some)
    table = table.loc[adata.var_names]
    return {
        "seconds": seconds,
        "difference": {
            "squidpy": float(np.abs(table["I"] - ours.I).max()),
            "esda": float(np.abs(np.array(esda_I) - ours.I[list(some)]).max()),
        },
    }


def full(n, n_genes, n_perms):
    """Time, memory and correctness of Moran's I at the size of a section."""
    x, w = expression(n, n_genes), disorder(n, seed=1)
    morans_i(w[:WARM, :WARM] + sparse.eye(WARM, format="csr"), x[:WARM], rng=np.random.default_rng(0), n_perms=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    result = morans_i(w, x, rng=np.random.default_rng(0), n_perms=n_perms)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    z = x[:, :5].toarray().astype(np.float64)
    z -= z.mean(axis=0)
    expected = n / w.sum() * np.einsum("ng,ng->g", z, w @ z) / np.square(z).sum(axis=0)
    return {
        "seconds": {"ours": seconds, "read": read_only(w, x, min(n_perms, 5)) * n_perms / min(n_perms, 5)},
        "input_gib": (x.data.nbytes + x.indices.nbytes + w.data.nbytes + w.indices.nbytes) / 2**30,
        "before_gib": before,
        "peak_gib": peak,
        "difference": float(np.abs(result.I[:5] - expected).max()),
        "z_of_I": float(np.std((result.I - result.simulated.mean) / np.sqrt(result.simulated.var))),
    }


def report_neighbours(n, found):
    s = found["seconds"]
    print(
        f"{n:>9}{s['sklearn'] / s['ours']:>12.2f}x faster{s['pynndescent'] / s['ours']:>10.2f}x faster"
        f"{found['recall']:>10.3f}{s['ours'] / s['product']:>10.2f}x time{found['difference']:>12.1e}",
        flush=True,
    )


def report_moran(n, found):
    s, off = found["seconds"], found["difference"]
    print(
        f"{n:>9}{s['squidpy'] / s['ours']:>12.0f}x faster{s['esda'] / s['ours']:>10.0f}x faster"
        f"{s['ours'] / s['read']:>10.2f}x time{off['squidpy']:>12.1e}{off['esda']:>10.1e}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", type=int, nargs="*", default=[5_000, 20_000, 50_000])
    parser.add_argument("--moran", type=int, nargs="*", default=[2_000, 10_000])
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--genes", type=int)
    parser.add_argument("--perms", type=int, default=99)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")
    if args.full:
        n_genes = args.genes or 300
        found = full(args.cells, n_genes, args.perms)
        s = found["seconds"]
        print(
            f"Moran's I, {args.cells} cells x {n_genes} genes x {args.perms} permutations: {s['ours']:.0f} s, "
            f"{s['ours'] / s['read']:.2f}x the time of the reads alone; input {found['input_gib']:.2f} GiB, "
            f"peak {found['peak_gib']:.2f} GiB ({found['before_gib']:.2f} GiB before); "
            f"largest difference to the definition {found['difference']:.1e}; sd of the z-scores {found['z_of_I']:.2f}"
        )
    else:
        found = {"neighbours": {}, "moran": {}}
        neighbours(WARM, args.dims, 1)
        print(
            f"{'cells':>9}{'(a) sklearn':>19}{'(b) pynndescent':>17}{'recall':>10}{'(c) product':>15}{'difference':>12}"
        )
        for n in args.neighbours:
            found["neighbours"][n] = neighbours(n, args.dims, args.repeat)
            report_neighbours(n, found["neighbours"][n])
        moran(WARM, 10, 3, 1)
        print(f"{'cells':>9}{'(d) squidpy':>19}{'(e) esda':>17}{'(f) reads':>15}{'differences':>22}")
        for n in args.moran:
            found["moran"][n] = moran(n, args.genes or 100, args.perms, args.repeat)
            report_moran(n, found["moran"][n])
    if args.json:
        args.json.write_text(json.dumps(vars(args) | {"json": str(args.json), "found": found}, indent=1))


if __name__ == "__main__":
    main()
