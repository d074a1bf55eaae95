"""Pairs from a table whose nuclei, spots or bins were extracted; nothing of scverse is imported before it is called."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc.analysis.panel import is_gene
from lemon_sc.train.seal_pairs import Pairs

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from lemon_sc._objects.nuclei import Nuclei

ARRAY = ("array_row", "array_col")
"""Columns of ``obs`` with the place of a spot or bin on its lattice."""


def pairs_of(
    data: AnnData | SpatialData,
    *,
    slide: str | None = None,
    patient: str | None = None,
    layer: str | None = None,
    lattice: str | None = None,
    table_key: str = "table",
    licence: str = "",
) -> Pairs:
    """Pair the crops of an extraction with the counts of the same rows.

    Parameters
    ----------
    data
        SpatialData, or its table if that keeps its crops, after `lm.pp.extract_nuclei` or `lm.pp.extract_patches`.
    slide
        Column of ``obs``; ``None`` takes all rows for those of one slide.
    patient
        Column of ``obs``; ``None`` takes every slide for another patient.
    layer
        Layer with raw counts; ``None`` is ``X``.
    lattice
        ``"hexagonal"`` for Visium, ``"square"`` for bins and older arrays: where ``array_row`` and ``array_col`` of
        ``obs`` lie. ``None`` for units without a lattice.
    table_key
        The table of a SpatialData.
    licence
        Of the data, in words, for the card.

    Returns
    -------
    The pairs of all usable rows, with crops in memory. Crops that are still in the image are judged by their pixels as
    `lm.tl.embed` judges them. Units whose crops overlap are no negatives of each other.

    Raises
    ------
    MissingKeyError
        A column or layer that is not there, or no extraction.
    ValueError
        No usable row, no crops, or values that are no raw counts.
    """
    from lemon_sc._core.table import as_table
    from lemon_sc._objects.nuclei import extraction

    adata = as_table(data, table_key=table_key)
    record = extraction(adata)
    nuclei, crops = _usable(data, adata)
    types = adata.var["feature_types"].tolist() if "feature_types" in adata.var else None
    genes = is_gene(list(adata.var_names), types)
    mpp = float(record["target_mpp"])
    scale = np.asarray(record["mpp"], np.float64)
    return Pairs(
        crops=crops,
        counts=_counts(adata, layer)[nuclei.row][:, genes],
        genes=[str(name) for name in adata.var_names[genes]],
        slide=table_key if slide is None else _column(adata, slide)[nuclei.row],
        patient=None if patient is None else _column(adata, patient)[nuclei.row],
        mpp=mpp,
        xy_um=nuclei.xy * scale,
        touching_um=crops.shape[1] * mpp,
        array=None if lattice is None else np.stack([_column(adata, name)[nuclei.row] for name in ARRAY], axis=1),
        lattice=lattice,
        name=table_key,
        licence=licence,
    )


def _usable(data: AnnData | SpatialData, adata: AnnData) -> tuple[Nuclei, NDArray[np.uint8]]:
    """The first nucleus of each row, or its patch, and the crops; without those whose pixels are of no use."""
    from lemon_sc._objects.nuclei import crop_batches, extraction, nuclei_of

    qc = adata.obs[keys.NUCLEUS_QC].to_numpy(dtype=object).copy()  # what pixels tell is marked here, not in the table
    nuclei, batches, _ = crop_batches(data, adata, nuclei_of(adata), qc=qc)
    side = int(extraction(adata)["size_px"])
    crops = np.zeros((len(nuclei), side, side, 3), np.uint8)
    for index, pixels in batches:
        crops[index] = pixels
    kept = (qc[nuclei.row] == keys.QC_OK) & (nuclei.rank == 0)
    if not kept.any():
        raise bad_value("data", must="have rows with a usable crop", got=dict(Counter(qc)))
    return (nuclei, crops) if kept.all() else (nuclei.take(kept), crops[kept])


def _column(adata: AnnData, name: str) -> Any:
    if name not in adata.obs:
        raise missing_key(name, where="adata.obs", have=adata.obs.columns)
    return adata.obs[name].to_numpy()


def _counts(adata: AnnData, layer: str | None) -> Any:
    if layer is not None and layer not in adata.layers:
        raise missing_key(layer, where="adata.layers", have=adata.layers, fix="`layer=None` takes adata.X.")
    found = adata.X if layer is None else adata.layers[layer]
    if found is None:
        raise bad_value("layer", must="name the raw counts", got=None, fix="`adata.X` is empty.")
    return found
