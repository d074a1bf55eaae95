"""Tables of which it is known what a probe must find, and how to read what it stored."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd


def make(*, n=600, slides=4, seed=0):
    """Four slides. A latent of the embedding drives gene A (expected PCC 0.8); B is noise; C follows the slide only."""
    r = np.random.default_rng(seed)
    slide = np.arange(n) % slides
    latent = r.standard_normal(n)
    x = np.column_stack(
        [
            0.8 * latent + 0.6 * r.standard_normal(n),
            r.standard_normal(n),
            slide + 0.1 * r.standard_normal(n),
        ]
    )
    embedding = latent[:, None] * r.standard_normal(16) + 0.01 * r.standard_normal((n, 16))
    adata = ad.AnnData(x, obs=pd.DataFrame({"slide": [f"s{i}" for i in slide]}, index=[f"c{i}" for i in range(n)]))
    adata.var_names = ["A", "B", "C"]
    adata.obsm["X_lemon"] = embedding.astype(np.float32)
    adata.obsm["spatial"] = r.uniform(0, 1000, (n, 2))
    return adata


def stored(adata, key="probe"):
    return adata.uns["lemon_sc"]["probe"][key]


def snapshot(adata):
    return set(adata.obs), set(adata.obsm), set(adata.uns), adata.X.copy()


def make_typed(*, n=600, slides=4, seed=0):
    """`make` with a class: two types are read from the embedding, the third is rare."""
    adata = make(n=n, slides=slides, seed=seed)
    r = np.random.default_rng(seed + 1)
    kind = np.where(r.random(n) < 0.5, "tumour", "stroma").astype("U8")
    kind[r.choice(n, 40, replace=False)] = "mitosis"
    adata.obs["type"] = pd.Categorical(kind)
    z = np.column_stack([kind == "tumour", kind == "stroma"]) + 0.2 * r.standard_normal((n, 2))
    adata.obsm["X_lemon"] = np.column_stack([adata.obsm["X_lemon"], z]).astype(np.float32)
    return adata


def with_crops(adata, mpp, *, size_px=40):
    """Centres in px, with a record as `pp.extract_nuclei` writes it."""
    adata.obsm["nucleus_xy"] = adata.obsm["spatial"] / mpp
    record = {"mpp": np.array([mpp, mpp]), "size_px": size_px, "target_mpp": 0.25}
    adata.uns["lemon_sc"] = {"nuclei": record}
    return adata
