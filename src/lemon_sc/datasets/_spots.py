"""Spots on a synthetic section, as Visium has them: a hexagonal lattice of discs, each with the sum of its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from geopandas import GeoDataFrame
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from shapely import points
from spatialdata.models import ShapesModel, TableModel

from lemon_sc._core import keys

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata.transformations import BaseTransformation

    Array = NDArray[np.floating]

PITCH = 100 / 55
"""Distance between the centres of neighbouring spots over their diameter, Visium's."""

INSTANCE = "spot_id"
CELL_SPECIFIC = ("truth_r",)
"""Columns of ``var`` that hold for cells and not for their sums."""


def spot_lattice(side: float, *, diameter: float) -> tuple[Array, NDArray[np.int64]]:
    """Centres of the spots that lie wholly in a square field, and their place in the array.

    Parameters
    ----------
    side
        Side of the field in um.
    diameter
        Of a spot in um.

    Returns
    -------
    Centres (n, 2) in um; array row and column (n, 2): on even rows columns are even, on odd ones odd, as on Visium.
    """
    pitch = PITCH * diameter
    step = np.array([pitch / 2, pitch * np.sqrt(3) / 2])  # of a column, of a row
    size = np.floor((side - diameter) / step + 1e-9).astype(int) + 1
    row, col = np.divmod(np.arange(size.prod()), size[0])
    on = (row + col) % 2 == 0
    place = np.column_stack([row, col])[on]
    return diameter / 2 + place[:, ::-1] * step, place


def members(xy: Array, centre: Array, *, diameter: float) -> csr_matrix:
    """Which cells' centres lie in which spot, (spots, cells), ones and zeros."""
    inside = cKDTree(xy).query_ball_point(centre, diameter / 2, return_sorted=True)
    indptr = np.cumsum([0, *map(len, inside)])
    indices = np.concatenate([np.asarray(cells, dtype=np.int64) for cells in inside])
    return csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(centre), len(xy)))


def make_spots(
    cells: AnnData, *, side: float, diameter: float, to_global: dict[str, BaseTransformation]
) -> tuple[GeoDataFrame, AnnData]:
    """Discs on a lattice, and a table of the counts and the types of the cells whose centres lie in them.

    Parameters
    ----------
    cells
        The table of the cells: counts, ``obsm["spatial"]`` in um, ``obs["truth_type"]``.
    side
        Side of the field in um.
    diameter
        Of a spot in um.
    to_global
        Where um lie.

    Returns
    -------
    The discs and their table.
    """
    centre, place = spot_lattice(side, diameter=diameter)
    inside = members(cells.obsm["spatial"], centre, diameter=diameter)
    n_cells = np.diff(inside.indptr)
    types = pd.get_dummies(cells.obs["truth_type"], dtype=float)
    with np.errstate(invalid="ignore"):
        share = inside @ types.to_numpy() / n_cells[:, None]  # NaN where there is no cell
    number = np.arange(len(centre))
    names = pd.Index([f"spot_{row}x{col}" for row, col in place], dtype=object)
    obs = pd.DataFrame(
        {
            INSTANCE: number,
            "region": pd.Categorical([keys.SPOTS] * len(centre)),
            "array_row": place[:, 0],
            "array_col": place[:, 1],
            "in_tissue": (n_cells > 0).astype(np.int64),
            "n_cells": n_cells.astype(np.int64),
        },
        index=names,
    )
    table = AnnData(
        csr_matrix(inside @ cells.X, dtype=np.float32),
        obs=obs,
        var=cells.var.drop(columns=list(CELL_SPECIFIC)),
        obsm={"spatial": centre, keys.CELL_TYPES: pd.DataFrame(share, index=names, columns=list(types.columns))},
    )
    frame = GeoDataFrame({"geometry": points(centre), "radius": diameter / 2}, index=pd.Index(number, name=INSTANCE))
    return ShapesModel.parse(frame, transformations=to_global), TableModel.parse(
        table, region=keys.SPOTS, region_key="region", instance_key=INSTANCE
    )
