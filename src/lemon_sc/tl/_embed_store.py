"""Embedding that survives: rows are committed to a store as they come, and an interrupted run goes on there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import spatialdata as sd
import zarr

from lemon_sc._core.log import logger
from lemon_sc._objects.nuclei import crop_batches, extraction, scene_of
from lemon_sc._objects.stores import apply_verdicts, content_digest, in_reading_order, source_digest, verdict_codes
from lemon_sc.embed.run import encoded
from lemon_sc.io.shards import Field, writing

if TYPE_CHECKING:
    import os

    import anndata as ad
    from numpy.typing import NDArray

    from lemon_sc._objects.nuclei import Nuclei
    from lemon_sc.models.encoder import Encoder

SCHEMA = "lemon_sc.embedding/1"


def check_store(path: str | os.PathLike[str]) -> None:
    """Raise if there is something at `path` that is no store of embeddings, so that nothing else is overwritten."""
    if not Path(path).exists():
        return
    try:
        schema = zarr.open_group(path, mode="r").attrs.get("schema")
    except (zarr.errors.BaseZarrError, ValueError, OSError):
        schema = None
    if schema != SCHEMA:
        msg = f"'{path}' exists and is not a store of embeddings (schema {schema!r}). Choose another path."
        raise ValueError(msg)


def embed_to_store(
    path: str | os.PathLike[str],
    data: ad.AnnData | sd.SpatialData,
    adata: ad.AnnData,
    nuclei: Nuclei,
    encoder: Encoder,
    *,
    source: str,
    crops: dict[str, Any],
    words: str,
    how: dict[str, Any],
) -> tuple[Nuclei, NDArray[np.float32]]:
    """Embed `nuclei` into the store at `path`, or what is missing there.

    Parameters
    ----------
    path
        Zarr group: ``z`` float32 (n, D), ``qc`` uint8 (n,), ``obs_name``, ``rank``, in reading order.
    data, adata, nuclei
        SpatialData or table; the table; nuclei that have a crop.
    encoder
        The model.
    source
        Where the crops are.
    crops
        Size, scale and mask of the crops, and ``qc``, the verdict on each row of the table: those found now, or kept
        from an earlier run, are marked.
    words
        What decides the numbers: model, weights, scale, mask.
    how
        ``device``, ``batch_size`` and ``dtype``.

    Returns
    -------
    The nuclei in the order of the store, and their embeddings, (n, D).
    """
    card, qc = encoder.card, crops["qc"]
    if encoder.function is not None and not card.features and not card.sha256:
        logger.warning(
            "Model %r is a function, which has no digest: '%s' knows its rows by that name alone. Use another name, or "
            "another store, when the function changes",
            card.name,
            path,
        )
    check_store(path)
    if source == "image" and isinstance(data, sd.SpatialData):
        scene = scene_of(data, extraction(adata))
        nuclei = in_reading_order(scene, nuclei, size_px=card.input_px, target_mpp=card.mpp)
    names = adata.obs_names.to_numpy(dtype=object)[nuclei.row]
    with writing(
        path,
        id=content_digest(adata, nuclei, source_digest(data, adata, source), words, how["dtype"]),
        n=len(nuclei),
        fields={"z": Field(dtype="float32", shape=(card.dim,)), "qc": Field(dtype="uint8")},
        attrs={"schema": SCHEMA, "made_by": words},
        fixed={
            "obs_name": np.frombuffer("\n".join(map(str, names)).encode(), dtype=np.uint8),
            "rank": nuclei.rank,
            "xy": nuclei.xy,
        },
    ) as shards:
        todo = np.flatnonzero(shards.todo)
        if len(todo):
            part = nuclei if len(todo) == len(nuclei) else nuclei.take(todo)  # no copy of all
            _, batches, _ = crop_batches(data, adata, part, **crops)
            made = encoded(batches, encoder, n=len(part), **how)
            shards.take((todo[at], {"z": z, "qc": verdict_codes(qc[part.row[at]])}) for at, z in made)
    group = zarr.open_group(path, mode="r")
    apply_verdicts(qc, nuclei.row, np.asarray(group["qc"]))
    return nuclei, np.asarray(group["z"])
