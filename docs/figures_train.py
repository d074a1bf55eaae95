"""Draw the pictures of training in docs/_static from the phantom: ``python docs/figures_train.py``."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

import lemon_sc as lm
from lemon_sc.crops.stain import REFERENCE, StainEstimate, normalize_stains
from lemon_sc.train.policies import a0, a1
from lemon_sc.train.stain import StainMixture, lab_statistics
from lemon_sc.train.views import augment

HERE = Path(__file__).parent / "_static"
QUALITY = {"pil_kwargs": {"quality": 80, "optimize": True}}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
VIEWS = 3


def laboratories(crops, *, n=6, rng):
    """The same nuclei as `n` laboratories would stain them: stains turned a little, and weaker or stronger."""
    shown = []
    for part in np.array_split(crops, n):
        vectors = np.clip(REFERENCE.vectors + rng.normal(0, 0.06, (3, 2)), 0.02, None)
        other = StainEstimate(
            vectors=vectors / np.linalg.norm(vectors, axis=0), strength=REFERENCE.strength * rng.uniform(0.6, 1.3, 2)
        )
        shown.append(normalize_stains(part, REFERENCE, reference=other))
    return np.concatenate(shown)


def nuclei():
    """Crops of 60 px, and the type of each nucleus."""
    sdata = lm.datasets.phantom()
    lm.pp.extract_nuclei(sdata, store="memory", size_px=60)
    adata = sdata["table"]
    cells = adata[adata.obs["nucleus_qc"] == "ok"]
    return np.asarray(cells.obsm["nuclei"]), cells.obs["truth_type"].astype(str).to_numpy()


def augmentations(crops, types) -> None:
    """A nucleus of each type under every recipe, three views each."""
    statistics = lab_statistics(torch.from_numpy(laboratories(crops, rng=np.random.default_rng(0))))
    recipes = {"a0": a0(), "a1": a1(), "a1+gray": a1(gray_p=0.2)}
    for k in (1, 10):
        recipes[f"a1+gmm{k}"] = a1(stain=StainMixture.fit(statistics, n_components=k))
    rows = [np.flatnonzero(types == name)[3] for name in np.unique(types)]
    chosen = torch.from_numpy(crops[rows])
    columns = {"nucleus": [chosen[:, 10:50, 10:50].numpy() / 255]}
    for name, recipe in recipes.items():
        shown = torch.Generator().manual_seed(4)
        bare = type(recipe)(**{**vars(recipe), **PLAIN})
        views = [augment(chosen, bare, generator=shown, view=v) for v in range(VIEWS)]
        columns[name] = [view.permute(0, 2, 3, 1).clamp(0, 1).numpy() for view in views]
    widths = [len(images) for images in columns.values()]
    figure = plt.figure(figsize=(sum(widths) * 0.55 + 0.6, len(rows) * 0.58 + 0.25))
    grid = figure.add_gridspec(
        1, len(columns), width_ratios=widths, wspace=0.04, left=0.07, right=1, top=0.94, bottom=0
    )
    for cell, (name, images) in zip(grid, columns.items(), strict=True):
        inner = cell.subgridspec(len(rows), len(images), wspace=0.04, hspace=0.04)
        axes = inner.subplots(squeeze=False)
        for column, batch in enumerate(images):
            for row, image in enumerate(batch):
                axes[row, column].imshow(image)
                axes[row, column].set(xticks=[], yticks=[])
                axes[row, column].spines[:].set_visible(False)
        axes[0, len(images) // 2].set_title(name, fontsize=8, pad=3)
        if name == "nucleus":
            for row, index in enumerate(rows):
                axes[row, 0].set_ylabel(types[index], fontsize=6)
    figure.savefig(HERE / "augmentations.jpg", dpi=150, bbox_inches="tight", **QUALITY)


if __name__ == "__main__":
    mpl.use("Agg")
    torch.set_num_threads(1)
    augmentations(*nuclei())
