"""Extraction of nucleus crops: ours against per-nucleus reads, and against the time to decode the image once.

    python benchmarks/extract.py [--nuclei 100000] [--sample 40] [--repeat 5] [--workers N] [--scportrait PYTHON]
                                 [--json FILE]

An H&E with the texture of the phantom and the noise of a scanner is written twice: as SpatialData writes a Xenium H&E
by default (zarr, one chunk of 4096 x 4096 px per colour) and as a tiled OME-TIFF (JPEG, 512 px). Nuclei are spread over
it at 5,500 per mm2.
Compared in the same run, on the same files, with warm caches:

(a) one dask read per nucleus: ``image[:, y0:y1, x0:x1].compute()``, no resampling;
(b) spatialdata's ``ImageTilesDataset`` with axis-aligned tiles, its fastest mode, no resampling;
(c) the floor: every image block that holds a nucleus is decoded once, by the same threads, and thrown away;
(d) scPortrait's extraction, if `--scportrait` names the Python of an environment made from `peers/scportrait.txt`: the
    nuclei of the first `PEER_PX` px of the image, masked, not normalised; the time that it notes for cutting alone.

(a) and (b) take the same time per nucleus whatever their number, so they are timed on a sample; ours and (c) are timed
on all nuclei, in turns, and the medians count. Beside the time on the clock stands that of the processor, of all
threads together, which other programs on the machine disturb less.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import spatialdata as sd
import tifffile
from spatialdata.dataloader import ImageTilesDataset
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity

import lemon_sc as lm
from lemon_sc.crops.stream import plan_blocks, stream_crops
from lemon_sc.io.image import dask_image
from lemon_sc.io.tiff import open_tiff

MPP = 0.2125
DENSITY = 5500
"""Nuclei per mm2, as in a Xenium breast section."""
PEER_PX = 6000
"""Side of the part that scPortrait gets."""


def make_image(n_nuclei):
    """H&E (h, w, 3) large enough for `n_nuclei`, tiled from a phantom, and nucleus centres in px."""
    side, rng = int(np.ceil(np.sqrt(n_nuclei / DENSITY) * 1000 / MPP)), np.random.default_rng(0)
    tile = np.moveaxis(np.asarray(lm.datasets.phantom(n_cells=600)["he_image"]["scale0"].ds["image"]), 0, 2)
    image = np.tile(tile, (-(-side // tile.shape[0]), -(-side // tile.shape[1]), 1))[:side, :side]
    noise = np.rint(rng.normal(0, 2, (2, side, 3))).astype(np.int16)
    for y, line in enumerate(image):  # without noise, repeats would be compressed away
        shifted = np.roll(noise[0], 3 * y, axis=0) + np.roll(noise[1], -int(rng.integers(side)), axis=0)
        image[y] = np.clip(line + shifted, 0, 255)
    return np.ascontiguousarray(image), rng.uniform(60, side - 60, (n_nuclei, 2))


def write_zarr(path, image, xy):
    """SpatialData's default layout of a Xenium H&E, with the nuclei as circles and a table."""
    element = Image2DModel.parse(
        np.moveaxis(image, 2, 0), dims=("c", "y", "x"), c_coords=["r", "g", "b"], chunks=(1, 4096, 4096)
    )
    circles = ShapesModel.parse(xy, geometry=0, radius=3 / MPP, transformations={"global": Identity()})
    obs = pd.DataFrame({"region": pd.Categorical(["nuclei"] * len(xy)), "id": np.arange(len(xy))})
    obs.index = obs.index.astype(str)
    table = TableModel.parse(
        ad.AnnData(np.zeros((len(xy), 1), np.float32), obs=obs), region="nuclei", region_key="region", instance_key="id"
    )
    sd.SpatialData(images={"he_image": element}, shapes={"nuclei": circles}, tables={"table": table}).write(path)
    return sd.read_zarr(path)


def write_tiff(path, image):
    """A tiled OME-TIFF, JPEG at quality 90."""
    tifffile.imwrite(
        path, image, ome=True, photometric="rgb", tile=(512, 512), compression="jpeg", compressionargs={"level": 90}
    )
    return open_tiff(path).levels[0]


def in_turns(functions, repeat):
    """Median s of each function on the clock and of the processor, (2, functions); the first turn does not count."""
    found = []
    for _ in range(repeat + 1):
        for function in functions:
            start, used = time.perf_counter(), time.process_time()
            function()
            found.append((time.perf_counter() - start, time.process_time() - used))
    return np.median(np.reshape(found, (repeat + 1, -1, 2))[1:], axis=0).T


def ours(image, xy, workers):
    """Cut every crop, keep none."""
    for _ in stream_crops(image, xy, mpp=(MPP, MPP), workers=workers):
        pass


def decode_once(planned, workers):
    """Decode every touched block once with the same threads."""
    level, plan = planned
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda block: level.read(*plan.bounds(block)), plan.order):
            pass


def per_nucleus_dask(lazy, xy):
    """One read per nucleus."""
    half = 20 * 0.25 / MPP
    for x, y in xy:
        lazy[:, int(y - half) : int(y + half), int(x - half) : int(x + half)].compute()


def image_tiles(sdata, sample):
    """spatialdata's own data set, tiles of 10 um."""
    some = sdata.subset(["he_image", "nuclei", "table"])
    dataset = ImageTilesDataset(
        sdata=some,
        regions_to_images={"nuclei": "he_image"},
        regions_to_coordinate_systems={"nuclei": "global"},
        tile_dim_in_units=10 / MPP,
        table_name="table",
    )
    start = time.perf_counter()
    for i in sample:
        np.asarray(dataset[int(i)]["he_image"].data)
    return (time.perf_counter() - start) / len(sample)


def scportrait(python, pixels, xy, folder):
    """Seconds per nucleus that scPortrait notes."""
    part = xy[(xy < PEER_PX - 60).all(axis=1)].astype(int)
    labels = np.zeros((PEER_PX, PEER_PX), np.uint32)
    for k, (x, y) in enumerate(part, 1):
        labels[y - 14 : y + 15, x - 14 : x + 15] = k
    np.save(folder / "image.npy", np.moveaxis(pixels[:PEER_PX, :PEER_PX], 2, 0))
    np.save(folder / "labels.npy", labels)
    script = Path(__file__).parent / "peers" / "scportrait_extract.py"
    command = [python, "-W", "ignore", script, folder, os.cpu_count(), 48]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.split("RESULT ")[1].split("\n")[0])
    return found["cut_s"] / found["nuclei"]


def measure(args):
    """All figures, as a dict of layouts."""
    n, folder = args.nuclei, Path(tempfile.mkdtemp(prefix="lemon_sc_bench_"))
    try:
        pixels, xy = make_image(n)
        sample = np.random.default_rng(1).choice(n, args.sample, replace=False)
        sdata = write_zarr(folder / "x.zarr", pixels, xy)
        layouts = {
            "zarr, 1 x 4096 x 4096": sdata["he_image"].data,
            "OME-TIFF, 512 px JPEG": write_tiff(folder / "he.ome.tif", pixels),
        }
        found = {}
        for name, lazy in layouts.items():
            image = dask_image(lazy)
            planned = plan_blocks(image, xy, mpp=(MPP, MPP), size_px=40, target_mpp=0.25)
            jobs = [lambda i=image: ours(i, xy, args.workers), lambda p=planned: decode_once(p, args.workers)]
            (own, decode), (own_cpu, decode_cpu) = in_turns(jobs, args.repeat)
            dask = in_turns([lambda a=lazy: per_nucleus_dask(a, xy[sample])], 1)[0, 0]
            seconds = {"ours": own / n, "decode": decode / n, "dask": dask / len(sample)}
            seconds |= {"ours_cpu": own_cpu / n, "decode_cpu": decode_cpu / n}
            if name.startswith("zarr"):
                seconds["ImageTilesDataset"] = image_tiles(sdata, sample)
                if args.scportrait:
                    seconds["scPortrait"] = scportrait(args.scportrait, pixels, xy, folder)
            found[name] = seconds
        return {"side_px": pixels.shape[0], "layouts": found}
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, default=100_000)
    parser.add_argument("--sample", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--scportrait", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = measure(args)
    side = found["side_px"]
    print(f"{args.nuclei} nuclei on {side} x {side} px, {os.cpu_count()} cores, {args.workers} threads")
    for name, s in found["layouts"].items():
        print(
            f"{name}: {1 / s['ours']:.0f} nuclei/s, {s['ours'] / s['decode']:.2f} times the time to decode "
            f"({s['ours_cpu'] / s['decode_cpu']:.2f} of the processor's); faster than"
        )
        for peer in ("dask", "ImageTilesDataset", "scPortrait"):
            if peer in s:
                print(f"    {peer:<20}{s[peer] / s['ours']:>8.0f}x")
    if args.json:
        args.json.write_text(json.dumps({"nuclei": args.nuclei, **found}, indent=1))


if __name__ == "__main__":
    main()
