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
# # From spots to nuclei
#
# Visium and its like measure expression in spots of several cells. A deconvolution tells which types of cells a spot
# holds; the H&E shows them. This tutorial asks how much of the composition can be read from the image alone: of the
# patch around the spot, of the nuclei in it, and of both.
#
# Three *phantoms* stand for three patients. Their spots know the types of the cells in them, so the answer can be
# checked; in practice it is the table of cell2location, stereoscope or RCTD that stands in its place.

# %%
import logging
import os
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

import lemon_sc as lm

# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
logging.basicConfig(format="%(message)s")
logging.getLogger("lemon_sc").setLevel("WARNING")
warnings.filterwarnings("ignore", message="IProgress not found|zarr v3 autosharding")

n_cells = int(os.environ.get("LEMON_SC_TUTORIAL_CELLS", "1200"))
SPOT = 30.0  # um
patients = {f"patient {i}": lm.datasets.phantom(n_cells=n_cells, spots=SPOT, rng=i) for i in range(3)}
print(patients["patient 0"]["spots_table"].obsm["cell_types"].head(3).round(2).T)

# %% [markdown]
# ## Features of a spot
#
# The patch: a square of tissue as wide as the spot. Any encoder of tiles can look at it; here six numbers do, mean and
# spread of its colours.


# %%
def colours(patches):
    """Mean and spread of red, green and blue, (n, 6)."""
    return np.concatenate([patches.mean(axis=(1, 2)), patches.std(axis=(1, 2))], axis=1).astype(np.float32)


card = lm.models.ModelCard(name="colours", dim=6, input_px=60, mpp=0.5)
for sdata in patients.values():
    lm.pp.extract_patches(sdata, table_key="spots_table", size_um=SPOT)
    lm.tl.embed(sdata, model=(colours, card), table_key="spots_table", key_added="X_patch")

# %% [markdown]
# The nuclei: each is cut out and embedded as always, and the nuclei whose centre lies in a spot are pooled: their mean,
# their spread, and how many there are. A spot without nuclei has no mean; it is left out below, and counted.

# %%
for sdata in patients.values():
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata, model="morphometry")
    lm.tl.pool_nuclei(sdata, units_key="spots_table", key_added="X_nuclei")
spots = ad.concat({name: sdata["spots_table"] for name, sdata in patients.items()}, label="patient", index_unique="-")
print(spots)

# %% [markdown]
# ## Decomposition
#
# Each patient is predicted by a network that has learned from the other two. Its truth is a table in `obsm` with a
# column per cell type; names that the usual tools give it are found without being told. The published network is made
# for thousands of spots; a few hundred need a smaller one.

# %%
reps = {
    "patch": ["X_patch"],
    "nuclei": ["X_nuclei", "X_nuclei_sd"],
    "patch + nuclei": ["X_patch", "X_nuclei", "X_nuclei_sd"],
}
small = lm.tl.DecompositionProtocol(widths=(64, 64), lr=3e-3)
rows = {}
for name, rep in reps.items():
    lm.tl.decompose(spots, groups="patient", use_rep=rep, target="proportion", protocol=small)
    made = spots.uns["lemon_sc"]["decompose"]["decomposition"]
    rows[name] = {score: made[score] for score in ("cc", "l1", "l1_mean", "colocalization_correlation")}
print(pd.DataFrame(rows).round(3))

# %% [markdown]
# `cc` is the correlation of a type over the spots of a patient, mean over types and patients; `l1` the mean absolute
# error. `l1_mean` is the error of someone who never looks at an image and says the mean of the training spots: compare
# `l1` with it before being impressed. `colocalization_correlation` says whether the types that lie beside each other in
# the prediction are those that do in truth.

# %%
print(made["summary"].round(3))
figure = lm.pl.decomposition(spots, slide="patient 0")

# %% [markdown]
# ## Which nuclei are they?
#
# A prediction for a spot can be looked at: here are nuclei of the spots of one patient by the type that the prediction
# gives most to. It learned nothing of single nuclei.

# %%
sdata = patients["patient 0"]
cells = sdata["table"]
of_patient = spots[spots.obs["patient"] == "patient 0"]
guess = of_patient.obsm["decomposition"].dropna()
centres = of_patient[guess.index].obsm["spatial"]
distance, nearest = cKDTree(centres).query(cells.obsm["spatial"])
most = guess.idxmax(axis=1).to_numpy()[nearest]
cells.obs["spot_type"] = pd.Series(most, index=cells.obs_names, dtype="category").where(distance < SPOT / 2)
ax = lm.pl.nuclei(sdata, by="spot_type", n=10)

# %% [markdown]
# ## Save and read back

# %%
with tempfile.TemporaryDirectory() as folder:
    spots.write_h5ad(Path(folder) / "spots.h5ad")
    again = ad.read_h5ad(Path(folder) / "spots.h5ad")
    print("same embedding:", np.array_equal(again.obsm["X_nuclei"], spots.obsm["X_nuclei"], equal_nan=True))
    print(lm.tl.provenance(again)[-1]["step"])
