"""Draw the pictures in docs/_static from the phantom: ``python docs/figures.py``."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import scanpy as sc
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm

HERE = Path(__file__).parent / "_static"
QUALITY = {"pil_kwargs": {"quality": 80, "optimize": True}}


def analysed():
    """The phantom after the main line: its SpatialData, and the table of cells with a usable nucleus."""
    sdata = lm.datasets.phantom()
    lm.pp.extract_nuclei(sdata, store="memory")
    lm.tl.embed(sdata)
    adata = sdata["table"]
    cells = adata[adata.obs["nucleus_qc"] == "ok"].copy()
    sc.pp.filter_cells(cells, min_counts=1)
    cells.obsm["X_lemon_z"] = StandardScaler().fit_transform(cells.obsm["X_lemon"])
    sc.pp.neighbors(cells, use_rep="X_lemon_z", key_added="lemon", random_state=0)
    sc.tl.umap(cells, neighbors_key="lemon", random_state=0)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    lm.tl.morans_i(cells, use_rep="X_lemon", n_perms=199)
    return sdata, cells


def overview(sdata, cells) -> None:
    """Registered outlines, the morphology map, and the genes that are smooth over it."""
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), width_ratios=[1.35, 1, 0.6], layout="constrained")
    lm.pl.outlines(sdata, color="truth_type", ax=axes[0])
    lm.pl.morphology_map(cells, grid=18, ax=axes[1])
    lm.pl.morans_i(cells, n_top=14, ax=axes[2])
    axes[2].spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(HERE / "overview.jpg", dpi=150, bbox_inches="tight", **QUALITY)


def phantom(sdata, cells) -> None:
    """The H&E as a whole, and nuclei of each type."""
    image = sdata["he_image"]["scale1"].ds["image"].transpose("y", "x", "c").to_numpy()
    figure, ax = plt.subplots(figsize=(5, 5 * image.shape[0] / image.shape[1]))
    ax.imshow(image)
    ax.set_axis_off()
    figure.savefig(HERE / "phantom_he.jpg", dpi=130, bbox_inches="tight", pad_inches=0, **QUALITY)
    gallery = lm.pl.nuclei(cells, by="truth_type", n=14)
    gallery.figure.savefig(HERE / "phantom_nuclei.jpg", dpi=110, bbox_inches="tight", **QUALITY)


if __name__ == "__main__":
    mpl.use("Agg")
    mpl.rcParams["font.size"] = 8
    made = analysed()
    overview(*made)
    phantom(*made)
