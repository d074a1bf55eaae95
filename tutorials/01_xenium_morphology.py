# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Nuclear morphology of a Xenium run
#
# A Xenium run gives the expression of some hundred genes in every cell. The H&E of the same section shows what the
# nuclei of these cells look like. This tutorial cuts every nucleus out of the H&E, describes each by a vector, and asks
# which genes go with which morphology:
#
# 1. load a run and its H&E, and check that they are registered;
# 2. find the nuclei and see which cells have a usable one;
# 3. embed the nuclei and look at them by type, by size, and on a map;
# 4. relate morphology to expression: Moran's I and a linear probe;
# 5. use a model of your own, save, and read back.
#
# The data are a *phantom*: a synthetic breast tumour with seven cell types, of which everything is known. Genes called
# `AREA` and `CHROM` follow the area and the chromatin density of the nucleus, markers follow the cell type, `POS` genes
# follow the position in the section only, and `NOISE` genes follow nothing. So every result below can be checked.

# %%
import logging
import os
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import spatialdata as sd
import torch
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm

# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
logging.basicConfig(format="%(message)s")
logging.getLogger("lemon_sc").setLevel("INFO")
warnings.filterwarnings("ignore", message="IProgress not found|zarr v3 autosharding")

n_cells = int(os.environ.get("LEMON_SC_TUTORIAL_CELLS", "2000"))

# %% [markdown]
# ## Load
#
# The phantom has the elements that `spatialdata_io.xenium` gives, and an H&E that is rotated, mirrored, sheared and
# scaled against the run.

# %%
sdata = lm.datasets.phantom(n_cells=n_cells)
print(sdata)

# %% [markdown]
# Your own run takes two lines instead. The H&E and the alignment file are what Xenium Explorer exports; pixels are read
# only when they are needed.
#
# ```python
# sdata = spatialdata_io.xenium("outs")
# lm.pp.add_image(sdata, "he_image.ome.tif", alignment="he_imagealignment.csv")
# ```
#
# The second line is not needed if the folder already holds the H&E under the name that the reader looks for: then
# `"he_image"` is among `sdata.images`.

# %% [markdown]
# ## Is the H&E registered?
#
# The outlines of the nuclei come from the DAPI image of the run. They are carried into the pixels of the H&E by the
# same transformations that cut the crops later on. If they lie on the nuclei here, the crops will be centred.

# %%
ax = lm.pl.outlines(sdata, color="truth_type")

# %% [markdown]
# ## Find the nuclei
#
# One nucleus is taken for each cell, the largest where there are several. `store="memory"` keeps the crops, 40 x 40 px
# at 0.25 µm, in the table; this suits up to some 100,000 cells. Without it only the positions are kept and pixels are
# read when they are embedded; with a path the crops go to a zarr store.

# %%
lm.pp.extract_nuclei(sdata, store="memory")
adata = sdata["table"]
print("crops", adata.obsm["nuclei"].shape, adata.obsm["nuclei"].dtype)

# %% [markdown]
# No cell is dropped. Those without a usable nucleus keep their row, and `obs["nucleus_qc"]` says why: no nucleus was
# segmented, it lies outside the H&E, or its crop would reach over the border.

# %%
ax = lm.pl.nucleus_qc(sdata)

# %% [markdown]
# The pixel size is derived from the transformations, never guessed. Here the truth is known, and so is the true centre
# of every nucleus.

# %%
record = adata.uns["lemon_sc"]["nuclei"]
ok = (adata.obs["nucleus_qc"] == "ok").to_numpy()
error_px = np.linalg.norm(adata.obsm["nucleus_xy"] - adata.obsm["truth_xy"], axis=1)[ok]
print(
    f"um per px {record['mpp'].round(4)}, rotation {record['rotation_deg']:.1f} degrees, mirrored {record['mirrored']}"
)
print(f"largest error of a nucleus centre: {error_px.max():.1e} px")

# %% [markdown]
# ## Embed
#
# The default model, `guided_ti8`, is a small vision transformer that comes with the package. It learned to tell what
# can be measured in a nucleus, and its 72 columns are what it tells, each with a name, in standard deviations of the
# nuclei that it learned from. With the weights of LEMON at hand, `model="lemon"` gives 384 columns without names
# instead, and the rest of this tutorial stays the same.
#
# Beside it we keep `morphometry`, which finds the nucleus in the crop and takes the measurements themselves.

# %%
lm.tl.embed(sdata)
lm.tl.embed(sdata, model="morphometry", key_added="X_morphometry")
features = list(adata.uns["lemon_sc"]["embed"]["X_morphometry"]["features"])
print(len(features), "columns:", ", ".join(features[:12]), "...")

# %% [markdown]
# Rows without a usable nucleus are NaN, which scanpy does not accept. From here on we work on the cells that have one,
# and at least one transcript.

# %%
cells = adata[adata.obs["nucleus_qc"] == "ok"].copy()
sc.pp.filter_cells(cells, min_counts=1)
area = cells.obsm["X_morphometry"][:, features.index("area_um2")]
agreement = pd.Series(area, index=cells.obs_names).corr(cells.obs["truth_area_um2"], method="spearman")
print(f"measured and true nuclear area: rank correlation {agreement:.2f}")

# %% [markdown]
# ## Look at the nuclei
#
# By cell type: tumour nuclei are large and pale, lymphocytes small, dark and round, fibroblasts thin and long. In your
# own data take the column with your annotation or your clusters.

# %%
ax = lm.pl.nuclei(cells, by="truth_type")

# %% [markdown]
# By a measurement, from both ends. The extremes are where a measurement can be trusted least, so look at
# them before you use it.

# %%
ax = lm.pl.nuclei(cells, dim="axis_ratio", use_rep="X_morphometry")

# %%
ax = lm.pl.nuclei(cells, dim="h_mean", use_rep="X_morphometry")

# %% [markdown]
# ## The morphology map
#
# Some columns vary more than others among the nuclei of a slide, so they are standardised before distances are taken.
# Neighbours and UMAP are scanpy's.

# %%
cells.obsm["X_lemon_z"] = StandardScaler().fit_transform(cells.obsm["X_lemon"])
sc.pp.neighbors(cells, use_rep="X_lemon_z", key_added="lemon", random_state=0)
sc.tl.umap(cells, neighbors_key="lemon", random_state=0)

# %% [markdown]
# The map shows in each square the nucleus that lies nearest to its centre. No gene was used to draw it: cell types come
# apart as far as their nuclei differ.

# %%
ax = lm.pl.morphology_map(cells, grid=24, color="truth_type")

# %% [markdown]
# ## Which genes go with morphology?
#
# **Moran's I** asks whether cells that look alike express a gene alike. It is computed on the graph of nearest
# neighbours in the embedding. The permutation null relabels the cells. Use normalised expression: raw counts would also
# report that large cells have more of everything.

# %%
cells.layers["lognorm"] = cells.X.copy()
sc.pp.normalize_total(cells, target_sum=1e4, layer="lognorm")
sc.pp.log1p(cells, layer="lognorm")
lm.tl.morans_i(cells, use_rep="X_lemon", layer="lognorm", n_perms=199)
ax = lm.pl.morans_i(cells)

# %% [markdown]
# Genes that follow morphology, and markers of types with nuclei of their own, lie far outside the grey band. How many
# genes of each kind pass a test at 5 %? Of the noise genes about one in twenty should.

# %%
moran = cells.uns["moranI"].join(cells.var["truth"])
share = moran.assign(significant=moran["pval_sim"] <= 0.05).groupby("truth", observed=True)["significant"]
print(share.agg(["mean", "size"]).round(2))

# %% [markdown]
# The same genes on the map, each with the nuclei of the cells that express it most.

# %%
fig = lm.pl.markers(cells, genes=["EPCAM", "CD3E", "COL1A1", "AREA1"], layer="lognorm")

# %% [markdown]
# **The probe** asks how much of a gene's expression can be predicted from the nucleus, in cells that the model has not
# seen. Neighbouring cells share their surroundings, so whole blocks of the section are held out; with several slides
# pass `groups="slide"`. The score is the Pearson correlation (PCC) per gene, and the null repeats the fits on shuffled
# expression.

# %%
planted = cells.var_names[cells.var["truth"].isin(["marker", "morphology", "position", "noise"])]
lm.tl.probe(cells, target=list(planted))
ax = lm.pl.probe(cells)

# %%
summary = cells.uns["lemon_sc"]["probe"]["probe"]["summary"].join(cells.var[["truth", "truth_r"]])
print(summary.groupby("truth", observed=True)["pcc"].agg(["mean", "min", "max"]).round(2))
print(summary.loc[summary["truth"] == "morphology", ["truth_r", "pcc", "null_sd"]].round(2))

# %% [markdown]
# `truth_r` is the correlation of the gene's log rate with the true area or chromatin density. The PCC stays below it,
# because counts are noisy and the measurement is not perfect.
#
# `POS` genes follow position. They are predicted only as far as cell types, and so morphology, differ between places.

# %% [markdown]
# ## Where on the map?
#
# Local Moran's I splits the global value up among the cells: `high-high` are cells that express the gene and whose
# look-alikes express it too, `high-low` express it although their look-alikes do not.

# %%
lm.tl.local_morans_i(cells, gene="CD3E", use_rep="X_lemon", layer="lognorm")
ax = sc.pl.umap(cells, color="local_moranI_CD3E_quadrant", size=12, show=False)

# %% [markdown]
# ## A model of your own
#
# Any `torch.nn.Module` or callable can take the place of the model. Its card says which crops it wants: size, µm per
# px, and the channel means and standard deviations to normalise with. Here an untrained network: any filter sees colour
# and size, so its random features are the score that a trained model has to beat.

# %%
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 32, kernel_size=5, stride=2),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(2),
    torch.nn.Flatten(),
)
card = lm.models.ModelCard(name="random-conv", dim=128, mean=(0.7, 0.5, 0.7), std=(0.2, 0.2, 0.2))
lm.tl.embed(cells, model=(network, card), key_added="X_random")
lm.tl.probe(cells, target=list(planted), use_rep="X_random", key_added="probe_random")

other = cells.uns["lemon_sc"]["probe"]["probe_random"]["summary"]["pcc"]
both = pd.DataFrame({"guided_ti8": summary["pcc"], "random-conv": other, "truth": summary["truth"]})
print(both.groupby("truth", observed=True).mean().round(2))

# %% [markdown]
# ## Save and read back
#
# Everything lies in the usual slots and survives writing. `uns["lemon_sc"]` records what made it: pixel size, affine,
# model, digest of its weights, protocol of the probe, package version.

# %%
with tempfile.TemporaryDirectory() as folder:
    cells.write_h5ad(Path(folder) / "cells.h5ad")
    again = ad.read_h5ad(Path(folder) / "cells.h5ad")
    sdata.write(Path(folder) / "run.zarr")
    run = sd.read_zarr(Path(folder) / "run.zarr")
    print(again)
    print("same embedding:", np.array_equal(run["table"].obsm["X_lemon"], adata.obsm["X_lemon"], equal_nan=True))
    print(again.uns["lemon_sc"]["embed"]["X_random"])
