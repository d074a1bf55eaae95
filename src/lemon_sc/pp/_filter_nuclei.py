"""`lm.pp.filter_nuclei`: keep the cells whose nucleus is of use."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import spatialdata as sd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, missing_key, one_of
from lemon_sc._core.log import logger
from lemon_sc._core.record import MADE_FROM, record_id
from lemon_sc._core.table import as_table
from lemon_sc.io.ids import ATTRS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray


def verdicts_to_keep(keep: str | Sequence[str]) -> list[str]:
    """`keep` as a list of verdicts that exist."""
    names = [keep] if isinstance(keep, str) else list(keep)
    for name in names:
        one_of("keep", name, keys.QC_CATEGORIES)
    if not names:
        raise bad_value("keep", must="name at least one verdict", got=keep)
    return names


def check_table(adata: AnnData, max_crowding: float | None) -> None:
    """Raise if there is nothing to filter by, or no table in memory to filter."""
    for key in (keys.NUCLEUS_QC, *([] if max_crowding is None else [keys.CROWDING])):
        if key not in adata.obs:
            fix = "Run `lm.pp.extract_nuclei` first."
            raise missing_key(key, where="adata.obs", have=adata.obs.columns, fix=fix)
    number = isinstance(max_crowding, int | float | np.number) and not isinstance(max_crowding, bool)
    if max_crowding is not None and not (number and 0 <= max_crowding <= 1):
        raise bad_value("max_crowding", must="be a number from 0 to 1, or None", got=max_crowding)
    if adata.isbacked:
        msg = "The table is backed by a file, whose rows cannot be taken out. Read it with `adata = adata.to_memory()`."
        raise ValueError(msg)


def find_kept(adata: AnnData, keep: Sequence[str], max_crowding: float | None) -> tuple[NDArray[np.bool_], list[str]]:
    """Which rows stay, (n_obs,), and in words why the others go."""
    qc = adata.obs[keys.NUCLEUS_QC].astype(str)
    kept = qc.isin(list(keep)).to_numpy()
    reasons = [f"{n} {name}" for name, n in qc[~kept].value_counts().items()]
    if max_crowding is not None:
        crowded = kept & (adata.obs[keys.CROWDING].to_numpy() > max_crowding)
        reasons += [f"{crowded.sum()} crowded by more than {max_crowding:g}"] if crowded.any() else []
        kept &= ~crowded
    if not kept.any():
        msg = f"No cell would be left ({', '.join(reasons)}). `keep` and `max_crowding` ask for too much."
        raise ValueError(msg)
    return kept, reasons


def take_rows(adata: AnnData, kept: NDArray[np.bool_]) -> None:
    """Keep these rows, in place; the table names only those regions that it still annotates."""
    adata._inplace_subset_obs(kept)  # as scanpy's filters do
    attrs = adata.uns.get(ATTRS, {})
    if isinstance(attrs.get("region"), list | np.ndarray):
        left = set(adata.obs[attrs["region_key"]])
        adata.uns[ATTRS] = {**attrs, "region": [region for region in attrs["region"] if region in left]}


@doc
def filter_nuclei(
    data: AnnData | sd.SpatialData,
    *,
    keep: str | Sequence[str] = keys.QC_OK,
    max_crowding: float | None = None,
    table_key: str = "table",
    copy: bool = False,
) -> Any:
    """Keep the cells whose nucleus is of use, and say how many others there were and why.

    Verdicts that need pixels are known once crops were kept or embedded; before that, only the geometry is.

    Parameters
    ----------
    %(data)s
    keep
        Verdict or verdicts of ``obs["nucleus_qc"]`` to keep.
    max_crowding
        Most that ``obs["nucleus_crowding"]`` may be, from 0 to 1. ``None`` sets no limit.
    %(table_key)s
    copy
        Return a filtered copy, and leave `data` as it is. The copy of a SpatialData has a table of its own and shares
        images and nuclei.

    Returns
    -------
    Nothing, or with ``copy=True`` the filtered object. Rows of the table are taken out in place. Nuclei and images stay
    as they are; crops in memory are filtered along, and a crop store is read by the names of the cells that are left.

    Raises
    ------
    MissingKeyError
        `lm.pp.extract_nuclei` has not been run.
    ValueError
        A verdict that does not exist, a limit beyond 0 to 1, a table backed by a file, or no cell would be left.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.extract_nuclei(sdata, store="memory")
    >>> lm.pp.filter_nuclei(sdata)
    >>> set(sdata["table"].obs["nucleus_qc"])
    {'ok'}
    """
    adata = as_table(data, table_key=table_key)
    names = verdicts_to_keep(keep)
    check_table(adata, max_crowding)
    kept, reasons = find_kept(adata, names, max_crowding)
    if not pixels_were_seen(adata):
        logger.warning(
            "No pixels have been looked at yet, so %s nuclei are still among them. Filter after `lm.tl.embed`, or keep "
            "crops in `lm.pp.extract_nuclei`",
            ", ".join(keys.QC_FROM_PIXELS),
        )
    n_obs = adata.n_obs
    if copy:
        adata = adata.copy()
    take_rows(adata, kept)
    logger.info("%d of %d cells kept%s", kept.sum(), n_obs, f"; {', '.join(reasons)}" if reasons else "")
    if not copy:
        return None
    return with_table(data, adata, table_key) if isinstance(data, sd.SpatialData) else adata


def with_table(sdata: sd.SpatialData, adata: AnnData, table_key: str) -> sd.SpatialData:
    """A SpatialData that shares all elements with `sdata` but this table."""
    elements = {name: element for _, name, element in sdata.gen_elements() if name != table_key}
    return sd.SpatialData.init_from_elements({**elements, table_key: adata}, attrs=deepcopy(dict(sdata.attrs)))


def pixels_were_seen(adata: AnnData) -> bool:
    """Whether verdicts that need pixels are known: crops were kept, or these nuclei embedded."""
    home = adata.uns.get(keys.UNS, {})
    of = record_id(adata, keys.NUCLEI)
    embedded = any(record.get(MADE_FROM) == of for record in home.get(keys.EMBED, {}).values())
    return keys.NUCLEI in adata.obsm or bool(home.get(keys.NUCLEI, {}).get("store")) or embedded
