"""Verdicts on nuclei: how many real ones are lost, and how many planted faults are found.

    LEMON_SC_DATA=... python benchmarks/qc.py [--most 8000] [--json FILE]

Real nuclei come from public H&E sets at 40x (`nuclei/<set>` under LEMON_SC_DATA: images, and `nuclei.csv` with image, x
and y), at most `--most` per set, spread over its images; every verdict other than ok counts as lost, though some sets
do hold pen, glass and folds. Faults are planted into the same nuclei, all of one kind at a time:

pen         ink that lets through what its colour says, to the power of its thickness, over the crop or half of it
saturated   levels multiplied and clipped at 255
blurred     a Gaussian blur
blank       glass with scanner noise
off_tissue  glass within 3.5 um of the centre, and the tissue around it kept
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from lemon_sc._core.keys import QC_FROM_PIXELS
from lemon_sc.crops.qc import QC_PX, judge
from lemon_sc.crops.stream import stream_crops
from lemon_sc.io.image import array_image

SETS = ("nuinsseg", "tnbc", "brecahad", "nucls_sample", "consep")
MPP = 0.25
NO_NUCLEI = ("Tubule", "Non_tubule")
"""Annotations that outline glands and lumina."""

WIDE = 80
"""Side of the crops that are blurred before their centre is taken."""

INKS = {
    "green": (0.30, 0.80, 0.45),
    "blue": (0.25, 0.40, 0.90),
    "red": (0.90, 0.20, 0.25),
    "black": (0.12, 0.12, 0.12),
}
"""Share of red, green and blue light that a layer of ink lets through."""


def load(folder, most, *, coarser=1):
    """Wide crops of nuclei whose window lies inside the image, uint8 (n, WIDE, WIDE, 3).

    `coarser`: how many times coarser the scan is made first.
    """
    table = pd.read_csv(folder / "nuclei.csv")
    table = table[~table["type"].isin(NO_NUCLEI)]
    files = {path.stem: path for path in (folder / "images").iterdir()}
    share = int(np.ceil(most / table["image"].nunique()))
    rng, found = np.random.default_rng(0), []
    for image, rows in table.groupby("image", sort=True):
        scan = Image.open(files[str(image)]).convert("RGB")
        pixels = np.asarray(scan.resize((scan.width // coarser, scan.height // coarser), Image.Resampling.LANCZOS))
        xy = rows[["x", "y"]].to_numpy(float) * pixels.shape[1::-1] / scan.size
        room = QC_PX / 2 / coarser
        xy = xy[((xy >= room) & (xy <= np.array(pixels.shape[1::-1]) - room)).all(axis=1)]
        xy = rng.permutation(xy)[:share]
        mpp = MPP * coarser, MPP * coarser
        found += [crops for _, crops in stream_crops(array_image(pixels), xy, mpp=mpp, size_px=WIDE, workers=1)]
    return np.concatenate(found)


def centre(crops):
    room = (WIDE - QC_PX) // 2
    return np.ascontiguousarray(crops[:, room:-room, room:-room])


def as_levels(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def inked(crops, color, thickness, share):
    """A stroke over the left `share` of each crop."""
    passed = np.ones((QC_PX, 3))
    passed[: round(share * QC_PX)] = np.array(INKS[color]) ** thickness
    return as_levels(centre(crops) * passed)


def brightened(crops, gain):
    return as_levels(centre(crops) * float(gain))


def blurred(crops, sigma_um):
    return centre(np.stack([gaussian_filter(c, (sigma_um / MPP, sigma_um / MPP, 0)) for c in crops]))


def glass(shape, rng):
    return as_levels(rng.normal(238, 2, shape))


def emptied(crops, rng):
    """Glass in the middle, with an edge 0.5 um wide, and the crop around it."""
    at = (np.arange(QC_PX) + 0.5 - QC_PX / 2) * MPP
    keep = 1 / (1 + np.exp(-(np.hypot(at[:, None], at) - 3.5) / 0.25))[..., None]
    crops = centre(crops)
    return as_levels(keep * crops + (1 - keep) * glass(crops.shape, rng))


def planted(crops, rng):
    """(verdict that is right, what was planted, crops)."""
    for color in INKS:
        for thickness in (0.5, 1.0, 2.0):
            yield "pen", f"{color}, thickness {thickness:g}", inked(crops, color, thickness, 1.0)
        yield "pen", f"{color}, thickness 2, half the crop", inked(crops, color, 2.0, 0.5)
    for gain in (1.2, 1.4, 1.6):
        yield "saturated", f"levels x {gain:g}", brightened(crops, gain)
    for sigma in (1.0, 1.5, 2.0):
        yield "blurred", f"sigma {sigma:g} um", blurred(crops, sigma)
    yield "blank", "glass", glass((len(crops), QC_PX, QC_PX, 3), rng)
    yield "off_tissue", "glass in the middle", emptied(crops, rng)


def table(rows, columns):
    """Print texts under their columns."""
    width = max(len(name) for name in rows) + 2
    print(" " * width + "".join(f"{c:>14}" for c in columns))
    for name, values in rows.items():
        print(f"{name:<{width}}" + "".join(f"{values[c]:>14}" for c in columns))
    print()


def shares(verdict, right):
    """Per cent that are not ok, and, where it is another number, per cent with the right verdict."""
    found, named = (f"{100 * float(hit.mean()):.0f}" for hit in (verdict != "ok", verdict == right))
    return found if found == named else f"{found} ({named})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=8000)
    parser.add_argument("--planted", type=int, default=500, help="nuclei per set into which faults are planted")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    home = Path(os.environ["LEMON_SC_DATA"]) / "nuclei"
    lost, found, n_judged, seconds = {}, {}, 0, 0.0
    for name in SETS:
        coarse = judge(centre(load(home / name, args.most, coarser=2)))
        crops = load(home / name, args.most)
        middle = centre(crops)
        judge(middle[:1])  # compiles
        start = time.process_time()
        verdict = judge(middle)
        seconds, n_judged = seconds + time.process_time() - start, n_judged + len(middle)
        for scan, found_there in ((f"{name} ({len(crops)})", verdict), (f"{name} at 0.5 um per px", coarse)):
            lost[scan] = {v: f"{100 * float((found_there == v).mean()):.2f}" for v in QC_FROM_PIXELS}
        rng = np.random.default_rng(0)
        some = crops[verdict == "ok"]
        some = some[rng.permutation(len(some))[: args.planted]]
        for right, what, spoilt in planted(some, rng):
            found.setdefault(f"{right}: {what}", {})[name] = shares(judge(spoilt), right)
    print("real nuclei (number), % with each verdict")
    table(lost, QC_FROM_PIXELS)
    print("planted faults, % found (% with the right verdict)")
    table(found, SETS)
    print(f"{n_judged / seconds:,.0f} nuclei per second of processor time")
    if args.json:
        args.json.write_text(json.dumps({"lost": lost, "found": found}, indent=1))


if __name__ == "__main__":
    main()
