"""The one place that knows the container types: SpatialData or AnnData in, AnnData out."""

from __future__ import annotations

import re
from functools import singledispatch
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import spatialdata as sd

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, missing_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.floating]


@singledispatch
def as_table(data: object, *, table_key: str = "table") -> ad.AnnData:
    """The table of `data`: an AnnData is passed through, of a SpatialData it is ``tables[table_key]``."""
    msg = f"`data` must be an AnnData or a SpatialData, got {type(data).__name__}."
    raise TypeError(msg)


@as_table.register
def _(data: ad.AnnData, *, table_key: str = "table") -> ad.AnnData:
    return data


@as_table.register
def _(data: sd.SpatialData, *, table_key: str = "table") -> ad.AnnData:
    if table_key not in data.tables:
        raise missing_key(table_key, where="sdata.tables", have=data.tables, fix="Pass `table_key=`.")
    return data.tables[table_key]


def check_key(name: str, *, parameter: str = "key_added") -> str:
    """Return `name` if a result may be stored under it: SpatialData can write it, and nothing else is kept there."""
    if not isinstance(name, str) or not re.fullmatch(r"[.-]*[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name[:2] == "__":
        raise bad_value(parameter, must="hold only letters, digits, '_', '.', '-'", got=name)
    if name in keys.RESERVED:
        raise bad_value(parameter, must="not be a name that holds something else", got=name)
    return name


def get_rep(adata: ad.AnnData, use_rep: str) -> Matrix:
    """``adata.obsm[use_rep]`` as a 2-D array, or an error that says what is there."""
    if use_rep not in adata.obsm:
        raise missing_key(use_rep, where="adata.obsm", have=adata.obsm, fix="Run `lm.tl.embed` first.")
    rep = np.asarray(adata.obsm[use_rep])
    if rep.ndim != 2 or not np.issubdtype(rep.dtype, np.number):
        msg = f"`adata.obsm[{use_rep!r}]` must be a numeric 2-D array, got {rep.dtype} with shape {rep.shape}."
        raise ValueError(msg)
    return rep
