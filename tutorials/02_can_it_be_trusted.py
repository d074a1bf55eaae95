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
# # Can it be trusted?
#
# An embedding is worth what three things are worth: that the crop shows the nucleus it claims, that the nucleus is
# fit to be looked at, and that a score was not leaked. This tutorial checks each of them, first where all is well and
# then where something was planted:
#
# 1. do image and run fit, and which nucleus belongs to which cell?
# 2. which nuclei are of use?
# 3. is the signal in the nucleus, or around it?
# 4. does the probe see morphology, or the slide?
# 5. what happens to results when a step is run again?

# %%
import logging
import os
import warnings

import anndata as ad
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from spatialdata import get_pyramid_levels
from spatialdata.transformations import Affine, get_transformation, set_transformation

import lemon_sc as lm

# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
logging.basicConfig(format="%(message)s")
logging.getLogger("lemon_sc").setLevel("WARNING")
warnings.filterwarnings("ignore", message="IProgress not found|zarr v3 autosharding")

n_cells = int(os.environ.get("LEMON_SC_TUTORIAL_CELLS", "1000"))
sdata = lm.datasets.phantom(n_cells=n_cells)
adata = sdata["table"]

# %% [markdown]
# ## Do image and run fit?
#
# Nuclei are full of haematoxylin, their surroundings are not. `lm.pp.check_registration` shifts the outlines over the
# image until the contrast is best, region by region, and says how far that is.

# %%
print(lm.pp.check_registration(sdata))

# %% [markdown]
# Now the image is moved by 5 um, as a stage that was not calibrated would do it.

# %%
placed = get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
shift = np.eye(3)
shift[0, 2] = 5 / 0.2125  # px of the morphology image
set_transformation(sdata["he_image"], Affine(shift @ placed, input_axes=("x", "y"), output_axes=("x", "y")))
moved = lm.pp.check_registration(sdata)
print(moved)
print("the image must be moved by", np.round(moved.offset_um, 1), "um (x, y)")
set_transformation(sdata["he_image"], Affine(placed, input_axes=("x", "y"), output_axes=("x", "y")))

# %% [markdown]
# ## Which nucleus belongs to which cell?
#
# Ids are joined by the table's own keys, whatever the version of the instrument's software made of them. The report
# says by which, what did not match, and whether the pairs lie in one place.

# %%
print(lm.pp.check_join(sdata))

# %% [markdown]
# ## Which nuclei are of use?
#
# A marker line and a patch that is out of focus are painted into the image.

# %%
lm.pp.extract_nuclei(sdata)
pixels = np.array(get_pyramid_levels(sdata["he_image"], n=0))
height, width = pixels.shape[1:]
line = slice(int(0.3 * height), int(0.34 * height))
pixels[:, line] = (pixels[:, line] * np.array([0.15, 0.55, 0.25])[:, None, None]).astype(np.uint8)
soft = np.s_[int(0.6 * height) : int(0.75 * height), int(0.3 * width) : int(0.7 * width)]
pixels[(slice(None), *soft)] = gaussian_filter(pixels[(slice(None), *soft)], sigma=(0, 9, 9))

spoilt = lm.datasets.phantom(n_cells=n_cells)
del spoilt.images["he_image"]
lm.pp.add_image(spoilt, pixels, alignment=placed, key_added="he_image")
lm.pp.extract_nuclei(spoilt, store="memory")
lm.pl.nucleus_qc(spoilt)

# %%
lm.pl.nuclei(spoilt, by="nucleus_qc")

# %% [markdown]
# Cells without a usable nucleus keep their rows, and get no embedding. `lm.pp.filter_nuclei` takes them out.

# %%
kept = lm.pp.filter_nuclei(spoilt["table"], copy=True)
print(spoilt["table"].n_obs, "cells,", kept.n_obs, "with a usable nucleus")

# %% [markdown]
# ## In the nucleus, or around it?
#
# The same crops three times: whole, the nucleus alone, the surroundings alone. `AREA1` follows the area of the nucleus,
# `NOISE1` nothing.

# %%
scores = {}
for part, mask in {"whole": None, "nucleus": "nucleus", "ring": "ring"}.items():
    lm.tl.embed(sdata, mask=mask, key_added=f"X_{part}")
    lm.tl.probe(adata, use_rep=f"X_{part}", target=["AREA1", "CD3E", "NOISE1"], key_added=part)
    scores[part] = adata.uns["lemon_sc"]["probe"][part]["summary"]["pcc"]
print(pd.DataFrame(scores).round(2))

# %% [markdown]
# ## Morphology, or the slide?
#
# Four slides with a gene that is high on two of them, and an embedding that knows nothing but the slide. Over random
# folds it predicts the gene perfectly. Held-out slides show that it knows nothing, and `group_identity`, how well the
# slide is read from the embedding, says why.

# %%
rng = np.random.default_rng(0)
slide = np.repeat(np.arange(4), 150)
leak = ad.AnnData(
    rng.poisson(np.where(slide % 2, 20, 2)[:, None], (600, 1)).astype(np.float32),
    obs=pd.DataFrame({"slide": [f"s{k}" for k in slide]}, index=[f"c{i}" for i in range(600)]),
    var=pd.DataFrame(index=["BATCH"]),
    obsm={"X_leak": (np.eye(4)[slide] + rng.normal(0, 0.01, (600, 4))).astype(np.float32)},
)
lm.tl.probe(leak, use_rep="X_leak", groups="slide", target=["BATCH"])
record = leak.uns["lemon_sc"]["probe"]["probe"]
print(f"PCC on slides never seen: {record['score']:.2f}")
print(f"slide read from the embedding: {record['group_identity']:.2f} (chance {record['group_identity_chance']:.2f})")

# %% [markdown]
# ## When a step is run again
#
# Every result knows what it was made from. Extract with other settings, and whatever hangs on the earlier extraction
# says that it is out of date, and why.

# %%
lm.pp.extract_nuclei(sdata, multiple="mean")
print(adata.uns["lemon_sc"]["probe"]["whole"]["stale"])
lm.pp.extract_nuclei(sdata)
lm.tl.embed(sdata)
first = adata.obsm["X_lemon"].copy()
lm.tl.embed(sdata)
print("same embedding:", np.array_equal(first, adata.obsm["X_lemon"], equal_nan=True))
