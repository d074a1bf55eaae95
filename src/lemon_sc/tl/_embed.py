"""`lm.tl.embed`: one vector per nucleus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.log import logger
from lemon_sc._core.record import write_record
from lemon_sc._core.table import as_table, check_key
from lemon_sc._objects.nuclei import crop_batches, extraction, nuclei_of
from lemon_sc.embed.devices import resolve_devices, resolve_dtype
from lemon_sc.embed.run import embed_batches
from lemon_sc.models.registry import as_encoder

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from lemon_sc._objects.nuclei import Nuclei
    from lemon_sc.models.cards import ModelCard
    from lemon_sc.models.encoder import Encoder


@doc
def embed(
    data: AnnData | SpatialData,
    *,
    model: Any = None,
    key_added: str = keys.X_LEMON,
    table_key: str = "table",
    device: str = "auto",
    batch_size: int | str = "auto",
    dtype: str = "auto",
) -> None:
    """Embed the nucleus of every cell.

    Crops come from memory or a store if `lm.pp.extract_nuclei` kept them, else straight from the image. The model's
    card decides their size and pixel size. The result does not depend on batch size, order or device count.

    Parameters
    ----------
    %(data)s
        The SpatialData is needed where crops were not kept.
    model
        ``None`` (`morphometry`, interpretable, needs no weights), a name of `lm.models.available`, the path of a
        checkpoint, an `lm.models.Encoder`, or a pair of a `torch.nn.Module` or callable and its `lm.models.ModelCard`.
    %(key_added)s
    %(table_key)s
    %(device)s
    %(batch_size)s
    %(dtype)s

    Returns
    -------
    Nothing. Adds to the table:

    `.obsm[key_added]`
        Float32 (n_obs, D); NaN rows where ``nucleus_qc`` is not ok.
    `.uns["lemon_sc"]["embed"][key_added]`
        Model, digest and licence of its weights, crop size and pixel size, precision, device, column names if they
        have a meaning, where the crops came from, package version.
    `.obs["nucleus_qc"]`
        Where crops come straight from the image, blank and blurred ones are marked now.

    Raises
    ------
    MissingKeyError
        If `lm.pp.extract_nuclei` has not run.
    ValueError
        If no nucleus is usable, the crops are not at hand, or the model is unknown.
    RuntimeError
        If the output is not finite, or the same for all crops.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.extract_nuclei(sdata)
    >>> lm.tl.embed(sdata)
    >>> sdata["table"].obsm["X_lemon"].shape[0]
    200
    """
    check_key(key_added)
    adata = as_table(data, table_key=table_key)
    made = extraction(adata)  # asked before the model is loaded: a missing step is the likelier mistake
    encoder = as_encoder(model)
    card = encoder.card
    usable = nuclei_of(adata)
    qc = adata.obs[keys.NUCLEUS_QC].to_numpy(dtype=object).copy()
    nuclei, batches, source = crop_batches(data, adata, usable, size_px=card.input_px, target_mpp=card.mpp, qc=qc)
    if not len(nuclei):
        counts = adata.obs[keys.NUCLEUS_QC].value_counts().to_dict()
        msg = f"No cell has a usable nucleus ({counts}): there is nothing to embed."
        raise ValueError(msg)
    if len(nuclei) < len(usable):
        cut_off = len(usable) - len(nuclei)
        logger.warning("%d nuclei lie too close to the border for crops of %d px: NaN", cut_off, card.input_px)
    z = embed_batches(batches, encoder, n=len(nuclei), device=device, batch_size=batch_size, dtype=dtype)
    rows = per_cell(z, nuclei, n_obs=adata.n_obs)
    rows[qc != keys.QC_OK] = np.nan
    adata.obsm[key_added] = rows
    adata.obs[keys.NUCLEUS_QC] = pd.Categorical(qc, categories=list(keys.QC_CATEGORIES))
    n_embedded = int(np.isfinite(rows).all(axis=1).sum())
    cut_as = {name: made[name] for name in ("image_key", "shapes_key", "multiple", "mask")}
    record = {**describe(encoder, device=device, dtype=dtype), **cut_as}
    write_record(adata, keys.EMBED, {**record, "crops_from": source, "n_embedded": n_embedded}, key=key_added)
    logger.info("%s: %d of %d cells embedded, %d columns", key_added, n_embedded, adata.n_obs, card.dim)


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
