"""`lm.pp.normalize_stain`: show the crops of a slide in the stain of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.log import logger
from lemon_sc._core.record import ID, MADE_FROM, STALE, digest, record_id, write_record
from lemon_sc._core.table import as_table
from lemon_sc._objects.nuclei import STAIN, extraction
from lemon_sc._objects.stain import METHODS, reference_of, restained, slide_stain, values_of
from lemon_sc.crops.store import open_store, write_store
from lemon_sc.io.shards import DIGESTS
from lemon_sc.pp._extract_nuclei import DECIDES

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from lemon_sc._objects.stain import Estimate


@doc
def normalize_stain(
    data: AnnData | SpatialData,
    *,
    method: str = "macenko",
    reference: str | AnnData | SpatialData | None = None,
    store: str | os.PathLike[str] | None = None,
    table_key: str = "table",
) -> None:
    """Show the crops of a slide in the stain of another, so that slides differ less by their laboratory.

    The stain is estimated once for the slide, on 2,000 of its crops; of fewer than 1,000 nuclei, or masked ones, on
    patches of the slide's tissue, where `data` has the image. It is never estimated on a single nucleus, which holds
    too little eosin, and glass stays white. Normalise every slide to the same reference, before they are embedded.

    It removes differences of colour and of their strength, not those of focus, section thickness or tissue, and it can
    remove biology that colours the whole slide. Compare scores and `lm.metrics.group_identity` before and after.

    Parameters
    ----------
    %(data)s
        Crops must have been kept by `lm.pp.extract_nuclei`, in memory or in a store.
    method
        ``"macenko"``: the amounts of haematoxylin and eosin, shown in the reference's stain vectors and strengths.
        ``"randstainna"``: mean and standard deviation of the tissue's CIELAB channels, taken to the reference's.
    reference
        ``None``: the reference of published implementations. ``"tnbc"``, ``"nuinsseg"``, ``"brecahad"``,
        ``"midog21"``, ``"tcga"`` or ``"xenium"``: a typical slide of that set. A table or SpatialData with extracted
        nuclei: that slide, one of your own, say.
    store
        Where crops lie in a store: path of the new one. The old one is left as it is.
    %(table_key)s

    Returns
    -------
    Nothing. Changes in the table:

    `.obsm["nuclei"]`
        The crops in the new stain, where they are kept in memory.
    `.uns["lemon_sc"]["nuclei"]`
        ``stain``: method and reference in words. ``stain_fit``: what the slide's own stain was estimated on, and the
        numbers of both. ``store`` and ``store_id``, where crops lie in one. Embeddings of the crops before are marked
        as out of date; rows embedded before and after do not mix.

    Raises
    ------
    ValueError
        If no crops were kept, they were normalised before, `store` is missing or is the store that is read, or there is
        too little tissue to estimate from.

    References
    ----------
    M. Macenko et al., ISBI 2009. Y. Shen et al., RandStainNA, MICCAI 2022.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200, stain="tnbc")
    >>> lm.pp.extract_nuclei(sdata, store="memory")
    >>> lm.pp.normalize_stain(sdata, reference="xenium")
    >>> sdata["table"].uns["lemon_sc"]["nuclei"]["stain"]
    'macenko to xenium'
    """
    one_of("method", method, METHODS)
    adata = as_table(data, table_key=table_key)
    record = extraction(adata)
    _check(adata, record, store)
    name, target = reference_of(reference, method=method, table_key=table_key)
    own = slide_stain(data, method=method, table_key=table_key)
    made = {key: value for key, value in record.items() if key not in {ID, MADE_FROM, STALE, "version"}}
    made[STAIN] = f"{method} to {name}"
    made["stain_fit"] = {
        "fitted_on": own.fitted_on,
        "n_crops": own.n_crops,
        "own": values_of(own.estimate),
        "reference": values_of(target),
    }
    if keys.NUCLEI in adata.obsm:
        crops = _in_memory(adata, own.estimate, target)
        extra = dict(made["extra"])
        if "crops" in extra:
            extra["crops"] = restained(np.asarray(extra["crops"]), own.estimate, target)
        made["extra"] = extra
        adata.obsm[keys.NUCLEI] = crops
    else:
        made["store_id"] = _in_store(made, store, own.estimate, target)
        made["store"] = str(Path(str(store)).resolve())
    write_record(adata, keys.NUCLEI, made, decides=(*DECIDES, STAIN))
    adata.obs[keys.EXTRACTION] = pd.Categorical([record_id(adata, keys.NUCLEI)] * adata.n_obs)
    logger.info("stain: %s, fitted on %s", made[STAIN], own.fitted_on)


def _check(adata: AnnData, record: dict[str, Any], store: object) -> None:
    if record.get(STAIN):
        msg = (
            f"The crops were normalised before ({record[STAIN]}), which can be done once. Run `lm.pp.extract_nuclei` "
            "again for crops as they are in the image."
        )
        raise ValueError(msg)
    in_memory = keys.NUCLEI in adata.obsm
    if not in_memory and not record["store"]:
        msg = (
            "The table holds no crops, only where the nuclei lie. Keep them with "
            '`lm.pp.extract_nuclei(..., store="memory")` or a path, then normalise.'
        )
        raise ValueError(msg)
    if in_memory and store is not None:
        raise bad_value("store", must="be None for crops in memory, which are changed there", got=store)
    if not in_memory and (store is None or Path(str(store)).resolve() == Path(record["store"]).resolve()):
        raise bad_value("store", must=f"be the path of a new store, beside '{record['store']}'", got=store)


def _in_memory(adata: AnnData, own: Estimate, reference: Estimate) -> NDArray[np.uint8]:
    """All crops that there are, usable or not; rows without one stay zero."""
    crops = np.array(adata.obsm[keys.NUCLEI])
    rows = np.flatnonzero(adata.obs[keys.NUCLEUS_QC].isin([keys.QC_OK, *keys.QC_FROM_PIXELS]).to_numpy())
    crops[rows] = restained(crops[rows], own, reference)
    return crops


def _in_store(made: dict[str, Any], new: str | os.PathLike[str] | None, own: Estimate, reference: Estimate) -> str:
    """Write a store with the same crops in the new stain, and return its id."""
    before = open_store(made["store"])
    if before.attrs["id"] != made["store_id"]:
        msg = f"The crop store '{before.path}' is not the one these nuclei were extracted to. Extract them again."
        raise ValueError(msg)
    verdict = np.asarray(before.group["verdict"])

    def missing(todo: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
        wanted = np.zeros(len(before), dtype=bool)
        wanted[todo] = True
        for at, crops in before.batches(wanted):
            yield np.searchsorted(todo, at), {"crops": restained(crops, own, reference), "verdict": verdict[at]}

    settings = {name: value for name, value in before.attrs.items() if name not in _OF_STORE}
    return write_store(
        str(new),
        missing,
        obs_name=before.obs_name,
        xy=np.asarray(before.group["xy"]),
        rank=np.asarray(before.group["rank"]),
        size_px=before.size_px,
        attrs={**settings, STAIN: made[STAIN], "stain_of": made["store_id"], "stain_id": digest(made["stain_fit"])},
    )


_OF_STORE = frozenset({"schema", "id", "rows_per_shard", DIGESTS})
"""Attributes that a store writes itself."""
