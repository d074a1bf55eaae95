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
# # A plain H&E
#
# Most slides have no Xenium run. This tutorial starts from nothing but the pixels of an H&E: it finds the nuclei,
# embeds each, tells their types, draws the map of their morphology, and asks what is arranged in space.
#
# The image is that of the *phantom*, whose nuclei are known, so the result can be counted.

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
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm

# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
logging.basicConfig(format="%(message)s")
logging.getLogger("lemon_sc").setLevel("INFO")
warnings.filterwarnings("ignore", message="IProgress not found|zarr v3 autosharding")

n_cells = int(os.environ.get("LEMON_SC_TUTORIAL_CELLS", "1000"))
phantom = lm.datasets.phantom(n_cells=n_cells)
slide = sd.SpatialData(images={"he_image": phantom["he_image"]})

# %% [markdown]
# ## Nuclei
#
# The small network that comes with the package finds nuclei and tells no types apart; another segmenter takes its place
# by name or path, `model="haematoxylin"` does without a network. An image whose file states its pixel size needs no
# `mpp`.

# %%
lm.pp.segment_nuclei(slide, mpp=0.2738)
lm.pp.extract_nuclei(slide, shapes_key="he_nuclei", table_key="he_nuclei_table", store="memory")
nuclei = slide["he_nuclei_table"]
print(nuclei)

truth = phantom["table"][np.isfinite(phantom["table"].obsm["truth_xy"]).all(axis=1)]
matched = lm.metrics.match_centroids(truth.obsm["truth_xy"], nuclei.obsm["nucleus_xy"], radius=3 / 0.2738)
print(lm.metrics.detection(matched))

# %%
ax = lm.pl.outlines(slide, shapes_key="he_nuclei", table_key="he_nuclei_table")

# %% [markdown]
# ## Embedding and types
#
# The encoder that comes with the package tells size, shape, stain and texture of each nucleus. Types are learned from
# labelled nuclei in the same embedding: 370 of breast tumours ship with the package; your own table takes their place
# with `reference=`. The phantom is no breast tumour, and not even tissue: its fibroblasts and endothelium should become
# *nonTIL_stromal*, its lymphocytes and plasma cells *sTIL*, its tumour cells *tumor_any*.

# %%
lm.tl.embed(slide, table_key="he_nuclei_table")
lm.tl.transfer_labels(nuclei)
known = truth.obs["truth_type"].to_numpy()[matched.truth]
print(pd.crosstab(known, nuclei.obs["nucleus_type"].to_numpy()[matched.prediction], rownames=[""], colnames=[""]))

# %%
ax = lm.pl.outlines(slide, color="nucleus_type", shapes_key="he_nuclei", table_key="he_nuclei_table")

# %% [markdown]
# ## Map

# %%
cells = nuclei[nuclei.obs["nucleus_qc"] == "ok"].copy()
cells.obsm["z"] = StandardScaler().fit_transform(cells.obsm["X_lemon"])
sc.pp.neighbors(cells, use_rep="z", key_added="lemon")
sc.tl.umap(cells, neighbors_key="lemon")
ax = lm.pl.morphology_map(cells, basis="umap", color="nucleus_type")

# %% [markdown]
# ## What is arranged in space?
#
# The measurements, and the probabilities of the types, take the place of genes: Moran's I over the places of the nuclei
# says which of them are alike in neighbours.

# %%
names = nuclei.uns["lemon_sc"]["embed"]["X_lemon"]["features"]
types = cells.obsm["nucleus_type"]
values = np.hstack([cells.obsm["z"], types.to_numpy()])
features = ad.AnnData(values, obs=cells.obs.copy(), obsm={"spatial": cells.obsm["spatial"]})
features.var_names = [*names, *types.columns]
lm.tl.morans_i(features, use_rep="spatial", n_perms=99)
print(features.uns["moranI"][["I", "pval_sim"]].head(8).round(3))
print(features.uns["moranI"].loc[types.columns, ["I", "pval_sim"]].round(3))
ax = lm.pl.morans_i(features, n_top=12)

# %% [markdown]
# ## Save and read back

# %%
with tempfile.TemporaryDirectory() as folder:
    del slide.images["he_image"]  # the slide stays where it is
    slide.write(Path(folder) / "nuclei.zarr")
    again = sd.read_zarr(Path(folder) / "nuclei.zarr")["he_nuclei_table"]
    print("same embedding:", np.array_equal(again.obsm["X_lemon"], nuclei.obsm["X_lemon"], equal_nan=True))
    print(lm.tl.provenance(again)[0])
