"""Train a segmenter on folders of images with masks, hold some slides out, and say how fast it went.

    python benchmarks/segmenter.py --out RUN [--data FOLDER ...] [--test FOLDER ...] [--recipe NAME] [--set FIELD=VALUE]

Without `--data`: the sets under LEMON_SC_DATA that weights may be shipped of and whose pixel size is known,
NuInsSeg and TNBC. Without `--test`: CoNSeP, which is for evaluation alone. A tenth of the images, by whole slides, is
held out of training, and looked at every few epochs. At the end: quality on the images held out and on the test sets,
with 95 % intervals over images, and tiles per second. The same command goes on where it was cut off.

Reading and changing tiles takes two threads beside the step.
"""

import argparse
import csv
import json
import logging
import os
from pathlib import Path

import numpy as np

from lemon_sc.metrics import bootstrap, panoptic_quality
from lemon_sc.seg.checkpoint import load
from lemon_sc.seg.postprocess import nuclei
from lemon_sc.train.command import settings
from lemon_sc.train.seg_data import NucleiFolder, open_nuclei
from lemon_sc.train.seg_loop import segmenter
from lemon_sc.train.seg_recipes import SEG_RECIPES

LICENCES = {"nuinsseg": "CC BY 4.0", "tnbc": "CC BY 4.0", "consep": "Apache-2.0 (evaluation only)"}
TRAIN, TEST = ("nuinsseg", "tnbc"), ("consep",)


def folders(paths, names):
    """Sets by path, or those of that name among the shared data."""
    root = Path(os.environ.get("LEMON_SC_DATA", "data")) / "nuclei"
    chosen = paths or [root / name for name in names]
    return [NucleiFolder(path=p, licence=LICENCES.get(p.name, "not stated")) for p in chosen if p.is_dir()]


def quality(model, data):
    """PQ, DQ and SQ of each image, (n, 3)."""
    rows = []
    for i in range(len(data)):
        pixels, truth = data.read(i)
        maps = model.maps(pixels[None])
        found = nuclei(maps.nuclei[0], maps.hv[0], maps.types[0] if maps.types is not None else None, mpp=data.mpp)
        score = panoptic_quality(truth, found.labels)
        rows.append((score.pq, score.dq, score.sq))
    return np.array(rows)


def rate(table):
    """Tiles per second over the log."""
    with table.open() as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1]["images"]) / float(rows[-1]["seconds"]), float(rows[-1]["utilisation"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--test", type=Path, nargs="*", default=[])
    parser.add_argument("--recipe", choices=sorted(SEG_RECIPES), default="small")
    parser.add_argument("--set", dest="changes", metavar="FIELD=VALUE", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--log-steps", type=int, default=10)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    recipe = SEG_RECIPES[args.recipe](**settings(args.changes))
    data, held_out = open_nuclei(folders(args.data, TRAIN), mpp=recipe.mpp).split(0.1, rng=recipe.seed)
    print(f"{len(data)} images to learn from, {len(held_out)} held out")
    run = segmenter(recipe, data=data, valid=held_out, out=args.out, device=args.device, log_steps=args.log_steps)
    tiles, share = rate(run.out / "metrics.csv")
    size = run.weights.stat().st_size / 2**20
    print(f"{tiles:.2f} tiles of {recipe.size_px} px per second, {share:.0%} of the peak at last; {size:.1f} MiB")

    model = load(run.weights)
    if args.device not in {"auto", "cpu"}:
        model = model.to(args.device)
    report = {"tiles_per_s": tiles, "utilisation": share, "MiB": size, "sets": {}}
    sets = [
        ("held out", held_out),
        *((Path(f.path).name, open_nuclei([f], mpp=recipe.mpp)) for f in folders(args.test, TEST)),
    ]
    for name, images in sets:
        scores = quality(model, images)
        made = bootstrap(scores[np.isfinite(scores[:, 0]), 0])
        pq, dq, sq = np.nanmean(scores, axis=0)
        print(f"{name}: PQ {pq:.3f} [{made.low:.3f}-{made.high:.3f}], DQ {dq:.3f}, SQ {sq:.3f}, {len(images)} images")
        report["sets"][name] = {"n": len(images), "pq": pq, "low": made.low, "high": made.high, "dq": dq, "sq": sq}
    (args.out / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
