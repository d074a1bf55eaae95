"""Which nucleus belongs to which row of the table, by the table's own keys, never by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core.errors import listing, missing_key

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import anndata as ad
    import spatialdata as sd
    from numpy.typing import NDArray

    from lemon_sc.io.elements import Kind

CELL_ID = "cell_id"
ATTRS = "spatialdata_attrs"


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
    values = pd.Index(ids)
    if pd.api.types.is_float_dtype(values.dtype) and (values == np.floor(values)).all():
        values = values.astype(np.int64)
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], dtype=object)


def _nucleus_ids(sdata: sd.SpatialData, nuclei: Any, kind: Kind, values: NDArray[Any] | None) -> tuple[Any, Any]:
    """Own ids of the nuclei, and their cells' ids if the element names them (else None).

    `values` are the label values found in a label image. XOA >= 2 numbers nuclei and cells independently; there the
    outlines, indexed by the same numbers, name the cell of each nucleus.
    """
    if values is not None:
        for shapes in sdata.shapes.values():
            if (
                CELL_ID in shapes
                and pd.api.types.is_integer_dtype(shapes.index)
                and np.isin(values, shapes.index).all()
            ):
                return values, shapes[CELL_ID].loc[values]
        return values, None
    cells = nuclei[CELL_ID] if CELL_ID in nuclei.columns else None
    if kind == "points":
        return nuclei.index.compute(), None if cells is None else cells.compute()
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
    values: NDArray[Any] | None = None,
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
    values
        Label values found in a label image, (n,); None otherwise.

    Raises
    ------
    ValueError
        If an id stands twice in the table, or no id of the nuclei is in it.
    """
    own, cells = _nucleus_ids(sdata, nuclei, kind, values)
    ids, right, annotates = _table_ids(adata, shapes_key=shapes_key, named=cells is not None)
    if annotates:
        cells = None
    left = f"{shapes_key}.{'index' if cells is None else CELL_ID}"
    by = f"{left} = table.{right}"
    rows = pd.Series(np.arange(adata.n_obs), index=pd.Index(as_text(ids), dtype=object))
    known = rows.index != "<NA>"
    rows = rows[known]
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
