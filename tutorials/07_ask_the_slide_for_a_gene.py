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
# # Ask the slide for a gene
#
# Which nuclei look as if they expressed CD3E? An encoder that was finetuned under the guidance of expression (SEAL) has
# a twin: an encoder of expression whose vectors lie in the same space. A gene becomes a query, and the nuclei whose
# images lie nearest are the answer. No expression of these nuclei is needed.
#
# The slides are two *phantoms*: the encoder learns from the first, and the second is asked.

# %%
import logging
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import spatialdata as sd
import torch

import lemon_sc as lm
from lemon_sc.models.vit import cell_vit

# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
logging.basicConfig(format="%(message)s")
logging.getLogger("lemon_sc").setLevel("WARNING")
warnings.filterwarnings("ignore", message="IProgress not found|zarr v3 autosharding")

n_cells = int(os.environ.get("LEMON_SC_TUTORIAL_CELLS", "500"))
learned, asked = (lm.datasets.phantom(n_cells=n_cells, rng=seed) for seed in (0, 1))
for sdata in (learned, asked):
    lm.pp.extract_nuclei(sdata, store="memory")

# %% [markdown]
# ## An encoder
#
# A small vision transformer that was never trained, so that this page runs anywhere in a minute. For real slides, name
# an encoder with weights instead: `model="dinov2_s"`, or the file of one trained by `lm.train.fit`.

# %%
card = lm.models.ModelCard(name="untrained", dim=96, mean=(0.7, 0.55, 0.7), std=(0.2, 0.2, 0.2), num_heads=3)
network = cell_vit(dim=96, num_heads=3, depth=3, generator=torch.Generator().manual_seed(0))
encoder = lm.models.as_encoder((network, card))

# %% [markdown]
# ## Expression guides the encoder
#
# `pairs_of` pairs each crop with the raw counts of its cell. `seal` trains an autoencoder of expression, then small
# adapters on the last blocks of the encoder. What stays of it is an adapter of some hundred kB, and the expression
# side.

# %%
folder = tempfile.TemporaryDirectory()
pairs = lm.train.pairs_of(learned, licence="CC0-1.0")
recipe = lm.train.seal_small(
    batch=64, hidden=(64, 32), decoder_width=32, omics_epochs=10, epochs=10, lr=5e-3, blocks=2, augmentation="none"
)
run = lm.train.seal(recipe, data=pairs, model=encoder, out=Path(folder.name) / "run", device="cpu")
print(f"adapter: {run.adapter.stat().st_size / 1e3:.0f} kB, for {len(run.card.genes)} genes, of {run.card.base.name!r}")
print({name: round(value, 3) for name, value in run.metrics.items() if name in {"loss", "contrast", "omics", "vision"}})

# %% [markdown]
# ## The other slide is asked
#
# The adapted encoder embeds the nuclei of the second slide. The query is the mean profile with one gene raised: AREA1,
# which the phantom ties to the area of the nucleus, and markers of lymphocytes and fibroblasts.

# %%
adapted = lm.models.with_adapter(encoder, run.adapter)
lm.tl.embed(asked, model=adapted)
table = asked["table"]
genes = ["AREA1", "CD3E", "COL1A1"]
lm.tl.retrieve(table, by="gene", query=genes, model=run.expression, k=30)
found = table.uns["lemon_sc"]["retrieve"]["retrieve"]
print(found["metrics"].pivot(index="query", columns="metric", values="value").round(3))

# %%
fig = lm.pl.retrieved(asked, n=10)

# %% [markdown]
# `fold` is the mean expression of the gene among the 30 nuclei that were found, over that of all nuclei, and `pvalue`
# says how often 30 nuclei at random have as much. The expression of the second slide was used for nothing else.
#
# ## The other way round
#
# A whole profile can be asked for, too: does the expression of a nucleus find its own image? With one nucleus among
# several hundred it rarely does at once, for many nuclei look alike; the median rank says how far down it stands.

# %%
usable = table.obs_names[table.obs["nucleus_qc"] == "ok"]
lm.tl.retrieve(table, by="profile", query=list(usable), model=run.expression, key_added="profiles")
metrics = table.uns["lemon_sc"]["retrieve"]["profiles"]["metrics"].set_index("metric")
print(metrics[["value", "chance"]].round(3))

# %% [markdown]
# ## Save and read back
#
# The adapter goes with its card (`adapter.json`), and is refused by any other encoder.

# %%
kept = Path(folder.name)
asked.write(kept / "asked.zarr")
again = sd.read_zarr(kept / "asked.zarr")["table"]
print("same embedding:", np.array_equal(again.obsm["X_lemon"], table.obsm["X_lemon"], equal_nan=True))
other = lm.models.as_encoder((cell_vit(dim=96, num_heads=3, depth=3, generator=torch.Generator().manual_seed(1)), card))
try:
    lm.models.with_adapter(other, run.adapter)
except ValueError as error:
    print(str(error).replace(folder.name, "..."))
folder.cleanup()
