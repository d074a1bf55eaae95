"""Exact retrieval by cosine: ours against scikit-learn, and against the limit of the machine.

    python benchmarks/retrieve.py [--rows 1000000] [--peer-rows 200000] [--dims 384] [--queries 1 100 1000] [--hits 50]
                                  [--repeat 3] [--device cpu] [--json FILE]

Rows are vectors of `--dims` columns in a thousand clumps, made in blocks, float32.

(a) scikit-learn's `NearestNeighbors`, brute force, metric cosine, exact but for rounding; on the first `--peer-rows`,
    and so is what it is compared with, because it copies the rows;
(b) the limit: the product of queries and rows in blocks, and nothing done with it; for few queries that is reading the
    rows once.

Ours is exact in float64. Each ratio is of times taken in the same run, the best of `--repeat` for what takes less than
ten seconds. Hits are compared, not only times: the share that (a) and ours have in common. Memory is the peak of the
process during ours over what it held before, embedding included in both.
"""

import argparse
import json
import os
import threading
from pathlib import Path

import numpy as np
import torch
from moran import timed
from sklearn.neighbors import NearestNeighbors

from lemon_sc.analysis.nearest import IEEE, product_precision
from lemon_sc.analysis.retrieval import BLOCK_BYTES, search

BLOCK = 50_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def rows_of(n, d, *, seed=0):
    """Vectors in a thousand clumps, made block by block."""
    r = np.random.default_rng(seed)
    centres = r.standard_normal((1000, d), dtype=np.float32)
    x = np.empty((n, d), np.float32)
    for start in range(0, n, BLOCK):
        part = x[start : start + BLOCK]
        r.standard_normal(dtype=np.float32, out=part)
        part += centres[r.integers(1000, size=len(part))]
    return x


def held():
    """Memory of the process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def peak_over(function):
    """Peak memory in bytes while `function` runs, over what was held before."""
    before, most, done = held(), [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            most[0] = max(most[0], held() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    function()
    done.set()
    thread.join()
    return most[0]


def product_only(x, q, device):
    """(b): the blocks of the search, without looking at the scores."""
    queries = torch.from_numpy(q).to(device)
    size = BLOCK_BYTES[torch.device(device).type] // (4 * (x.shape[1] + 2 * len(q)))
    with product_precision(device, IEEE):
        for start in range(0, len(x), size):
            torch.mm(queries, torch.from_numpy(x[start : start + size]).to(device).T)
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=200_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--hits", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    x = rows_of(args.rows, args.dims)
    part = x[: args.peer_rows]
    peer = NearestNeighbors(n_neighbors=args.hits, algorithm="brute", metric="cosine").fit(part)
    table = []
    for m in args.queries:
        q = rows_of(m, args.dims, seed=1)

        def ours(x=x, q=q):
            return search(x, q, k=args.hits, device=args.device)

        search(x[:1000], q[:1], k=args.hits, device=args.device)  # what is loaded at first is not timed
        seconds, _ = timed(ours, args.repeat)
        limit, _ = timed(lambda q=q: product_only(x, q, args.device), args.repeat)
        seconds_part, hits = timed(lambda q=q: ours(part, q), args.repeat)
        theirs, found = timed(lambda q=q: peer.kneighbors(q, return_distance=False), args.repeat)
        same = np.mean([len(set(a) & set(b)) / args.hits for a, b in zip(hits.index_MK, found, strict=True)])
        row = {
            "rows": args.rows,
            "queries": m,
            "seconds": round(seconds, 3),
            "of_limit": round(limit / seconds, 3),
            "times_sklearn": round(theirs / seconds_part, 2),
            "same_hits": round(float(same), 5),
            "peak_mb": round(peak_over(ours) / 1e6),
            "embedding_mb": round(x.nbytes / 1e6),
            "device": args.device,
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(row), flush=True)
        table.append(row)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
