"""Folders of drawn nuclei with masks, for tests of segmenters."""

import numpy as np
import pandas as pd
from PIL import Image


def draw(rng, side=64, n=8, radius=(5, 8)):
    """Dark ellipses that do not touch, on pink: uint8 (side, side, 3) and uint16 ids."""
    at = np.indices((side, side)) + 0.5
    labels = np.zeros((side, side), np.uint16)
    for _ in range(40 * n):
        centre, radii = rng.uniform(0, side, 2), rng.uniform(*radius, 2)
        where = ((at - centre[:, None, None]) / radii[:, None, None]) ** 2
        if not labels[where.sum(0) < 2].any() and labels.max() < n:
            labels[where.sum(0) < 1] = labels.max() + 1
    image = np.where(labels[..., None] > 0, (90, 60, 140), (230, 180, 210)) + rng.normal(scale=8, size=(side, side, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def write_set(folder, *, n=4, seed=0, types=False, side=64, suffix=".png"):
    """A set of drawn images, two per slide; with types, nuclei of odd ids are "round", the others "long"."""
    rng = np.random.default_rng(seed)
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    rows = []
    for k in range(n):
        image, labels = draw(rng, side=side)
        Image.fromarray(image).save(folder / "images" / f"f{k}{suffix}")
        Image.fromarray(labels).save(folder / "masks" / f"f{k}.png")
        ids = range(1, labels.max() + 1)
        rows += [{"image": f"f{k}", "id": i, "type": ("long", "round")[i % 2], "slide": f"s{k // 2}"} for i in ids]
    table = pd.DataFrame(rows)
    (table if types else table.drop(columns="type")).to_csv(folder / "nuclei.csv", index=False)
    return folder
