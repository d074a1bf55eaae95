"""Train a segmenter on folders of images with masks, hold some slides out, and say how fast it went.

    python benchmarks/segmenter.py --out RUN [--data FOLDER ...] [--test FOLDER ...] [--recipe NAME] [--set FIELD=VALUE]

Without `--data`: the sets under LEMON_SC_DATA that weights may be shipped of and whose pixel size is known,
NuInsSeg and TNBC. Without `--test`: CoNSeP, which is for evaluation alone. A tenth of the images, by whole slides, is
held out of training, and looked at every few epochs. At the end: quality on the images held out and on the test sets,
with 95 % intervals over images, beside that of `"haematoxylin"` on the same images, and tiles per second. The same
command goes on where it was cut off.

`--ship NAME` makes it a segmenter of the package. Results go to benchmarks/results/segmenter.csv, a row per set,
segmenter and score. `docs/figures_segmenter.py` draws what is found in some of the images.

Reading and changing tiles takes two threads beside the step.
"""

import argparse
import csv
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import lemon_sc as lm
from lemon_sc.metrics import bootstrap, panoptic_quality
from lemon_sc.seg.checkpoint import FOLDER, load, save
from lemon_sc.seg.classical import segment_haematoxylin
from lemon_sc.seg.postprocess import nuclei
from lemon_sc.train.command import settings
from lemon_sc.train.seg_data import NucleiFolder, open_nuclei
from lemon_sc.train.seg_loop import segmenter
from lemon_sc.train.seg_recipes import SEG_RECIPES

LICENCES = {"nuinsseg": "CC BY 4.0", "tnbc": "CC BY 4.0", "consep": "Apache-2.0 (evaluation only)"}
TRAIN, TEST = ("nuinsseg", "tnbc"), ("consep",)
HELD_OUT, SPLIT = 0.1, 0
"""Share of the images that is held out, and the seed of that draw: the same for all runs."""
HAEMATOXYLIN_MPP = 0.25
"""What the segmenter without weights is made for; a network is measured at its own pixel size."""
RESULTS = Path(__file__).parent / "results" / "segmenter.csv"


def folders(paths, names):
    """Sets by path, or those of that name among the shared data."""
    root = Path(os.environ.get("LEMON_SC_DATA", "data")) / "nuclei"
    chosen = paths or [root / name for name in names]
    return [NucleiFolder(path=p, licence=LICENCES.get(p.name, "not stated")) for p in chosen if p.is_dir()]


def quality(segment, data):
    """PQ, DQ and SQ of each image, (n, 3), of what a function of pixels and um per px finds."""
    rows = []
    for i in range(len(data)):
        pixels, truth = data.read(i)
        score = panoptic_quality(truth, segment(pixels, mpp=data.mpp).labels)
        rows.append((score.pq, score.dq, score.sq))
    return np.array(rows)


def looking(model):
    """The network's way from pixels to nuclei."""

    def segment(pixels, *, mpp):
        maps = model.maps(pixels[None])
        return nuclei(maps.nuclei[0], maps.hv[0], maps.types[0] if maps.types is not None else None, mpp=mpp)

    return segment


def unseen(data, test, mpp):
    """Images that were not learned from, by set, at a pixel size."""
    held_out = open_nuclei(folders(data, TRAIN), mpp=mpp).split(HELD_OUT, rng=SPLIT)[1]
    parts = {}
    for source in held_out.sources:
        name = source["name"]
        parts[f"{name}, held out"] = [this for this in held_out.fields if this.source == name]
    found = {name: replace(held_out, fields=tuple(fields)) for name, fields in parts.items() if fields}
    return found | {f.path.name: open_nuclei([f], mpp=mpp) for f in folders(test, TEST)}


def scored(segment, images, names):
    """A row per score: mean over the images that have it, and the interval."""
    scores = quality(segment, images)
    for k, metric in enumerate(("pq", "dq", "sq")):
        values = scores[np.isfinite(scores[:, k]), k]
        made = bootstrap(values)
        of = {"images": len(images), "mpp": images.mpp, "metric": metric}
        yield {**names, **of, "mean": values.mean(), "low": made.low, "high": made.high}


def credited(sources):
    """Names of sets with their licences."""
    return "; ".join(f"{s['name']} ({s['licence']})" for s in sources)


def ship(model, name):
    """Put a network among those that come with the package, under its licence, its sources credited."""
    credit = f"Trained on {credited(model.card.training['data']['sources'])}."
    weights = model.card.training["recipe"]["encoder_weights"]
    if weights is not None:
        corpus = lm.models.load(weights).card.training["corpus"]
        credit += f" Its ViT, {weights}, on crops of {credited(corpus['sources'])}."
    card = replace(model.card, name=name, license="BSD-3-Clause", citation=credit)
    save(card, model.network.state_dict(), FOLDER / f"{name}.safetensors", half=True)


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
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--ship", metavar="NAME", help="write the weights, in float16, among those of the package")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    recipe = SEG_RECIPES[args.recipe](**settings(args.changes))
    data, held_out = open_nuclei(folders(args.data, TRAIN), mpp=recipe.mpp).split(HELD_OUT, rng=SPLIT)
    print(f"{len(data)} images to learn from, {len(held_out)} held out")
    run = segmenter(recipe, data=data, valid=held_out, out=args.out, device=args.device, log_steps=args.log_steps)
    tiles, share = rate(run.out / "metrics.csv")
    size = run.weights.stat().st_size / 2**20
    print(f"{tiles:.2f} tiles of {recipe.size_px} px per second, {share:.0%} of the peak at last; {size:.1f} MiB")

    model = load(run.weights)
    if args.device not in {"auto", "cpu"}:
        model = model.to(args.device)
    rows = []
    for mpp, name, segment in (
        (recipe.mpp, recipe.name, looking(model)),
        (HAEMATOXYLIN_MPP, "haematoxylin", segment_haematoxylin),
    ):
        for which, images in unseen(args.data, args.test, mpp).items():
            rows += scored(segment, images, {"set": which, "segmenter": name})
    if args.ship is not None:
        ship(model, args.ship)
    results = pd.DataFrame(rows)
    print(results.to_string(index=False, float_format="%.3f"))
    args.results.parent.mkdir(exist_ok=True)
    args.results.write_text(results.to_csv(index=False, float_format="%.4f", lineterminator="\n"))


if __name__ == "__main__":
    main()
