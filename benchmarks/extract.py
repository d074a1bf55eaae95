"""Extraction of nucleus crops: ours against per-nucleus reads, and against the time to decode the image once.

    python benchmarks/extract.py [--nuclei 20000] [--sample 40] [--repeat 3] [--json FILE]

An H&E with the texture of the phantom is written twice: as SpatialData writes a Xenium H&E by default (zarr, one chunk
of 4096 x 4096 px per colour) and as a tiled OME-TIFF (JPEG, 512 px). Nuclei are spread over it at 5,500 per mm2.
Compared in the same run, on the same files, with warm caches:

(a) one dask read per nucleus: ``image[:, y0:y1, x0:x1].compute()``, no resampling;
(b) spatialdata's ``ImageTilesDataset`` with axis-aligned tiles, its fastest mode, no resampling;
(c) the floor: every image block that holds a nucleus is decoded once, by the same threads, and thrown away.

(a) and (b) take the same time per nucleus whatever their number, so they are timed on a sample; ours and (c) are timed
on all nuclei, and the best of `--repeat` runs counts for both.
"""

import argparse
import json
import os
import resource
import shutil
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

MPP = 0.2738
DENSITY = 5500
"""Nuclei per mm2, as in a Xenium breast section."""


def make_image(n_nuclei):
    """H&E (h, w, 3) large enough for `n_nuclei`, tiled from a phantom, and nucleus centres in px."""
    side = int(np.ceil(np.sqrt(n_nuclei / DENSITY) * 1000 / MPP)) + 200
    tile = np.moveaxis(np.asarray(lm.datasets.phantom(n_cells=600)["he_image"]["scale0"].ds["image"]), 0, 2)
    repeats = (-(-side // tile.shape[0]), -(-side // tile.shape[1]), 1)
    image = np.ascontiguousarray(np.tile(tile, repeats)[:side, :side])
    return image, np.random.default_rng(0).uniform(60, side - 60, (n_nuclei, 2))


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


def timed(function, repeat):
    """Best wall time of `repeat` calls, in seconds."""
    best = np.inf
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def ours(image, xy):
    """Cut every crop, keep none."""
    for _ in stream_crops(image, xy, mpp=(MPP, MPP)):
        pass


def decode_once(image, xy):
    """Decode every touched block once with the same threads."""
    level, plan = plan_blocks(image, xy, mpp=(MPP, MPP), size_px=40, target_mpp=0.25)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
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


def measure(n_nuclei, n_sample, repeat):
    """All figures, as a dict of layouts."""
    folder = Path(tempfile.mkdtemp(prefix="lemon_sc_bench_"))
    try:
        pixels, xy = make_image(n_nuclei)
        sample = np.random.default_rng(1).choice(n_nuclei, n_sample, replace=False)
        sdata = write_zarr(folder / "x.zarr", pixels, xy)
        layouts = {
            "zarr, 1 x 4096 x 4096": sdata["he_image"].data,
            "OME-TIFF, 512 px JPEG": write_tiff(folder / "he.ome.tif", pixels),
        }
        found = {}
        for name, lazy in layouts.items():
            image = dask_image(lazy)
            seconds = {
                "ours": timed(lambda image=image: ours(image, xy), repeat) / n_nuclei,
                "decode": timed(lambda image=image: decode_once(image, xy), repeat) / n_nuclei,
                "dask": timed(lambda lazy=lazy: per_nucleus_dask(lazy, xy[sample]), 1) / n_sample,
            }
            if name.startswith("zarr"):
                seconds["ImageTilesDataset"] = image_tiles(sdata, sample)
            found[name] = seconds
        return {"side_px": pixels.shape[0], "layouts": found}
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = measure(args.nuclei, args.sample, args.repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of everything here, the peers included
    side = found["side_px"]
    print(f"{args.nuclei} nuclei on {side} x {side} px, {os.cpu_count()} cores, peak {peak:.1f} GiB")
    print(f"{'layout':<24}{'nuclei/s':>10}{'(a) dask':>12}{'(b) tiles':>12}{'(c) decode':>12}")
    for name, s in found["layouts"].items():
        tiles = f"{s['ImageTilesDataset'] / s['ours']:.0f}x faster" if "ImageTilesDataset" in s else "-"
        print(
            f"{name:<24}{1 / s['ours']:>10.0f}{s['dask'] / s['ours']:>5.0f}x faster"
            f"{tiles:>12}{s['ours'] / s['decode']:>5.2f}x time"
        )
    if args.json:
        args.json.write_text(json.dumps({"nuclei": args.nuclei, **found}, indent=1))


if __name__ == "__main__":
    main()
