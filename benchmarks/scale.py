"""How memory and time grow: nuclei, size of the image, genes and workers.

    python benchmarks/scale.py memory [--nuclei 10000 100000 1000000] [--side 40000] [--repeat 3] [--csv FILE]
    python benchmarks/scale.py growth [--repeat 3] [--csv FILE]
    python benchmarks/scale.py figure

`memory`: the largest resident set of a process of its own that (a) cuts nuclei into a crop store or (b) embeds them
into a store, with an encoder that costs next to nothing (the mean colour), less what it held before it began: imports,
centres and names of the nuclei. The image is the same for all, in chunks of 1 x 4096 x 4096 px as SpatialData writes
them. Which blocks, batches and shards are under way at the same moment differs from run to run: medians of `--repeat`.

`growth`: seconds relative to the smallest size, one thing varied at a time, sizes taken in turns, medians.

`figure`: draws docs/_static/scaling.png from the growth file.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
GROWTH = HERE / "results" / "growth.csv"
MEMORY = HERE / "results" / "memory.csv"
FIGURE = HERE.parent / "docs" / "_static" / "scaling.png"
MPP, CHUNK, MARGIN = (0.2125, 0.2125), 4096, 60


def write_image(path, side, *, kinds=4):
    """An OME-Zarr level (3, side, side) of random texture: few chunks are encoded, the others are links to them."""
    import zarr

    n = -(-side // CHUNK)
    array = zarr.create_array(path, shape=(3, n * CHUNK, n * CHUNK), chunks=(1, CHUNK, CHUNK), dtype="uint8")
    rng = np.random.default_rng(0)
    for kind in range(min(kinds, n)):
        coarse = rng.integers(90, 230, (CHUNK // 8, CHUNK // 8)).repeat(8, axis=0).repeat(8, axis=1)
        texture = coarse + rng.integers(-3, 4, (CHUNK, CHUNK))
        for c in range(3):
            array[c, :CHUNK, kind * CHUNK : (kind + 1) * CHUNK] = texture.astype(np.uint8)
    for c in range(3):
        for r in range(n):
            for k in range(n):
                target = Path(path) / "c" / str(c) / str(r) / str(k)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(Path(path) / "c" / str(c) / "0" / str((r + k) % min(kinds, n)), target)
    return path


def open_image(path):
    import dask.array as da

    from lemon_sc.io.image import dask_image

    return dask_image(da.from_zarr(str(path)))


def centres(n, side):
    return np.random.default_rng(1).uniform(MARGIN, side - MARGIN, (n, 2))


def mean_colour():
    """An encoder that costs next to nothing."""
    from lemon_sc.models.cards import ModelCard
    from lemon_sc.models.encoder import Encoder

    def function(crops):
        return np.tile(crops.mean(axis=(1, 2), dtype=np.float32), (1, 128))

    return Encoder(card=ModelCard(name="mean-colour", dim=384), function=function)


def embed_to(path, image, xy, batches):
    """What `tl.embed(store=...)` does, without tables."""
    from lemon_sc.embed.run import encoded
    from lemon_sc.io.shards import Field, writing

    fields = {"z": Field(dtype="float32", shape=(384,))}
    with writing(path, id="scale", n=len(xy), fields=fields, attrs={}, fixed={"xy": xy}) as shards:
        made = encoded(batches, mean_colour(), n=len(xy), device="cpu", dtype="fp32", progress=False)
        shards.take((at, {"z": z}) for at, z in made)


def resident(what):
    """Resident set of this process in MB: ``"VmRSS"`` now, ``"VmHWM"`` at its largest."""
    line = next(line for line in Path("/proc/self/status").read_text().split("\n") if line.startswith(what))
    return int(line.split()[1]) / 1024


def child(task, image_path, out, n, side):
    """Do one task; print by how many MB the resident set of this process grew."""
    import spatialdata  # noqa: F401
    import torch  # noqa: F401

    import lemon_sc.embed.run  # noqa: F401
    from lemon_sc.crops.store import write_store
    from lemon_sc.crops.stream import reading_order, stream_crops

    image, xy = open_image(image_path), centres(n, side)
    xy = xy[reading_order(image, xy, mpp=MPP, size_px=40)]
    names, rank = np.arange(n).astype(str).astype(object), np.zeros(n, np.int64)
    before = resident("VmRSS")
    if task == "store":

        def cut(todo):
            part = xy if len(todo) == n else xy[todo]
            del todo
            for at, crops in stream_crops(image, part, mpp=MPP):
                yield at, {"crops": crops, "verdict": np.zeros(len(at), np.uint8)}

        write_store(out, cut, obs_name=names, xy=xy, rank=rank, size_px=40, attrs={})
    else:
        embed_to(Path(out), image, xy, stream_crops(image, xy, mpp=MPP))
    print(f"RESULT {resident('VmHWM') - before}")


def measured(task, image_path, folder, n, side):
    """By how many MB a child grew."""
    out = folder / "out.zarr"
    command = [sys.executable, "-W", "ignore", __file__, "child", task, image_path, out, n, side]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    shutil.rmtree(out, ignore_errors=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.split("RESULT ")[1])


def memory(sizes, side, repeat, target):
    folder = Path(tempfile.mkdtemp(prefix="lemon_sc_scale_"))
    try:
        image = write_image(folder / "image.zarr", side)
        print(f"image {side} x {side} px, {os.cpu_count()} cores")
        rows = []
        measured("store", image, folder, 1000, side)  # what it compiles is kept for the others
        for task in ("store", "embed"):
            first = None
            for n in sizes:
                runs = [measured(task, image, folder, n, side) for _ in range(repeat)]
                grown = float(np.median(runs))
                first = first or grown
                rows.append({"task": task, "nuclei": n, "mb": round(grown), "to_first": round(grown / first, 3)})
                spread = f"{min(runs):.0f} to {max(runs):.0f}"
                print(f"{task:<8}{n:>10} nuclei {grown:>8.0f} MB ({spread}) {grown / first:>8.2f}x", flush=True)
        write_csv(target, rows)
    finally:
        shutil.rmtree(folder)


def write_csv(path, rows):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def extraction(image, xy, workers=None):
    from lemon_sc.crops.stream import stream_crops

    for _ in stream_crops(image, xy, mpp=MPP, workers=workers):
        pass


def growth_runs(folder):
    """(cost, what grows, size, function) for every point of the figure."""
    from scipy import sparse

    from lemon_sc.analysis.moran import morans_i

    images = {s: open_image(write_image(folder / f"{s}.zarr", s)) for s in (4096, 8192, 16384)}
    runs = []
    for n in (1_000, 10_000, 100_000, 400_000):
        xy = centres(n, 16384)
        runs.append(("extraction, fixed image", "nuclei", n, lambda xy=xy: extraction(images[16384], xy)))
    for side, image in images.items():
        xy = centres(int(side**2 * 2.5e-4), side)
        runs.append(("extraction, fixed density", "image, px", side**2, lambda i=image, x=xy: extraction(i, x)))
    rng, n = np.random.default_rng(0), 20_000
    ends = np.arange(0, n * 15 + 1, 15)
    graph = sparse.csr_matrix((np.full(n * 15, 1 / 15), rng.integers(n, size=n * 15), ends), shape=(n, n))
    graph.sum_duplicates()
    for genes in (30, 100, 300, 1000):
        x = sparse.random(n, genes, density=0.1, format="csr", dtype=np.float32, random_state=0)
        moran = lambda x=x: morans_i(graph, x, rng=np.random.default_rng(0), n_perms=19)  # noqa: E731
        runs.append(("Moran's I, 20,000 cells", "genes", genes, moran))
    xy = centres(60_000, 16384)
    for workers in sorted({1, 2, os.cpu_count()}):
        job = lambda w=workers: extraction(images[16384], xy, w)  # noqa: E731
        runs.append(("extraction, 60,000 nuclei", "workers", workers, job))
    return runs


def growth(repeat, target):
    folder = Path(tempfile.mkdtemp(prefix="lemon_sc_scale_"))
    try:
        runs = growth_runs(folder)
        seconds = [[] for _ in runs]
        for turn in range(repeat + 1):
            for (*_, job), found in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                job()
                if turn:  # the first compiles and fills caches
                    found.append(time.perf_counter() - start)
        rows, first = [], {}
        for (cost, grows, size, _), found in zip(runs, seconds, strict=True):
            s0, t0 = first.setdefault(grows, (size, np.median(found)))
            ratio = {"size_to_first": round(size / s0, 3), "time_to_first": round(float(np.median(found) / t0), 3)}
            rows.append({"cost": cost, "grows": grows, "size": size, **ratio})
            print(*rows[-1].values(), sep=", ", flush=True)
        write_csv(target, rows)
    finally:
        shutil.rmtree(folder)


def figure(source, target):
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    with source.open() as file:
        rows = list(csv.DictReader(file))
    things = list(dict.fromkeys(row["grows"] for row in rows))
    drawn, axes = plt.subplots(1, len(things), figsize=(2.5 * len(things), 2.7), layout="constrained")
    for ax, thing in zip(axes, things, strict=True):
        mine = [row for row in rows if row["grows"] == thing]
        size = np.array([float(row["size"]) for row in mine])
        ratio = np.array([float(row["time_to_first"]) for row in mine])
        ideal = size[0] / size if thing == "workers" else size / size[0]
        ax.loglog(size, ideal, "--", color="0.7", lw=1, label="in proportion")
        ax.loglog(size, ratio, "o-", color="#1f6f8b", ms=4, lw=1.5, label="measured")
        ax.set(xlabel=thing, title=mine[0]["cost"])
        ax.title.set_size(9)
        ax.minorticks_off()
        if thing == "workers":
            ax.set_xticks(size, [f"{s:.0f}" for s in size])
            ax.set_yticks([0.5, 1], ["0.5", "1"])
            ax.set_ylim(0.4, 1.25)
        elif thing == "genes":
            ax.set_xticks(size, [f"{s:.0f}" for s in size])
    axes[0].set_ylabel("time, relative to the smallest")
    axes[0].legend(frameon=False, loc="upper left")
    drawn.savefig(target, dpi=150)


def main():
    if sys.argv[1:2] == ["child"]:
        task, image, out, n, side = sys.argv[2:]
        child(task, image, out, int(n), int(side))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "growth", "figure"])
    parser.add_argument("--nuclei", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--side", type=int, default=40_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    if args.what == "memory":
        memory(args.nuclei, args.side, args.repeat, args.csv or MEMORY)
    elif args.what == "growth":
        growth(args.repeat, args.csv or GROWTH)
    else:
        figure(args.csv or GROWTH, FIGURE)


if __name__ == "__main__":
    main()
