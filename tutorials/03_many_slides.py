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
# # Many slides
#
# A cohort is embedded slide by slide, or on the workers of a Dask cluster, and a run that was killed goes on where it
# stopped. This tutorial embeds three small slides on a cluster of this machine, interrupts a run, goes on, and asks
# of the cohort what expression has to do with morphology on slides that were held out.

# %%
import logging
import os
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from dask.distributed import Client, LocalCluster
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm

# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
logging.basicConfig(format="%(message)s")
logging.getLogger("lemon_sc").setLevel("WARNING")
logging.getLogger("distributed").setLevel("ERROR")
warnings.filterwarnings("ignore", message="IProgress not found|zarr v3 autosharding")

n_cells = int(os.environ.get("LEMON_SC_TUTORIAL_CELLS", "600"))
rows = Path("rows")  # a folder for what is kept on the way

# %% [markdown]
# ## Extract
#
# Three phantoms stand for three slides. Nuclei are found on each; nothing is decoded yet.

# %%
slides = [lm.datasets.phantom(n_cells=n_cells, rng=k) for k in range(3)]
for sdata in slides:
    lm.pp.extract_nuclei(sdata)

# %% [markdown]
# ## Embed on a cluster
#
# Where a Dask client is active, `lm.tl.embed` gives a slide to each worker. Here the workers are threads of this
# process; in the field they are `Client("scheduler:8786")`, one worker per GPU.

# %%
with (
    LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
    Client(cluster),
):
    lm.tl.embed(slides)
on_cluster = [sdata["table"].obsm["X_lemon"].copy() for sdata in slides]
lm.tl.embed(slides)  # and without one
alike = all(
    np.array_equal(a, sdata["table"].obsm["X_lemon"], equal_nan=True)
    for a, sdata in zip(on_cluster, slides, strict=True)
)
print("same embedding:", alike)

# %% [markdown]
# ## A run that is cut short
#
# With `store=`, rows are committed as they come. The encoder below gives up half way; the second call computes only
# what is missing. (Shards hold 4,096 nuclei, so on slides this small an interrupted one starts anew, and finished
# ones do not.)


# %%
class Fragile:
    """Mean colour, until the power goes out."""

    def __init__(self, lasts):
        self.lasts, self.n_seen = lasts, 0

    def __call__(self, crops):
        self.n_seen += len(crops)
        if self.n_seen > self.lasts:
            msg = "the power went out"
            raise RuntimeError(msg)
        return crops.mean(axis=(1, 2)) / 255


card = lm.models.ModelCard(name="mean-colour", dim=3)
try:
    lm.tl.embed(slides, model=(Fragile(1.5 * n_cells), card), key_added="X_colour", store=rows)
except ExceptionGroup as error:
    print(error)
again = Fragile(np.inf)
lm.tl.embed(slides, model=(again, card), key_added="X_colour", store=rows)
print(f"crops computed by the second call: {again.n_seen} of {sum(s['table'].n_obs for s in slides)}")

# %% [markdown]
# ## One cohort
#
# The tables are concatenated as any others. Each row remembers which encoder made it, and embeddings that were made
# differently refuse to be mixed.

# %%
tables = {f"slide{k}": sdata["table"] for k, sdata in enumerate(slides)}
cohort = ad.concat(tables, label="slide", index_unique="-")
print(cohort.obs["X_lemon_encoder"].value_counts().to_string())
lm.tl.probe(cohort, groups="slide")
lm.pl.probe(cohort, n_top=12)

# %% [markdown]
# ## The graph of a cohort
#
# `lm.tl.KNNTransformer` finds exact neighbours for scanpy, block by block; on the graph, Moran's I says which genes are
# smooth over morphology.

# %%
cells = cohort[np.isfinite(cohort.obsm["X_lemon"]).all(axis=1)].copy()
sc.pp.filter_cells(cells, min_counts=1)
sc.pp.normalize_total(cells, target_sum=1e4)
sc.pp.log1p(cells)
cells.obsm["z"] = StandardScaler().fit_transform(cells.obsm["X_lemon"])
sc.pp.neighbors(cells, use_rep="z", transformer=lm.tl.KNNTransformer(n_neighbors=15), key_added="lemon")
lm.tl.morans_i(cells, connectivity_key="lemon_connectivities", n_perms=99)
lm.pl.morans_i(cells, n_top=12)

# %%
shutil.rmtree(rows)
