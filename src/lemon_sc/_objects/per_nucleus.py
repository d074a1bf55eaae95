"""A table with one row per nucleus, for cells that have several."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from spatialdata.models import TableModel

from lemon_sc._core import keys
from lemon_sc._objects.candidates import Candidates, by_cell
from lemon_sc.io.join import ATTRS, CELL_ID

if TYPE_CHECKING:
    import anndata as ad

REGION = "region"
INSTANCE = "instance_id"


def nucleus_table(adata: ad.AnnData, candidates: Candidates, *, shapes_key: str) -> tuple[ad.AnnData, Candidates]:
    """One row per nucleus that belongs to a cell, with that cell's expression and metadata.

    Returns
    -------
    The new table, which annotates the nuclei, and the candidates with their rows in it.
    """
    order = np.sort(by_cell(candidates))
    parent = candidates.join.row[order]
    table = adata[parent].copy()
    ids = candidates.join.nucleus_id[order]
    table.obs[CELL_ID] = pd.Index(candidates.join.cell_id[order]).astype(str)
    table.obs["parent"] = adata.obs_names.to_numpy()[parent]
    table.obs_names = pd.Index(ids.astype(str))
    table.obs_names_make_unique()
    table.obs[REGION] = pd.Categorical([shapes_key] * len(order))
    numeric = all(i.isdecimal() for i in ids)
    table.obs[INSTANCE] = ids.astype(np.int64) if numeric else ids.astype(str)
    table.uns = {}
    table = TableModel.parse(
        table, region=shapes_key, region_key=REGION, instance_key=INSTANCE, overwrite_metadata=True
    )
    row = np.full(len(candidates.join.row), -1, dtype=np.int64)
    row[order] = np.arange(len(order))
    return table, replace(candidates, join=replace(candidates.join, row=row, by=f"{ATTRS} of {keys.NUCLEI}"))
