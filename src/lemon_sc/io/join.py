"""Which nucleus belongs to which row of the table, by the table's own keys, never by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from spatialdata.transformations import get_transformation

from lemon_sc._core.errors import listing, missing_key
from lemon_sc.geometry.affine import invert, transform
from lemon_sc.io.elements import to_system

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import anndata as ad
    import geopandas as gpd
    import spatialdata as sd
    from numpy.typing import NDArray

    from lemon_sc.geometry.affine import Affine
    from lemon_sc.io.elements import Kind

CELL_ID = "cell_id"
NO_ID = ""
"""Text of a missing id; it joins to nothing."""
ATTRS = "spatialdata_attrs"


@dataclass(frozen=True, eq=False, kw_only=True)
class Labels:
    """Labels of an image: their values, (n,), and their centres in its px, (n, 2)."""

    values: NDArray[np.int64]
    xy: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Join:
    """Nuclei joined to table rows.

    Attributes
    ----------
    row
        Row of the table for each nucleus, int64 (n_nuclei,); -1 where the table has no such cell.
    nucleus_id, cell_id
        Ids as text, (n_nuclei,).
    by
        How the two were joined, for reports: "left = right".
    """

    row: NDArray[np.int64]
    nucleus_id: NDArray[Any]
    cell_id: NDArray[Any]
    by: str


def as_text(ids: Sequence[Hashable] | pd.Index | pd.Series) -> NDArray[Any]:
    """Ids as text, whatever they were stored as: 7, 7.0, "7" and b"7" are one id."""
    return np.array([_one_as_text(value) for value in pd.Index(ids)], dtype=object)


def _one_as_text(value: Any) -> str:
    """One id as text; missing ones are `NO_ID`."""
    if isinstance(value, bytes):
        return value.decode()
    if pd.isna(value):
        return NO_ID
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


SAME_PLACE = 0.9
"""Share of labels whose centre must lie in the outline of the same number, for the two to number the same nuclei."""


def _number_the_same(shapes: gpd.GeoDataFrame, labels: Labels, to_labels: Affine) -> bool:
    """Whether outlines with a ``cell_id`` and labels carry the same numbers for the same nuclei, by where they lie."""
    if CELL_ID not in shapes or not pd.api.types.is_integer_dtype(shapes.index) or not shapes.index.is_unique:
        return False
    if not np.isin(labels.values, shapes.index).all():
        return False
    outlines = shapes.geometry.loc[labels.values].to_numpy()
    moved = shapely.transform(outlines, lambda xy: transform(to_labels, xy))
    return bool(shapely.contains_xy(moved, *labels.xy.T).mean() >= SAME_PLACE)


def _named_by_outlines(sdata: sd.SpatialData, nuclei: Any, labels: Labels) -> Any:
    """Cell ids of labels from the outlines of the same nuclei, or None where no outlines are of the same nuclei."""
    for shapes in sdata.shapes.values():
        shared = sorted({*get_transformation(shapes, get_all=True)} & {*get_transformation(nuclei, get_all=True)})
        if shared:
            to_labels = invert(to_system(nuclei, shared[0])) @ to_system(shapes, shared[0])
            if _number_the_same(shapes, labels, to_labels):
                return shapes[CELL_ID].loc[labels.values]
    return None


def _nucleus_ids(sdata: sd.SpatialData, nuclei: Any, kind: Kind, labels: Labels | None) -> tuple[Any, Any]:
    """Own ids of the nuclei, and their cells' ids if the element names them (else None).

    XOA >= 2 numbers nuclei and cells independently; there the outlines, indexed by the same numbers as the label image
    and lying on it, name the cell of each nucleus.
    """
    if labels is not None:
        return labels.values, _named_by_outlines(sdata, nuclei, labels)
    cells = nuclei[CELL_ID] if CELL_ID in nuclei.columns else None
    if kind == "points":
        if cells is None:
            raise missing_key(
                CELL_ID, where="points", have=nuclei.columns, fix="It must name the cell of each centroid."
            )
        return nuclei.index.compute(), cells.compute()
    return nuclei.index, cells


def _table_ids(adata: ad.AnnData, *, shapes_key: str, named: bool) -> tuple[Any, str, bool]:
    """Ids of the table's rows to join on, what they are called, and whether the table annotates the nuclei itself."""
    attrs = adata.uns.get(ATTRS, {})
    instance_key, region = attrs.get("instance_key"), attrs.get("region")
    regions = [region] if isinstance(region, str) else list(region if region is not None else [])
    if instance_key is not None and instance_key not in adata.obs:
        raise missing_key(instance_key, where="table.obs", have=adata.obs, fix="It is the table's `instance_key`.")
    if shapes_key in regions and instance_key is not None:
        ids = adata.obs[instance_key]
        other = adata.obs[attrs["region_key"]].astype(str) != shapes_key
        return ids.where(~other, other=pd.NA) if other.any() else ids, instance_key, True
    if CELL_ID in adata.obs:
        return adata.obs[CELL_ID], CELL_ID, False
    if instance_key is not None and not named:
        return adata.obs[instance_key], instance_key, False
    return adata.obs_names, "obs_names", False


def join_nuclei(
    sdata: sd.SpatialData,
    adata: ad.AnnData,
    *,
    nuclei: Any,
    kind: Kind,
    shapes_key: str,
    labels: Labels | None = None,
) -> Join:
    """Join nuclei to the rows of a table.

    If the table annotates the nuclei, its instance key is joined to their index. Otherwise the nuclei's ``cell_id``
    (column, else index) is joined to the table's ``cell_id``, its instance key, or its row names, the first there is.

    Parameters
    ----------
    sdata, adata
        SpatialData, and its table whose rows are joined to.
    nuclei, kind, shapes_key
        The element, what it is, and its name.
    labels
        What a label image holds; None for other elements.

    Raises
    ------
    ValueError
        If an id stands twice in the table, or no id of the nuclei is in it.
    """
    own, cells = _nucleus_ids(sdata, nuclei, kind, labels)
    ids, right, annotates = _table_ids(adata, shapes_key=shapes_key, named=cells is not None)
    if annotates:
        cells = None
    left = f"{shapes_key}.{'index' if cells is None else CELL_ID}"
    by = f"{left} = table.{right}"
    rows = pd.Series(np.arange(adata.n_obs), index=pd.Index(as_text(ids), dtype=object))
    rows = rows[rows.index != NO_ID]
    twice = rows.index[rows.index.duplicated()].unique()
    if len(twice):
        msg = f"`table.{right}` names {len(twice)} cells more than once ({listing(twice, most=3)}); ids must be unique."
        raise ValueError(msg)
    cell_id = as_text(own if cells is None else cells)
    row = rows.reindex(cell_id).fillna(-1).to_numpy().astype(np.int64)
    if len(row) and not (row >= 0).any():
        msg = (
            f"No nucleus of {shapes_key!r} belongs to a row of the table: joined {by}, for instance "
            f"{listing(cell_id, most=3)} against {listing(rows.index, most=3)}. Give the nuclei a `cell_id` column "
            "or the table the right `region` and `instance_key`."
        )
        raise ValueError(msg)
    return Join(row=row, nucleus_id=as_text(own), cell_id=cell_id, by=by)
