"""Embedding of one slide: its nuclei, their crops, one vector per cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.log import logger
from lemon_sc._core.record import record_id, write_record
from lemon_sc._core.table import as_table
from lemon_sc._objects.nuclei import STAIN, crop_batches, extraction, nuclei_of
from lemon_sc.embed.devices import cuts_crops, resolve_devices, resolve_dtype
from lemon_sc.embed.run import embed_batches
from lemon_sc.models.registry import as_encoder
from lemon_sc.tl._embed_store import embed_to_store

if TYPE_CHECKING:
    import os

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from lemon_sc._objects.nuclei import Nuclei
    from lemon_sc.models.cards import ModelCard
    from lemon_sc.models.encoder import Encoder

CUT_AS = ("image_key", "shapes_key", "multiple", "mask")
"""What the record repeats of the extraction."""

DECIDES = ("model", "weights_sha256", "revision", "pooling", "input_px", "mpp", "dtype")
"""Settings without which the numbers would be others."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedded:
    """The embedding of a table.

    Attributes
    ----------
    rows
        float32 (n_obs, D), NaN for cells without.
    qc
        Verdict on each cell, (n_obs,).
    record
        What made it.
    """

    rows: NDArray[np.float32]
    qc: NDArray[Any]
    record: dict[str, Any]


def embed_table(
    data: AnnData | SpatialData,
    *,
    model: Any,
    table_key: str,
    device: str,
    batch_size: int | str,
    dtype: str,
    mask: str | None,
    store: str | os.PathLike[str] | None,
) -> Embedded:
    """Embed the nuclei of a table; parameters are those of `lm.tl.embed`."""
    adata = as_table(data, table_key=table_key)
    made = extraction(adata)  # asked before the model is loaded: a missing step is the likelier mistake
    encoder = as_encoder(model)
    card = encoder.card
    warn_if_other_window(made, card)
    usable = nuclei_of(adata)
    qc = adata.obs[keys.NUCLEUS_QC].to_numpy(dtype=object).copy()
    wanted: dict[str, Any] = {"size_px": card.input_px, "target_mpp": card.mpp, "mask": mask}
    wanted["uncut"] = cuts_crops(device, encoder)
    nuclei, batches, source = crop_batches(data, adata, usable, qc=qc, **wanted)
    if not len(nuclei):
        raise nothing_usable(adata.obs[keys.NUCLEUS_QC])
    if len(nuclei) < len(usable):
        cut_off = len(usable) - len(nuclei)
        logger.warning("%d nuclei lie too close to the border for crops of %d px: NaN", cut_off, card.input_px)
    record = {**describe(encoder, device=device, dtype=dtype), **{name: made[name] for name in CUT_AS}}
    record["mask"] = made["mask"] if mask is None else mask
    record[STAIN] = made.get(STAIN, "")
    how = {"device": device, "batch_size": batch_size, "dtype": record["dtype"]}
    if store is None:
        z = embed_batches(batches, encoder, n=len(nuclei), **how)
    else:
        nuclei, z = embed_to_store(
            store,
            data,
            adata,
            nuclei,
            encoder,
            source=source,
            crops=wanted | {"qc": qc},
            words=in_words(record),
            how=how,
        )
    rows = per_cell(z, nuclei, n_obs=adata.n_obs)
    rows[qc != keys.QC_OK] = np.nan
    n_embedded = int(np.isfinite(rows).all(axis=1).sum())
    if not n_embedded:  # their pixels say so
        raise nothing_usable(pd.Series(qc))
    return Embedded(rows=rows, qc=qc, record={**record, "crops_from": source, "n_embedded": n_embedded})


def nothing_usable(qc: pd.Series) -> ValueError:
    """An error that says why no cell has a usable nucleus."""
    counts = ", ".join(f"{n} {why}" for why, n in qc.value_counts().items() if n)
    return ValueError(f"No cell has a usable nucleus ({counts}): there is nothing to embed.")


def warn_if_other_window(made: dict[str, Any], card: ModelCard) -> None:
    """Say so if the model sees less, or more, of the tissue than the patches show."""
    if made.get(keys.UNIT) != keys.PATCH:
        return
    seen = card.input_px * card.mpp
    if not np.isclose(seen, made["size_um"], rtol=0.02):
        logger.warning(
            "%s sees squares of %g um, the patches have %g um: what lies around their centres is embedded. Extract "
            "patches of that size, or take a model for them",
            card.name,
            seen,
            made["size_um"],
        )


def write_embedded(adata: AnnData, made: Embedded, *, key_added: str) -> None:
    """Store an embedding in its table, with all that belongs to it."""
    # where `anndata.concat` drops the record, the words stay
    own = record_id(adata, keys.EMBED, key_added) or key_added + keys.ENCODER in adata.obs
    if key_added in adata.obsm and not own:
        logger.warning("adata.obsm[%r] held something that `lm.tl.embed` had not made; it is replaced", key_added)
    adata.obsm[key_added] = made.rows
    adata.obs[keys.NUCLEUS_QC] = pd.Categorical(made.qc, categories=list(keys.QC_CATEGORIES))
    words = pd.Series(in_words(made.record), index=adata.obs_names, dtype="category")
    adata.obs[key_added + keys.ENCODER] = words.where(np.isfinite(made.rows[:, 0]))
    decides = [*DECIDES, *CUT_AS]
    write_record(
        adata, keys.EMBED, made.record, key=key_added, decides=decides, made_from=record_id(adata, keys.NUCLEI)
    )
    n, dim = made.record["n_embedded"], made.record["dim"]
    logger.info("%s: %d of %d cells embedded, %d columns", key_added, n, adata.n_obs, dim)


def per_cell(z: NDArray[np.float32], nuclei: Nuclei, *, n_obs: int) -> NDArray[np.float32]:
    """Mean over the nuclei of each cell, (n_obs, D); NaN for cells without."""
    n = np.bincount(nuclei.row, minlength=n_obs)
    if n.max() <= 1:
        rows = np.full((n_obs, z.shape[1]), np.nan, dtype=np.float32)
        rows[nuclei.row] = z
        return rows
    order = np.argsort(nuclei.row, kind="stable")
    has = np.flatnonzero(n)
    sums = np.add.reduceat(z[order].astype(np.float64), np.cumsum(n[has]) - n[has], axis=0)
    rows = np.full((n_obs, z.shape[1]), np.nan, dtype=np.float32)
    rows[has] = sums / n[has, None]
    return rows


def in_words(record: dict[str, Any]) -> str:
    """What two rows must share to be comparable: encoder, weights, and what of the image it saw."""
    weights = f" sha256:{record['weights_sha256'][:12]}" if record["weights_sha256"] else ""
    pooling = f", pooling {record['pooling']}" if record["pooling"] else ""
    mask = f", mask {record['mask']}" if record["mask"] else ""
    several = "" if record["multiple"] != "mean" else ", mean of several nuclei"
    stain = f", stain {record[STAIN]}" if record[STAIN] else ""
    return f"{record['model']}{weights}, {record['input_px']} px at {record['mpp']:g} um{pooling}{mask}{several}{stain}"


def describe(encoder: Encoder, *, device: str, dtype: str) -> dict[str, Any]:
    """What the record says of the model and how it ran."""
    card: ModelCard = encoder.card
    devices = resolve_devices(device) if encoder.module is not None else ["cpu"]
    return {
        "model": card.name,
        "weights_sha256": card.sha256,
        "revision": card.revision,
        "pooling": card.pooling,
        "license": card.license,
        "dim": card.dim,
        "input_px": card.input_px,
        "mpp": card.mpp,
        "features": np.array(card.features, dtype=str),
        "dtype": resolve_dtype(dtype, devices[0], encoder),
        "device": ", ".join(devices),
    }
