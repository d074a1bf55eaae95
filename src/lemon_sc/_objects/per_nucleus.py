"""A table with one row per nucleus, for cells that have several."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from spatialdata.models import TableModel

from lemon_sc._core import keys
from lemon_sc._objects.candidates import Candidates, by_cell
from lemon_sc.io.ids import ATTRS, CELL_ID

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    ids = candidates.join.nucleus_id[order]
    obs = adata.obs.iloc[parent].set_axis(make_index_unique(pd.Index(ids.astype(str))))
    obs[CELL_ID] = candidates.join.cell_id[order].astype(str)
    obs["parent"] = adata.obs_names.to_numpy()[parent]
    obs[REGION] = pd.Categorical([shapes_key] * len(order))
    numeric = all(i.isdecimal() for i in ids)
    obs[INSTANCE] = ids.astype(np.int64) if numeric else ids.astype(str)
    table = ad.AnnData(
        None if adata.X is None else adata.X[parent],
        obs=obs,
        var=adata.var.copy(),
        layers={key: value[parent] for key, value in adata.layers.items() if key is not None},  # None is X itself
        obsm={key: _take(value, parent, obs.index) for key, value in adata.obsm.items()},
    )
    table = TableModel.parse(
        table, region=shapes_key, region_key=REGION, instance_key=INSTANCE, overwrite_metadata=True
    )
    row = np.full(len(candidates.join.row), -1, dtype=np.int64)
    row[order] = np.arange(len(order))
    return table, replace(candidates, join=replace(candidates.join, row=row, by=f"{ATTRS} of {keys.NUCLEI}"))


def _take(value: Any, rows: NDArray[np.int64], names: pd.Index) -> Any:
    """Rows of an array or a data frame, the latter under new names."""
    return value.iloc[rows].set_axis(names) if isinstance(value, pd.DataFrame) else value[rows]
