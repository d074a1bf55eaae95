"""Find the six reference stains of `lemon_sc.crops.stain_references`.

Run ``python benchmarks/stain_references.py --data DIR``. Of each set, the stains and colours of every slide with enough
tissue are estimated, and the slide nearest to the median of its set is printed.
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tifffile import imread

from lemon_sc.crops.color import estimate_colors, stained
from lemon_sc.crops.stain import estimate_stains

MIN_TISSUE, MOST = 50_000, 300_000  # px of a slide


def slides(folder, keep):
    """Pixels of each slide, (n, 3), thinned to `MOST`."""
    table = pd.read_csv(folder / "nuclei.csv", dtype={"image": str})
    images = table[keep(table)].drop_duplicates("image").fillna({"slide": "all"})
    pixels = defaultdict(list)
    for image, slide in zip(images["image"], images["slide"], strict=True):
        path = next((folder / "images").glob(f"{image}.*"))
        pixels[slide].append(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3))
    for slide, parts in sorted(pixels.items()):
        every = np.concatenate(parts)
        yield slide, every[:: -(-len(every) // MOST)]


def typical(named):
    """The slide nearest to the median of all, by stain vectors and strengths."""
    found = {}
    for slide, pixels in named:
        if stained(pixels).sum() >= MIN_TISSUE and (made := estimate_stains(pixels)) is not None:
            found[slide] = made, estimate_colors(pixels)
    table = np.array([[*e.vectors.ravel(), *np.log(e.strength)] for e, _ in found.values()])
    slide = list(found)[int(np.linalg.norm(table - np.median(table, axis=0), axis=1).argmin())]
    return slide, len(found), *found[slide]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("LEMON_SC_DATA"), required=False)
    nuclei = (data := Path(parser.parse_args().data)) / "nuclei"
    he = imread(data / "xenium_breast_mini" / "outs" / "he_image.ome.tif")
    he = (np.moveaxis(he, 0, -1) if he.shape[0] == 3 else he).reshape(-1, 3)
    sets = {
        "tnbc": slides(nuclei / "tnbc", lambda t: t["slide"].notna()),
        "nuinsseg": slides(nuclei / "nuinsseg", lambda t: t["species"] == "human"),
        "brecahad": slides(nuclei / "brecahad", lambda t: t["slide"].notna()),
        "midog21": slides(nuclei / "amibr", lambda t: t["image"].str.contains("MIDOG21")),
        "tcga": slides(nuclei / "amibr", lambda t: t["set"].str.startswith("AtNorM")),
        "xenium": [("he_image.ome.tif", he)],
    }
    for name, named in sets.items():
        slide, n_slides, stains, colors = typical(named)
        print(f"{name}: {slide}, of {n_slides} slides", flush=True)
        for what, values in (
            ("vectors", stains.vectors),
            ("strength", stains.strength),
            ("mean", colors.mean),
            ("std", colors.std),
        ):
            print(f"    {what}={np.round(values, 4).tolist()}")


if __name__ == "__main__":
    main()
