"""PanNuke (Gamper et al. 2020) as published: three folds of ``images.npy``, ``types.npy`` and ``masks.npy``.

Masks have a channel per class with the instances in it, in an order that is fixed by name here; sorted by size the
classes would be mixed up. The last channel is the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage

from lemon_sc.bench.kinds import Labelled, Source
from lemon_sc.io.image import array_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from lemon_sc.crops.stream import PyramidImage

PANNUKE_MPP = 0.25
"""um per px, as published (40x)."""

CHANNELS = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
"""Classes in the order of the channels of the masks."""

SOURCE = Source(
    url="https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke",
    licence="CC BY-NC-SA 4.0",
    layout=(
        "pannuke/Fold 1/images/fold1/images.npy and types.npy, pannuke/Fold 1/masks/fold1/masks.npy, and likewise "
        "Fold 2 and Fold 3."
    ),
    citation="Gamper et al., arXiv:2003.10778",
)


def centres_of(mask: NDArray[Any]) -> NDArray[np.float64]:
    """Centroids (x, y) of the instances of one channel; pixel centres lie at halves.

    Parameters
    ----------
    mask
        Instances, (h, w), 0 is background.

    Returns
    -------
    Float64 (n, 2), px.
    """
    labels = np.asarray(mask).astype(np.int64)
    ids = np.unique(labels[labels > 0])
    if not len(ids):
        return np.zeros((0, 2))
    rows_cols = np.array(ndimage.center_of_mass(labels > 0, labels, ids))
    return rows_cols[:, ::-1] + 0.5


def read_pannuke(folder: Path) -> Labelled:
    """Nuclei of PanNuke with their class.

    Parameters
    ----------
    folder
        The data folder.

    Returns
    -------
    The nuclei. Slides are not published: an image of 256 px stands for one.

    Raises
    ------
    MissingDataError
        If the data set is not there.
    ValueError
        If the arrays have other shapes.
    """
    home, rows, stacks = folder / "pannuke", [], {}
    folds = sorted(path for path in home.glob("[Ff]old*") if path.is_dir())
    if not folds:
        raise SOURCE.missing("pannuke", home / "Fold 1")
    for fold in folds:
        images, masks, tissues = (_array(fold, name) for name in ("images", "masks", "types"))
        if masks.ndim != 4 or masks.shape[:3] != images.shape[:3] or masks.shape[3] != len(CHANNELS) + 1:
            msg = f"'{fold}': masks are {masks.shape} for images {images.shape}; expected a channel per class and one."
            raise ValueError(msg)
        name = fold.name.lower().replace(" ", "").replace("_", "")
        stacks[name] = images
        for k in range(len(images)):
            for channel, label in enumerate(CHANNELS):
                rows += [
                    {"image": f"{name}/{k}", "x": x, "y": y, "label": label, "tissue": str(tissues[k])}
                    for x, y in centres_of(masks[k, ..., channel])
                ]
    nuclei = pd.DataFrame(rows, columns=["image", "x", "y", "label", "tissue"])
    nuclei["slide"] = nuclei["image"]

    def opened(image: str) -> PyramidImage:
        name, k = image.split("/")
        return array_image(np.clip(np.rint(stacks[name][int(k)]), 0, 255).astype(np.uint8))

    mpp = dict.fromkeys(nuclei["image"].unique(), (PANNUKE_MPP, PANNUKE_MPP))
    return Labelled(nuclei=nuclei, open=opened, mpp=mpp)


def _array(fold: Path, name: str) -> NDArray[Any]:
    """An array of a fold, mapped where it can be."""
    found = sorted(fold.rglob(f"{name}.npy"))
    if not found:
        raise SOURCE.missing("pannuke", fold / "..." / f"{name}.npy")
    return np.load(found[0], mmap_mode=None if name == "types" else "r", allow_pickle=False)
