"""Every name that lemon_sc writes into an object, in one place."""

from __future__ import annotations

from typing import Final

UNS: Final = "lemon_sc"
"""``adata.uns[UNS]``: one record per call, by verb and key."""

X_LEMON: Final = "X_lemon"
"""``adata.obsm[X_LEMON]``: the embedding."""
X_MORPHOMETRY: Final = "X_morphometry"
"""``adata.obsm[X_MORPHOMETRY]``: measurements beside the embedding, of the command line and the demo."""

NUCLEUS_QC: Final = "nucleus_qc"
"""``adata.obs[NUCLEUS_QC]``: one of `QC_CATEGORIES`."""

NUCLEUS_XY: Final = "nucleus_xy"
"""``adata.obsm[NUCLEUS_XY]``: nucleus centre in image px (level 0), (x, y), NaN without a nucleus."""

NUCLEUS_ID: Final = "nucleus_id"
"""``adata.obs[NUCLEUS_ID]``: id of the nucleus that stands for the cell, as text; empty without a nucleus."""

ENCODER: Final = "_encoder"
"""``adata.obs[use_rep + ENCODER]``: in words, which encoder made the row from what. Rows that differ do not mix."""

EXTRACTION: Final = "nucleus_extraction"
"""``adata.obs[EXTRACTION]``: id of the extraction that found the nucleus; joined tables hold several."""

UNIT: Final = "unit"
PATCH: Final = "patch"
"""``uns["lemon_sc"]["nuclei"][UNIT]`` is `PATCH` for patches, which were judged as a whole; nuclei lack the entry."""

TISSUE_SHARE: Final = "tissue_share"
"""``adata.obs[TISSUE_SHARE]``: share of a patch that is stained; NaN where it does not lie wholly in the image."""

N_NUCLEI: Final = "n_nuclei"
"""``adata.obs[N_NUCLEI]``: how many nuclei the cell has."""

CROWDING: Final = "nucleus_crowding"
"""``adata.obs[CROWDING]``: share of the crop that lies nearer to another nucleus; NaN without a nucleus."""

CROWDED: Final = "nucleus_crowded"
"""``adata.obs[CROWDED]``: whether that is more than half."""

NUCLEI: Final = "nuclei"
"""Record of `pp.extract_nuclei` in ``uns[UNS]``, and ``adata.obsm[NUCLEI]`` when crops are kept in memory."""

SEGMENT: Final = "segment"
"""Record of `pp.segment_nuclei` and `pp.add_nuclei` in ``uns[UNS]`` of the nuclei's own table."""

NUCLEUS_TYPE: Final = "nucleus_type"
"""``adata.obs[NUCLEUS_TYPE]``: type of a nucleus found in the H&E, categorical."""

NUCLEUS_PROBABILITY: Final = "nucleus_probability"
"""``adata.obs[NUCLEUS_PROBABILITY]``: how sure the model was, 0 to 1; NaN where nobody says."""

NUCLEUS_AREA: Final = "nucleus_area_um2"
"""``adata.obs[NUCLEUS_AREA]``: area of the outline."""

OWN_TABLE: Final = "_table"
"""Nuclei found in the H&E are ``sdata.shapes[key]``, and ``sdata.tables[key + OWN_TABLE]`` has a row for each."""

EMBED: Final = "embed"
"""Record of `tl.embed` in ``uns[UNS]``, one per ``key_added``."""

RETRIEVE: Final = "retrieve"
"""Record of `tl.retrieve` in ``uns[UNS]``, one per ``key_added``."""

POOL: Final = "pool"
"""Record of `tl.pool_nuclei` in ``uns[UNS]`` of the units' table, one per ``key_added``."""

SD: Final = "_sd"
"""``adata.obsm[key + SD]``: standard deviation of what was pooled to ``obsm[key]``."""

COUNT: Final = "_n"
"""``adata.obs[key + COUNT]``: how many nuclei were."""

PROBE: Final = "probe"
"""Record of `tl.probe` in ``uns[UNS]``, one per ``key_added``."""

DECOMPOSE: Final = "decompose"
"""Record of `tl.decompose` in ``uns[UNS]``, one per ``key_added``."""

DECOMPOSITION: Final = "decomposition"
"""``adata.obsm[DECOMPOSITION]``: cell-type compositions that were predicted."""

TRANSFER: Final = "transfer_labels"
"""Record of `tl.transfer_labels` in ``uns[UNS]``, one per ``key_added``."""

PROBABILITY: Final = "_probability"
"""``adata.obs[key + PROBABILITY]``: probability of the label in ``obs[key]``."""

IN_OBSM: Final = {EMBED: ("",), POOL: ("", SD), DECOMPOSE: ("",), TRANSFER: ("",)}
"""Verbs whose result under ``key`` is kept in ``obsm``, and the endings that its names there have."""

STAIN_ROBUSTNESS: Final = "stain_robustness"
"""Record of `tl.stain_robustness` in ``uns[UNS]``, one per ``key_added``."""

MORAN: Final = "moranI"
"""``adata.uns[MORAN]``: squidpy's table of Moran's I."""

SPOTS: Final = "spots"
"""``sdata.shapes[SPOTS]`` of the phantom, and ``sdata.tables[SPOTS + OWN_TABLE]``."""

CELL_TYPES: Final = "cell_types"
"""``adata.obsm[CELL_TYPES]`` of spots: share of each cell type, a data frame; NaN without cells."""

IMAGES: Final = "images"
"""``sdata.attrs[UNS][IMAGES][image_key]``: where an image came from and the pixel size its file states."""

RESERVED: Final = frozenset({UNS, NUCLEI, NUCLEUS_XY, "spatial", "spatialdata_attrs"})
"""Names in ``obsm`` and ``uns`` that hold something else; no result may take them."""

QC_OK: Final = "ok"
QC_NO_NUCLEUS: Final = "no_nucleus"
QC_OUTSIDE: Final = "outside_image"
QC_BORDER: Final = "border"
QC_BLANK: Final = "blank"
QC_OFF_TISSUE: Final = "off_tissue"
QC_PEN: Final = "pen"
QC_SATURATED: Final = "saturated"
QC_BLURRED: Final = "blurred"
QC_FROM_PIXELS: Final = (QC_BLANK, QC_OFF_TISSUE, QC_PEN, QC_SATURATED, QC_BLURRED)
"""Verdicts that need the crop itself, the first that applies."""
QC_CATEGORIES: Final = (QC_OK, QC_NO_NUCLEUS, QC_OUTSIDE, QC_BORDER, *QC_FROM_PIXELS)
