"""What extractions of nuclei and of patches share: checks before, and what is written into the table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, listing
from lemon_sc._core.log import logger
from lemon_sc._core.record import record_id, write_record
from lemon_sc.crops.store import open_store
from lemon_sc.crops.stream import TARGET_MPP
from lemon_sc.pp._keep_crops import STORE_MEMORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from lemon_sc._objects.candidates import Candidates
    from lemon_sc._objects.choose import Found
    from lemon_sc._objects.nuclei import Nuclei
    from lemon_sc.io.elements import Scene
    from lemon_sc.pp._keep_crops import Kept


def check_store(store: object) -> None:
    """Raise unless crops may be kept there."""
    if store is not None and not isinstance(store, str | os.PathLike):
        raise bad_value("store", must='be None, "memory" or a path', got=store)
    if store is not None and store != STORE_MEMORY and Path(store).exists():
        open_store(store)  # raises unless it is a crop store, which may be replaced


def check_names(adata: ad.AnnData, table_key: str) -> None:
    """Raise if row names repeat or hold line breaks: crops are kept and found again by the name of their row."""
    twice = adata.obs_names[adata.obs_names.duplicated()].unique()
    if len(twice):
        msg = (
            f"`sdata.tables[{table_key!r}].obs_names` are not unique: {len(twice)} names repeat "
            f"({listing(twice, most=3)}). "
            "Call `.obs_names_make_unique()` on the table first."
        )
        raise ValueError(msg)
    broken = [name for name in adata.obs_names if "\n" in name]
    if broken:
        msg = f"`sdata.tables[{table_key!r}].obs_names` hold line breaks ({listing(broken, most=3)}). Rename them."
        raise ValueError(msg)


def describe(scene: Scene, candidates: Candidates, *, size_px: int, target_mpp: float = TARGET_MPP) -> dict[str, Any]:
    """What the record says of the geometry."""
    size = scene.pixel_size
    return {
        "mpp": np.array(size.mpp),
        "anisotropy": size.anisotropy,
        "rotation_deg": size.rotation_deg,
        "mirrored": size.mirrored,
        "affine": scene.to_pixel,
        "coordinate_system": scene.coordinate_system,
        "size_px": int(size_px),
        "target_mpp": float(target_mpp),
        "joined_by": candidates.join.by,
        "n_nuclei_without_cell": int((candidates.join.row < 0).sum()),
        "n_outlines_repaired": candidates.n_repaired,
    }


def write_found(
    adata: ad.AnnData,
    found: Found,
    nuclei: Nuclei,
    record: dict[str, Any],
    kept: Kept,
    *,
    decides: Sequence[str],
) -> None:
    """Write everything into the table, now that nothing can fail any more; `decides` names settings of the record."""
    extra = nuclei.take(nuclei.rank > 0)
    further: dict[str, Any] = {
        "obs_name": adata.obs_names.to_numpy(dtype=object)[extra.row].astype(str),
        "xy": extra.xy,
        "nucleus_id": extra.nucleus_id.astype(str),
        "rank": extra.rank,
    }
    before, known = record_id(adata, keys.NUCLEI), adata.obs.get(keys.NUCLEUS_QC)
    made = {**record, "extra": further, "store": kept.path, "store_id": kept.store_id}
    if kept.crops is not None:
        further["crops"] = kept.further
    write_record(adata, keys.NUCLEI, made, decides=decides)
    now = record_id(adata, keys.NUCLEI)
    qc = found.qc
    if known is not None and before == now:  # of the same pixels: what was seen in them still holds
        qc = np.where((qc == keys.QC_OK) & known.isin(keys.QC_FROM_PIXELS), known.astype(object), qc)
    if record.get(keys.UNIT) != keys.PATCH and keys.TISSUE_SHARE in adata.obs:
        logger.warning("the patches that the table held are replaced by nuclei")
        del adata.obs[keys.TISSUE_SHARE]
    adata.obs[keys.NUCLEUS_QC] = pd.Categorical(qc, categories=list(keys.QC_CATEGORIES))
    adata.obs[keys.EXTRACTION] = pd.Categorical([now] * adata.n_obs)
    adata.obs[keys.NUCLEUS_ID] = found.ids.astype(str)
    adata.obsm[keys.NUCLEUS_XY] = found.xy
    adata.obsm.pop(keys.NUCLEI, None)  # crops of an earlier run do not belong to these nuclei
    if kept.crops is not None:
        adata.obsm[keys.NUCLEI] = kept.crops


def report_verdicts(adata: ad.AnnData, record: dict[str, Any], words: str) -> None:
    """Say how many rows can be used, at what pixel size, and why the others cannot; `words` follow the numbers."""
    counts = adata.obs[keys.NUCLEUS_QC].value_counts().to_dict()
    lost = ", ".join(f"{n} {name}" for name, n in counts.items() if n and name != keys.QC_OK)
    mpp = " x ".join(f"{v:.4f}" for v in record["mpp"])
    say = logger.info if counts[keys.QC_OK] else logger.warning  # with none, nothing further can be done
    say(
        "%d of %d %s at %s um/px%s (joined by %s)",
        counts[keys.QC_OK],
        adata.n_obs,
        words,
        mpp,
        f"; {lost}" if lost else "",
        record["joined_by"],
    )
