"""Draw what a segmenter of the package finds in images it was not trained on.

``LEMON_SC_DATA=data python docs/figures_segmenter.py``: of each set, the image of median quality and the worst one, so
that failures are seen; docs/_static/segmenter.jpg.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from skimage.segmentation import find_boundaries

import lemon_sc as lm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
SIDE = 240
MODEL = "small_vit"
TRUTH, FOUND = (0, 255, 120), (255, 230, 0)


def outlined(pixels, labels, color):
    """Pixels with the inner borders of labels drawn over them."""
    drawn = pixels.copy()
    drawn[find_boundaries(labels, mode="inner")] = color
    return drawn[:SIDE, :SIDE]


def chosen(scores):
    """Rows of the median and of the worst, empty images left out."""
    order = np.argsort(np.where(np.isfinite(scores), scores, np.inf))[: np.isfinite(scores).sum()]
    return {"median": order[len(order) // 2], "worst": order[0]}


def main():
    from segmenter import looking, quality, unseen

    mpl.use("Agg")
    model = lm.seg.load(MODEL)
    segment = looking(model)
    sets = unseen([], [], model.card.mpp)
    figure, axes = plt.subplots(len(sets), 6, figsize=(12, 2.1 * len(sets)), layout="constrained")
    for row, (name, images) in zip(axes, sets.items(), strict=True):
        scores = quality(segment, images)[:, 0]
        for panels, (rank, at) in zip((row[:3], row[3:]), chosen(scores).items(), strict=True):
            pixels, truth = images.read(int(at))
            found = segment(pixels, mpp=images.mpp).labels
            shown = (pixels[:SIDE, :SIDE], outlined(pixels, truth, TRUTH), outlined(pixels, found, FOUND))
            for axis, picture in zip(panels, shown, strict=True):
                axis.imshow(picture, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
            panels[0].set_title(f"{name}: {rank}", fontsize=8)
            panels[1].set_title("annotated", fontsize=8)
            panels[2].set_title(f"found, PQ {scores[at]:.2f}", fontsize=8)
    figure.savefig(HERE / "_static" / "segmenter.jpg", dpi=130, pil_kwargs={"quality": 76})


if __name__ == "__main__":
    main()
