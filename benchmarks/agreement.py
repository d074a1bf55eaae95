"""Do nuclei found on H&E alone agree with those of a Xenium run?

    LEMON_SC_DATA=... python benchmarks/agreement.py [--models small_vit small haematoxylin] [--picture FILE.png]

The run's polygons are moved onto its H&E by the run's own alignment. A nucleus is found where a centroid lies within
3 um of one of the run (one to one); PQ compares outlines. Only what lies within 10 um of the hull of the run's nuclei
is counted, since the image reaches further. The run's own outlines come from DAPI, another focal plane and another
algorithm: neither side is the truth. Results go to benchmarks/results/agreement.csv.
"""

import argparse
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
import spatialdata_io

import lemon_sc as lm
from lemon_sc.io.elements import resolve
from lemon_sc.metrics import detection, match_centroids, panoptic_quality
from lemon_sc.seg.image import rasterise

RESULTS = Path(__file__).parent / "results" / "agreement.csv"
RADIUS_UM, RIM_UM = 3.0, 10.0


def in_px(scene):
    """Outlines of a scene, in px of its image."""
    matrix = scene.to_pixel
    return shapely.transform(scene.nuclei.geometry.to_numpy(), lambda xy: xy @ matrix[:2, :2].T + matrix[:2, 2])


def centres(outlines):
    """Centroids, (n, 2)."""
    return shapely.get_coordinates(shapely.centroid(outlines))


def compared(theirs, found, shape, mpp):
    """Scores of what was found against the run's outlines, both in px."""
    centre = centres(theirs)
    near = shapely.buffer(shapely.convex_hull(shapely.multipoints(centre)), RIM_UM / mpp)
    found = found[shapely.contains_xy(near, *centres(found).T)]
    matches = match_centroids(centre, centres(found), radius=RADIUS_UM / mpp)
    offset = np.linalg.norm(centre[matches.truth] - centres(found)[matches.prediction], axis=1) * mpp
    hit, area = detection(matches), panoptic_quality(rasterise(theirs, shape), rasterise(found, shape))
    return {
        "nuclei": len(theirs), "found": len(found), "precision": hit.precision, "recall": hit.recall, "f1": hit.f1,
        "median_offset_um": np.median(offset), "pq": area.pq, "dq": area.dq, "sq": area.sq,
    }  # fmt: skip


def draw(pixels, theirs, found, path):
    """The image at twice its size: the run's outlines in green, those found in yellow."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(pixels.shape[1] / 75, pixels.shape[0] / 75))
    axis.imshow(pixels, interpolation="nearest")
    for outlines, color in ((theirs, "#00ff78"), (found, "#ffe600")):
        for outline in outlines:
            axis.plot(*outline.exterior.xy, color=color, linewidth=0.8)
    axis.axis("off")
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small_vit", "small", "haematoxylin"])
    parser.add_argument("--picture", type=Path, help="draw what the first model finds")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    outs = Path(os.environ.get("LEMON_SC_DATA", "data")) / "xenium_breast_mini" / "outs"
    sdata = spatialdata_io.xenium(outs)
    if "he_image" not in sdata.images:
        lm.pp.add_image(sdata, outs / "he_image.ome.tif", alignment=outs / "he_imagealignment.csv")
    scene = resolve(sdata, shapes_key="nucleus_boundaries")
    theirs, (height, width), mpp = in_px(scene), scene.image.shape, scene.mpp[0]
    rows = []
    for k, model in enumerate(args.models):
        key = f"found_{k}"
        lm.pp.segment_nuclei(sdata, model=model, key_added=key)
        found = in_px(resolve(sdata, shapes_key=key))
        rows.append({"model": model, "mpp": round(mpp, 4), **compared(theirs, found, (height, width), mpp)})
        if args.picture is not None and model == args.models[0]:
            image = sdata["he_image"]
            level = image["scale0"].image if hasattr(image, "children") else image
            draw(level.transpose("y", "x", "c").values, theirs, found, args.picture)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="%.3f"))
    RESULTS.write_text(table.to_csv(index=False, float_format="%.4f", lineterminator="\n"))


if __name__ == "__main__":
    main()
