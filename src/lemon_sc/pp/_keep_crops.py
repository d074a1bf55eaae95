"""Cut the crops of an extraction, and keep them: in memory, or in a store that survives an interruption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.log import progress
from lemon_sc._objects.nuclei import cut, warn_slow
from lemon_sc._objects.stores import apply_verdicts, in_reading_order, verdict_codes
from lemon_sc.crops.store import open_store, write_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import anndata as ad
    from numpy.typing import NDArray

    from lemon_sc._objects.nuclei import Batches, Nuclei
    from lemon_sc.io.elements import Scene

STORE_MEMORY = "memory"


@dataclass(frozen=True, eq=False, kw_only=True)
class Kept:
    """Crops that were kept: in memory (one per cell, and of further nuclei), or in a store."""

    crops: NDArray[np.uint8] | None = None
    further: NDArray[np.uint8] | None = None
    path: str = ""
    store_id: str = ""


def keep_crops(
    adata: ad.AnnData,
    scene: Scene,
    nuclei: Nuclei,
    qc: NDArray[Any],
    record: dict[str, Any],
    *,
    store: str | os.PathLike[str],
) -> Kept:
    """Cut the crops of `nuclei`, and mark in `qc` the cells whose crops are of no use.

    Parameters
    ----------
    adata, scene
        The table, and image and nuclei.
    nuclei
        Which.
    qc
        Verdict on each row of the table.
    record
        What the record says of the extraction.
    store
        ``"memory"`` or a path.
    """
    warn_slow(scene, record["image_key"], len(nuclei), target_mpp=record["target_mpp"])
    if store == STORE_MEMORY:
        return in_memory(watched(scene, nuclei, qc, record), nuclei, n_obs=adata.n_obs, size_px=record["size_px"])
    nuclei = in_reading_order(scene, nuclei, size_px=record["size_px"], target_mpp=record["target_mpp"])

    def missing(todo: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
        part = nuclei if len(todo) == len(nuclei) else nuclei.take(todo)  # no copy of all
        del todo  # which need not be held while they are cut
        for at, crops in watched(scene, part, qc, record):
            yield at, {"crops": crops, "verdict": verdict_codes(qc[part.row[at]])}

    made = write_store(
        store,
        missing,
        obs_name=adata.obs_names.to_numpy(dtype=object)[nuclei.row],
        xy=nuclei.xy,
        rank=nuclei.rank,
        size_px=record["size_px"],
        attrs={k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in record.items()},
    )
    apply_verdicts(qc, nuclei.row, np.asarray(open_store(store).group["verdict"]))
    return Kept(path=str(Path(store).resolve()), store_id=made)


def watched(scene: Scene, nuclei: Nuclei, qc: NDArray[Any], record: dict[str, Any]) -> Batches:
    """Crops of `nuclei`, with a progress bar; patches have been judged before."""
    unit = "patches" if record.get(keys.UNIT) == keys.PATCH else "nuclei"
    with progress(total=len(nuclei), desc=f"Cutting {unit}", unit=unit) as bar:
        how: dict[str, Any] = {name: record[name] for name in ("size_px", "target_mpp", "mask")}
        judged = None if record.get(keys.UNIT) == keys.PATCH else qc
        for index, crops in cut(scene, nuclei, qc=judged, **how):
            bar.update(len(index))
            yield index, crops


def in_memory(batches: Batches, nuclei: Nuclei, *, n_obs: int, size_px: int) -> Kept:
    """Collect crops: one per cell of the table, zeros where there is none, and those of further nuclei."""
    n_first = int((nuclei.rank == 0).sum())
    crops = np.zeros((n_obs, size_px, size_px, 3), dtype=np.uint8)
    further = np.zeros((len(nuclei) - n_first, size_px, size_px, 3), dtype=np.uint8)
    for index, pixels in batches:
        first = index < n_first
        crops[nuclei.row[index[first]]] = pixels[first]
        further[index[~first] - n_first] = pixels[~first]
    return Kept(crops=crops, further=further)
