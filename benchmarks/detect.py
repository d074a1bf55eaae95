"""How well blobs of haematoxylin find nuclei: precision and recall against instance masks.

    LEMON_SC_DATA=... python benchmarks/detect.py [--every 1]

Sets with masks under `nuclei/` of LEMON_SC_DATA; a centre is right within 3 um of the centroid of an annotated nucleus,
matched one to one. The detector was set on a part of tnbc and nuinsseg (every 5th and 22nd image); consep was not
used for that. NuInsSeg leaves nuclei that are hard to see unannotated.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from lemon_sc.models.detect import detect_nuclei
from lemon_sc.train.corpus_images import read_rgb

SETS = {"tnbc": 0.25, "nuinsseg": 0.24, "consep": 0.25}
WITHIN_UM = 3.0


def n_matched(found, truth, reach):
    """Pairs of a one-to-one matching within `reach`."""
    if not len(found) or not len(truth):
        return 0
    distance = np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1))
    pairs = linear_sum_assignment(np.where(distance <= reach, distance - 1e4, 0))
    return int((distance[pairs] <= reach).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    every = parser.parse_args().every
    home = Path(os.environ["LEMON_SC_DATA"]) / "nuclei"
    for name, mpp in SETS.items():
        table = pd.read_csv(home / name / "nuclei.csv", dtype={"image": str})
        right = found = true = 0
        seconds = pixels = 0.0
        for image in sorted(table["image"].unique())[::every]:
            rgb = read_rgb(home / name / "images" / f"{image}.jpg")
            start = time.perf_counter()
            xy = detect_nuclei(rgb, mpp=mpp)
            seconds += time.perf_counter() - start
            truth = table.loc[table["image"] == image, ["x", "y"]].to_numpy()
            right += n_matched(xy, truth, WITHIN_UM / mpp)
            found, true, pixels = found + len(xy), true + len(truth), pixels + rgb.shape[0] * rgb.shape[1]
        print(
            f"{name:10} precision {right / found:.3f} recall {right / true:.3f} F1 {2 * right / (found + true):.3f} "
            f"({true} nuclei, {found} found, {seconds / pixels * 1e6:.2f} s per megapixel)"
        )


if __name__ == "__main__":
    main()
