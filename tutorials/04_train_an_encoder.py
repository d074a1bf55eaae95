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
# # Train an encoder
#
# Where no encoder knows your stain, organ or scanner, you can train one on your own nuclei, without labels. This
# tutorial makes a corpus of crops, trains a toy encoder in seconds, interrupts the run and goes on, exports the encoder
# and uses it like any other. What it reaches here says nothing of a real run: for that, see the last section.

# %%
import logging
import os
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import lemon_sc as lm

# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
logging.basicConfig(format="%(message)s")
logging.getLogger("lemon_sc").setLevel("WARNING")
warnings.filterwarnings("ignore", message="IProgress not found|zarr v3 autosharding")

n_cells = int(os.environ.get("LEMON_SC_TUTORIAL_CELLS", "500"))
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)

# %% [markdown]
# ## A corpus
#
# Crops of 60 px, so that views of 40 px can be turned freely. Two phantoms stand for two slides; folders of images with
# masks or centroids, and images without either, serve as well. The licence goes with the crops, and from there onto the
# card of the encoder. Keep slides apart that you will evaluate on: the third phantom is not in the corpus.

# %%
slides = [lm.datasets.phantom(n_cells=n_cells, rng=k) for k in range(3)]
sources = [
    lm.train.SpatialDataSource(name=f"phantom{k}", licence="BSD-3-Clause", data=sdata)
    for k, sdata in enumerate(slides[:2])
]
manifest = lm.train.build_corpus(sources, folder / "corpus.zarr", rng=0)
corpus = lm.train.open_corpus(folder / "corpus.zarr")
print(corpus.crops.shape, [(s["name"], s["licence"], s["n_crops"]) for s in manifest["sources"]])

# %% [markdown]
# ## Views
#
# MoCo v3 learns which two views show the same nucleus. What the views have in common is what the encoder can learn, so
# they deserve a look.

# %%
crops = torch.from_numpy(corpus.read(np.arange(8)))
generator = torch.Generator().manual_seed(0)
plain = lm.train.Augmentation(mean=(0, 0, 0), std=(1, 1, 1))
strong = lm.train.a1(gray_p=0.2)
rows = [lm.train.augment(crops, plain, generator=generator)]
rows += [lm.train.augment(crops, strong, generator=generator, view=k) for k in range(2)]
mean, std = (torch.tensor(v)[:, None, None] for v in (strong.mean, strong.std))
rows[1:] = [(views * std + mean).clamp(0, 1) for views in rows[1:]]
picture = torch.cat([torch.cat(list(views), dim=2) for views in rows], dim=1).permute(1, 2, 0)
figure, ax = plt.subplots(figsize=(8, 3))
ax.imshow(picture.numpy())
ax.set_axis_off()

# %% [markdown]
# ## A run
#
# A recipe is all that decides what a run computes, and any of its fields can be set. `debug` is a toy: two blocks of
# width 32. `cpu` takes a good hour of a core, `lemon` is the run of the LEMON paper.

# %%
recipe = lm.train.debug(epochs=2, epoch_length=320)
print(recipe.steps, "steps of", recipe.batch, "crops;", recipe.method, recipe.augmentation)
run = lm.train.fit(recipe, corpus=corpus, out=folder / "run")
log = pd.read_csv(run.out / "metrics.csv")
print(log[["step", "images", "lr", "loss", "accuracy"]].round(4).to_string(index=False))

# %% [markdown]
# In a longer run `rank` and `cosine` show a collapse first: all embeddings become alike, the one falls towards 1, the
# other rises towards 1. `accuracy` is the share of nuclei whose other view is told from those of the batch.
#
# Called again, a finished run is left as it is, and one that was cut off goes on where its last checkpoint was. Another
# recipe in the same folder is refused.

# %%
again = lm.train.fit(recipe, corpus=corpus, out=folder / "run")
print("same weights:", again.weights.read_bytes() == run.weights.read_bytes())
try:
    lm.train.fit(lm.train.debug(epochs=5), corpus=corpus, out=folder / "run")
except ValueError as error:
    print(str(error).split(": ", 1)[1])

# %% [markdown]
# ## Use it
#
# The run ends with a weight file and a card: what the crops must be, how they are normalised, where they are from.
# `lm.tl.embed` takes the path.

# %%
card = lm.train.export(run, folder / "mine.safetensors", name="mine")
print(card.arch, card.dim, card.input_px, card.mpp, card.license)
held_out = slides[2]
lm.pp.extract_nuclei(held_out)
lm.tl.embed(held_out, model=folder / "mine.safetensors", key_added="X_mine")
first = held_out["table"].obsm["X_mine"].copy()
lm.tl.embed(held_out, model=folder / "mine.safetensors", key_added="X_mine")
print("same embedding:", np.array_equal(first, held_out["table"].obsm["X_mine"], equal_nan=True))

# %% [markdown]
# ## Is it any good?
#
# A linear probe from the embedding to the cell type, in folds of blocks of the section. The phantom's types are told by
# size and chromatin, and measurements of the nucleus, which need no training, tell them well. A toy that saw a thousand
# crops is no match for them: that is the comparison that an encoder has to win before it is used.

# %%
lm.tl.embed(held_out, model="morphometry", key_added="X_measured")
table = held_out["table"]
for key in ("X_mine", "X_measured"):
    lm.tl.probe(table, target="truth_type", use_rep=key, key_added=key)
    print(f"{key:<12}", table.uns["lemon_sc"]["probe"][key]["metrics"]["mean"].round(3).to_dict())

# %%
scratch.cleanup()

# %% [markdown]
# ## A real run
#
# The same on the command line; the second line uses four devices. What runs on one core reached, and what the paper's
# run would take, is on the page *Training* of the documentation.
#
# ```
# python -m lemon_sc.train cpu --corpus corpus.zarr --out run --probe labelled.npz
# torchrun --nproc-per-node 4 -m lemon_sc.train lemon --corpus corpus.zarr --out run
# ```
