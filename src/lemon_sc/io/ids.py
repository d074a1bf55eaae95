"""Ids of nuclei and cells: compared as text, and checked against where nuclei and cells lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

CELL_ID = "cell_id"
INDEX, OBS_NAMES = "index", "obs_names"
ATTRS = "spatialdata_attrs"
IN_PLACE = 0.5
"""Ids are not believed if a smaller share of the nuclei lies closest to its own cell."""
NO_ID = ""
"""Text of a missing id; it joins to nothing."""
MIN_MATCHED = 10
"""Fewer nuclei than this do not show where cells lie."""
MAX_ASKED = 10_000
"""This many nuclei are asked at most for the cell that they are closest to."""


def as_text(ids: Sequence[Hashable] | NDArray[Any] | pd.Index | pd.Series) -> NDArray[Any]:
    """Ids as text, whatever they were stored as: 7, 7.0, "7" and b"7" are one id, "007" is another.

    Parameters
    ----------
    ids
        Ids of any type, missing ones included.

    Returns
    -------
    Strings, (n,); `NO_ID` where one is missing.
    """
    values = _index(ids)
    if isinstance(values, pd.CategoricalIndex):
        names = np.empty(len(values.categories) + 1, dtype=object)
        names[:-1], names[-1] = as_text(values.categories), NO_ID  # the code of a missing id is -1
        return names[values.codes]
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iu":
        return values.astype(str).to_numpy(dtype=object)
    return np.array([_one_as_text(value) for value in values], dtype=object)


def _index(ids: Any) -> pd.Index:
    """Ids as an index; numpy's bytes of fixed width become objects, as pandas cannot hold them."""
    return pd.Index(ids.astype(object) if getattr(getattr(ids, "dtype", None), "kind", "") == "S" else ids)


def _one_as_text(value: Any) -> str:
    """One id as text; missing ones are `NO_ID`."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if pd.isna(value):
        return NO_ID
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def may_be_ids(values: pd.Index | pd.Series) -> bool:
    """Whether a column could hold ids: text, bytes, or whole numbers.

    Parameters
    ----------
    values
        The column.

    Returns
    -------
    False where all are missing.
    """
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return may_be_ids(dtype.categories)
    known = _index(values.dropna()).infer_objects()
    if pd.api.types.is_integer_dtype(known.dtype):
        return bool(len(known))
    if pd.api.types.is_float_dtype(known.dtype):
        numbers = known.to_numpy(dtype=np.float64)
        return bool(len(numbers) and np.isfinite(numbers).all() and (numbers % 1 == 0).all())
    return bool(len(known) and isinstance(known[0], str | bytes))


def repeated(ids: NDArray[Any]) -> pd.Index:
    """Ids that stand more than once; missing ones may.

    Parameters
    ----------
    ids
        Ids as text.

    Returns
    -------
    Each of them once.
    """
    index = pd.Index(ids[ids != NO_ID], dtype=object)
    return index[index.duplicated()].unique()


def without(ids: NDArray[Any], other: NDArray[np.bool_]) -> NDArray[Any]:
    """Ids with some of them taken for missing.

    Parameters
    ----------
    ids
        Ids as text, (n,).
    other
        Which, bool (n,).

    Returns
    -------
    A copy, (n,), `NO_ID` there.
    """
    kept = ids.copy()
    kept[other] = NO_ID
    return kept


def rows_of(ids: NDArray[Any], table_ids: NDArray[Any]) -> NDArray[np.int64]:
    """Row of the table with each id, (n,); -1 where there is none. Of an id that stands twice, the first.

    Parameters
    ----------
    ids
        Ids to look for, as text, (n,).
    table_ids
        Ids of the table's rows, as text, (n_obs,).

    Returns
    -------
    Int64 (n,).
    """
    rows = pd.Series(np.arange(len(table_ids)), index=pd.Index(table_ids, dtype=object))
    rows = rows[(rows.index != NO_ID) & ~rows.index.duplicated()]
    return rows.reindex(pd.Index(ids, dtype=object)).fillna(-1).to_numpy().astype(np.int64)


def share_in_place(xy: NDArray[np.float64], row: NDArray[np.int64], spatial: NDArray[np.float64] | None) -> float:
    """Share of nuclei that lie closer to their own cell than to any other, after the affine that fits them best.

    Ids that mean the same cells give nearly 1, numbers that merely coincide a few per cent. The fit makes it hold in
    whatever frame and unit the two are given.

    Parameters
    ----------
    xy
        Centres of the nuclei, (n, 2).
    row
        Row of the table for each, (n,); -1 for none.
    spatial
        Centres of the cells, (n_obs, 2), or None.

    Returns
    -------
    NaN where it cannot be told: unknown or repeated places, or fewer than `MIN_MATCHED` nuclei.
    """
    if spatial is None:
        return np.nan
    known = (row >= 0) & np.isfinite(xy).all(axis=1)
    known[known] &= np.isfinite(spatial[row[known]]).all(axis=1)
    at = np.flatnonzero(known)
    if len(at) < MIN_MATCHED:
        return np.nan
    cells = np.unique(row[at])
    if len(np.unique(spatial[cells] @ [1, 1j])) < 0.9 * len(cells):  # places of spots or bins, not of cells
        return np.nan
    centred = xy - xy[at].mean(axis=0)
    design = np.column_stack([centred, np.ones(len(xy))])
    fit = np.linalg.lstsq(design[at], spatial[row[at]], rcond=None)[0]
    asked = at[:: -(-len(at) // MAX_ASKED)]
    _, nearest = cKDTree(spatial[cells]).query(design[asked] @ fit)
    return float((cells[nearest] == row[asked]).mean())
