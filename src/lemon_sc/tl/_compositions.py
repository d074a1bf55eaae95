"""The cell-type compositions that a table holds: where they are, which types, and which rows can be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lemon_sc._core.errors import bad_value, listing, missing_key
from lemon_sc._core.log import logger

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

KNOWN = (
    "q05_cell_abundance_w_sf",
    "means_cell_abundance_w_sf",
    "stereoscope",
    "rctd",
    "rctd_weights",
    "deconvolution",
    "proportions",
    "cell_type_proportions",
    "celltype_proportions",
    "cell_types",
)
"""Names, whatever their case, under which deconvolutions are kept in ``obsm``: of cell2location, stereoscope, RCTD."""

_OF_CELL2LOCATION = re.compile(r"^(q05|q95|means|stds)_?cell_abundance_w_sf_", re.IGNORECASE)
_SUM_TOLERANCE = 0.01
"""How far the sum of a row of proportions may be from one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Compositions:
    """Compositions of the rows of a table."""

    key: str
    """Where they are in ``obsm``."""
    types: list[str]
    values: NDArray[np.float64]
    """(n_obs, C); rows that cannot be used are NaN."""
    counts: dict[str, int]
    """Rows without a composition, and rows of zeros."""
    columns: NDArray[np.intp]
    """(C,) which columns of the table the types are."""
    left_out: list[str]
    """Types that not every group has."""


def find_compositions(adata: AnnData, key: str | None) -> tuple[str, pd.DataFrame]:
    """The table of compositions, by its name in ``obsm`` or by the names that deconvolutions give it.

    Parameters
    ----------
    adata
        The table.
    key
        Its name, or ``None``.

    Returns
    -------
    The name, and a table of float64 with a column per cell type. Columns of cell2location lose their prefix, and a
    slash in a name becomes ``_``, because no file can hold one.

    Raises
    ------
    MissingKeyError
        If there is none.
    ValueError
        If there are several, or it is not one number per row and type.
    """
    if key is None:
        key = _known(adata)
    if key not in adata.obsm:
        raise missing_key(key, where="adata.obsm", have=adata.obsm, fix="Pass `truth=`, the key of the compositions.")
    held = adata.obsm[key]
    if isinstance(held, pd.DataFrame):
        names = [_OF_CELL2LOCATION.sub("", str(column)).replace("/", "_") for column in held.columns]
    else:
        names = [f"type_{i}" for i in range(np.shape(held)[1])] if np.ndim(held) == 2 else []
    if len(names) < 2 or len(set(names)) < len(names):
        msg = f"`adata.obsm[{key!r}]` must have a column for each of two or more cell types, got {listing(names)}."
        raise ValueError(msg)
    try:
        values = np.asarray(held, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"`adata.obsm[{key!r}]` must hold numbers alone ({error})."
        raise ValueError(msg) from error
    if np.isinf(values).any() or (values < 0).any():
        bad = adata.obs_names[(np.isinf(values) | (values < 0)).any(axis=1)]
        msg = f"`adata.obsm[{key!r}]` must not be negative or infinite, it is in {len(bad)} rows: {listing(bad)}."
        raise ValueError(msg)
    return key, pd.DataFrame(values, index=adata.obs_names, columns=pd.Index(names, dtype=object))


def _known(adata: AnnData) -> str:
    there = {name.lower(): name for name in adata.obsm}
    found = [there[name] for name in KNOWN if name in there]
    if found and found[0].lower() == KNOWN[0]:  # cell2location leaves its means beside its lower quantiles
        found = [name for name in found if name.lower() != KNOWN[1]]
    if not found:
        raise missing_key(
            KNOWN[0],
            where="adata.obsm",
            have=adata.obsm,
            fix=f"Store a deconvolution there under its tool's name ({', '.join(KNOWN)}), or pass `truth=`.",
        )
    if len(found) > 1:
        raise bad_value("truth", must="say which composition is meant", got=found)
    return found[0]


def usable_compositions(table: pd.DataFrame, *, key: str, target: str, groups: pd.Series) -> Compositions:
    """Compositions of the types that every group has, ready to be learned.

    Parameters
    ----------
    table
        Of `find_compositions`.
    key
        Its name.
    target
        ``"abundance"`` or ``"proportion"``: rows are divided by their sum.
    groups
        Patient or cohort of each row, NaN where there is none. A type that is NaN in all rows of a group that has other
        types is not in that group's reference.

    Returns
    -------
    The compositions.

    Raises
    ------
    ValueError
        If fewer than two types are common to all groups, or rows of proportions do not sum to one.
    """
    known = table.notna()
    of_group = known.groupby(groups.astype(str).where(groups.notna())).any()
    of_group = of_group[of_group.any(axis=1)]  # a group without any composition is predicted, not learned from
    common = of_group.all(axis=0)
    if int(common.sum()) < 2:
        have = "; ".join(f"{name}: {listing(row.index[row])}" for name, row in of_group.iterrows())
        msg = (
            f"Fewer than two cell types of `adata.obsm[{key!r}]` are known in every group ({have or 'all is NaN'}). "
            "Give the types the same names in all groups."
        )
        raise ValueError(msg)
    kept = table.loc[:, common]
    whole = kept.notna().all(axis=1).to_numpy()
    if target == "proportion":
        _check_sums(table[whole], key)  # a row that lacks a type is not learned from, whatever the others sum to
    values = kept.to_numpy(dtype=np.float64, copy=True)
    total = values.sum(axis=1)
    empty = whole & (total <= 0)
    values[~whole | empty] = np.nan
    if target == "proportion":
        values /= np.where(whole & ~empty, total, 1.0)[:, None]
    if empty.any():
        logger.warning(
            "decompose: %d rows of obsm[%r] are all zero; they say nothing of the spot and are left out of training "
            "and scores: %s",
            int(empty.sum()),
            key,
            listing(table.index[empty]),
        )
    left_out = [str(name) for name in table.columns[~common]]
    if left_out:
        logger.warning("decompose: cell types that not every group has are left out: %s", listing(left_out))
    return Compositions(
        key=key,
        types=[str(name) for name in kept.columns],
        values=values,
        counts={"n_no_truth": int((~whole).sum()), "n_zero_truth": int(empty.sum())},
        columns=np.flatnonzero(common.to_numpy()),
        left_out=left_out,
    )


def _check_sums(table: pd.DataFrame, key: str) -> None:
    """An error where most rows sum to one, and some do not: something has gone wrong with those."""
    total = table.sum(axis=1, skipna=True)[table.notna().any(axis=1)]
    total = total[total > 0]
    off = (total - 1).abs() > _SUM_TOLERANCE
    if 0 < off.mean() < 0.5:
        rows = [f"{name} ({value:.3g})" for name, value in total[off].items()]
        msg = (
            f"Proportions must sum to one, but {len(rows)} of {len(total)} rows of `adata.obsm[{key!r}]` do not: "
            f"{listing(rows)}. Correct these rows, set them to NaN to leave them out, or divide all by their sums."
        )
        raise ValueError(msg)
