"""The one place that knows the container types: SpatialData or AnnData in, AnnData out."""

from __future__ import annotations

import re
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import spatialdata as sd
from scipy import sparse

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.record import warn_if_stale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.floating]


@singledispatch
def as_table(data: object, *, table_key: str | None = None) -> ad.AnnData:
    """The table of `data`: an AnnData is passed through, of a SpatialData it is ``tables[table_key]``.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    table_key
        Name of the table in a SpatialData; ``None``: ``"table"``, for functions that take no other name.

    Returns
    -------
    The table itself, not a copy.

    Raises
    ------
    TypeError
        If `data` is neither.
    MissingKeyError
        If there is no such table.
    """
    msg = f"`data` must be an AnnData or a SpatialData, got {type(data).__name__}."
    raise TypeError(msg)


@as_table.register
def _(data: ad.AnnData, *, table_key: str | None = None) -> ad.AnnData:
    return data


@as_table.register
def _(data: sd.SpatialData, *, table_key: str | None = None) -> ad.AnnData:
    name = "table" if table_key is None else table_key
    if name not in data.tables:
        fix = "Pass the table itself, `sdata.tables[...]`." if table_key is None else "Pass `table_key=`."
        raise missing_key(name, where="sdata.tables", have=data.tables, fix=fix)
    return data.tables[name]


def check_key(name: str, *, parameter: str = "key_added") -> str:
    """Return `name` if a result may be stored under it: SpatialData can write it, and nothing else is kept there.

    Parameters
    ----------
    name
        Where a result is to be stored.
    parameter
        What the user calls it.

    Returns
    -------
    `name`.

    Raises
    ------
    ValueError
        If nothing may be stored there.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[.-]*[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name[:2] == "__":
        raise bad_value(parameter, must="hold only letters, digits, '_', '.', '-'", got=name)
    if name in keys.RESERVED:
        raise bad_value(parameter, must="not be a name that holds something else", got=name)
    return name


def check_free(adata: ad.AnnData, name: str, *, verb: str, parameter: str = "key_added") -> None:
    """Raise if a result that is kept in ``obsm`` would take the place of what another verb made.

    Parameters
    ----------
    adata
        The table.
    name
        Where the result is to be stored; one of the same verb may be there and is replaced.
    verb
        Which verb, as `keys.IN_OBSM` names it, or one that has no results of its own there.
    parameter
        What the user calls `name`.

    Raises
    ------
    ValueError
        If it would.
    """
    wanted = {name + ending for ending in keys.IN_OBSM.get(verb, ("",))}
    for other in keys.IN_OBSM.keys() - {verb}:
        for key in adata.uns.get(keys.UNS, {}).get(other, {}):
            lost = sorted(wanted & {key + ending for ending in keys.IN_OBSM[other]} & set(adata.obsm))
            if lost:
                must = "not be a name that holds something else in `adata.obsm`"
                fix = f'{lost[0]!r} belongs to `uns["{keys.UNS}"]["{other}"]`: give the new result another name.'
                raise bad_value(parameter, must=must, got=name, fix=fix)


def get_rep(adata: ad.AnnData, use_rep: str, *, owner: str = "adata") -> Matrix:
    """``adata.obsm[use_rep]`` as a 2-D array, or an error that says what is there.

    A warning says if the embedding is out of date. Rows that were made differently, as after `anndata.concat`, are an
    error: their columns do not mean the same.

    Parameters
    ----------
    adata
        The table.
    use_rep
        Name of the embedding in ``obsm``.
    owner
        What the user calls the table.

    Returns
    -------
    Array (n_obs, D), NaN where a cell has none.

    Raises
    ------
    MissingKeyError
        If there is no such embedding.
    ValueError
        If it is no numeric 2-D array, or its rows were made differently.
    """
    if use_rep not in adata.obsm:
        raise missing_key(use_rep, where=f"{owner}.obsm", have=adata.obsm, fix="Run `lm.tl.embed` first.")
    found: Any = adata.obsm[use_rep]
    if isinstance(found, pd.DataFrame) and all(map(pd.api.types.is_numeric_dtype, found.dtypes)):
        found = found.to_numpy(np.float64, na_value=np.nan)  # columns that can be NA are objects otherwise
    rep = found.toarray() if sparse.issparse(found) else np.asarray(found)
    if rep.ndim != 2 or rep.dtype.kind not in "iuf":
        msg = f"`{owner}.obsm[{use_rep!r}]` must be a numeric 2-D array, got {rep.dtype} with shape {rep.shape}."
        raise ValueError(msg)
    _check_one_encoder(adata, use_rep, owner)
    warn_if_stale(adata, keys.EMBED, use_rep)
    return rep


def _check_one_encoder(adata: ad.AnnData, use_rep: str, owner: str) -> None:
    """Raise if the rows of an embedding say that they were made differently."""
    column = use_rep + keys.ENCODER
    if column not in adata.obs:
        return
    made = adata.obs[column].dropna().astype(str).value_counts()
    if len(made) > 1:
        shown = "; ".join(f"{n} cells: {words}" for words, n in made.items())
        msg = (
            f"`{owner}.obsm[{use_rep!r}]` mixes embeddings that were made differently and cannot be compared "
            f"({shown}). Embed all slides with the same model and settings, or select the rows of one."
        )
        raise ValueError(msg)
