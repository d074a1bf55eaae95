"""Speed of segmentation: megapixels and nuclei per second, and where the time goes.

``python benchmarks/segment.py [--side 4096] [--model haematoxylin] [--device auto] [--out FILE.csv]``: an H&E of the
phantom, tiled to the size asked for and written as a tiled TIFF, is segmented as a slide would be.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

import lemon_sc as lm
from lemon_sc.io.image import dask_image
from lemon_sc.io.raster import from_path
from lemon_sc.seg.finders import resolve_finder
from lemon_sc.seg.slide import segment_slide

MPP = 0.2738


def write_slide(path, side):
    """The phantom's H&E, repeated to `side` px, as JPEG tiles."""
    sdata = lm.datasets.phantom(n_cells=2000)
    pixels = sdata["he_image"]["scale0"].image.transpose("y", "x", "c").values
    times = [-(-side // n) for n in pixels.shape[:2]]
    whole = np.tile(pixels, (*times, 1))[:side, :side]
    tifffile.imwrite(path, whole, tile=(512, 512), photometric="rgb", compression="jpeg")


def measure(path, *, model, device):
    """One row: what was done, and how long each part took."""
    image = dask_image(*from_path(path).levels)
    finder = resolve_finder(model, device=device)
    found, report = segment_slide(image, finder, mpp=MPP)
    megapixels = image.shape[0] * image.shape[1] / 1e6
    return {
        "model": finder.name,
        "device": device,
        "megapixels": round(megapixels, 1),
        "nuclei": len(found),
        "tiles": report.n_tiles,
        "seconds": round(report.total, 2),
        "megapixels_per_s": round(megapixels / report.total, 2),
        "nuclei_per_s": round(len(found) / report.total, 1),
        "waited_for_tiles": round(report.waited / report.total, 3),
        "network": round(report.device / report.total, 3),
        "outlines_per_thread_second": round(report.threads / report.total, 3),
        "joining": round(report.joined / report.total, 3),
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("--side", type=int, default=4096)
    arguments.add_argument("--model", default="haematoxylin")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder) / "slide.tif"
        write_slide(slide, given.side)
        measure(slide, model=given.model, device=given.device)  # compiles
        row = measure(slide, model=given.model, device=given.device)
    with given.out.open("w", newline="") if given.out else sys.stdout as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        writer.writeheader()
        writer.writerow(row)
