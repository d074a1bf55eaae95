"""`lm.pp.extract_nuclei`: find the nucleus of every cell in the H&E, and cut it out if asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.log import logger
from lemon_sc._core.table import as_table
from lemon_sc._objects.candidates import MULTIPLE, collect
from lemon_sc._objects.choose import check_somewhere, choose, crowding_of, nuclei_to_cut
from lemon_sc._objects.per_nucleus import nucleus_table
from lemon_sc._objects.stores import extraction_digest
from lemon_sc.crops.mask import MASKS
from lemon_sc.io.elements import resolve
from lemon_sc.pp._extraction import check_names, check_store, describe, report_verdicts, write_found
from lemon_sc.pp._keep_crops import Kept, keep_crops

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import anndata as ad
    from spatialdata import SpatialData

DECIDES = ("image_key", "shapes_key", "multiple", "mask", "mpp", "affine", "content")
"""Settings without which the crops would show something else."""

CROWDED = 0.5
"""A nucleus is crowded if more than this share of its crop lies nearer to other nuclei."""


def check_arguments(store: object, multiple: str, size_px: int, mask: str | None) -> None:
    """Raise on arguments that cannot work, before anything is read."""
    one_of("multiple", multiple, MULTIPLE)
    if mask is not None:
        one_of("mask", mask, MASKS)
    if isinstance(size_px, bool) or not isinstance(size_px, int | np.integer) or size_px < 8 or size_px % 2:
        raise bad_value("size_px", must="be an even int >= 8 (40 to embed, 60 to train)", got=size_px)
    check_store(store)


def check_own_table(sdata: SpatialData) -> None:
    """Raise if the table that ``multiple="all"`` writes is there already and is not one of ours."""
    if keys.NUCLEI in sdata.tables and keys.NUCLEI not in sdata.tables[keys.NUCLEI].uns.get(keys.UNS, {}):
        msg = f'`sdata.tables["{keys.NUCLEI}"]` exists and was not made by this function. Rename it first.'
        raise ValueError(msg)


@doc
def extract_nuclei(
    sdata: SpatialData,
    *,
    image_key: str = "he_image",
    shapes_key: str = "nucleus_boundaries",
    table_key: str = "table",
    store: str | os.PathLike[str] | None = None,
    multiple: str = "largest",
    size_px: int = 40,
    mask: str | None = None,
    mpp: float | Sequence[float] | None = None,
) -> None:
    """Find the nucleus of every cell in the H&E; optionally cut and keep its crop.

    All transformations between nuclei and image are honoured (scale, rotation, flip, shear); the pixel size follows
    from them and is never guessed. A crop shows ``size_px * 0.25`` um, centred on the area-weighted centroid of the
    nucleus to sub-pixel accuracy, resampled once with an anti-aliased bicubic kernel. The image is read block by
    block, each block once.

    Parameters
    ----------
    %(sdata)s
    %(image_key)s
    %(shapes_key)s
    %(table_key)s
    store
        ``None``: only find the nuclei; `lm.tl.embed` then reads pixels as it goes. ``"memory"``: keep the crops in
        ``obsm["nuclei"]``. A path: write them to a zarr v3 crop store there (replaces an older crop store). A run that
        was interrupted, or killed, goes on there when the same call is made again.
    multiple
        Cells with several nuclei: ``"largest"`` takes the largest; ``"mean"`` embeds all and averages the embeddings;
        ``"all"`` makes a table of its own, ``sdata["nuclei"]``, with one row per nucleus and its cell's expression; run
        again, it makes that table anew, without what was computed in the old one.
    size_px
        Side of the crop in px of 0.25 um: 40 to embed, 60 to train (a 40 px crop can then be rotated freely).
    mask
        ``"nucleus"`` whites out all but the nucleus, ``"ring"`` whites out the nucleus and keeps what surrounds it.
    mpp
        um per image px, one number or (x, y), where the transformations cannot tell (nuclei given in px).

    Returns
    -------
    Nothing. Adds to the table:

    `.obs["nucleus_qc"]`
        Categorical: ok, no_nucleus, outside_image, border (window not wholly inside), blank, off_tissue, pen,
        saturated, blurred. The last five need pixels: with ``store=None`` they are found by `lm.tl.embed`. Where the
        nuclei of a cell are averaged, the gravest verdict counts.
    `.obs["nucleus_id"]`, `.obs["n_nuclei"]`
        Id of the nucleus taken, and how many the cell has.
    `.obs["nucleus_extraction"]`
        Id of this extraction, so that rows of several are told apart after `anndata.concat`.
    `.obs["nucleus_crowding"]`, `.obs["nucleus_crowded"]`
        Share of the 10 um window that lies nearer to the centre of another nucleus, float32, NaN without a nucleus;
        and whether that is more than half. For information: such nuclei are embedded.
    `.obsm["nucleus_xy"]`
        Centre in level-0 image px, float64 (n_obs, 2), NaN without a nucleus.
    `.obsm["nuclei"]`
        With ``store="memory"``: crops, uint8 (n_obs, S, S, 3); zeros where there is no nucleus, or its window is not
        wholly inside the image.
    `.uns["lemon_sc"]["nuclei"]`
        Image, shapes, pixel size, affine, policy, and the store's path and id.

    Raises
    ------
    MissingKeyError
        If the image, the nuclei or the table is not there.
    ValueError
        If the image is not uint8 RGB, nothing relates it to the nuclei, ids do not match, all nuclei lie outside the
        image, or their size shows that the units are wrong.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.extract_nuclei(sdata, store="memory")
    >>> sdata["table"].obsm["nuclei"].shape
    (200, 40, 40, 3)
    """
    check_arguments(store, multiple, size_px, mask)
    adata = as_table(sdata, table_key=table_key)
    check_names(adata, table_key)
    scene = resolve(sdata, image_key=image_key, shapes_key=shapes_key, mpp=mpp)
    if mask is not None and scene.kind == "points":
        raise bad_value("mask", must="be None for plain centroids, which have no outline", got=mask)
    if multiple == "all":
        check_own_table(sdata)
    candidates = collect(sdata, adata, scene, shapes_key=shapes_key)
    if multiple == "all":
        adata, candidates = nucleus_table(adata, candidates, shapes_key=shapes_key)
    keep_further = multiple == "mean"
    found = choose(candidates, n_obs=adata.n_obs, scene=scene, size_px=size_px, keep_further=keep_further)
    check_somewhere(found, scene, shapes_key)
    record = {
        "image_key": image_key,
        "shapes_key": shapes_key,
        "multiple": multiple,
        "mask": mask or "",
        "mpp_given": mpp is not None,
        **describe(scene, candidates, size_px=size_px),
        "content": extraction_digest(scene, candidates),
    }
    nuclei = nuclei_to_cut(found, candidates)
    crowding = crowding_of(found, candidates, scene)
    kept = Kept() if store is None else keep_crops(adata, scene, nuclei, found.qc, record, store=store)
    write_found(adata, found, nuclei, record, kept, decides=DECIDES)
    adata.obs[keys.N_NUCLEI] = found.n_nuclei.astype(np.int32)
    adata.obs[keys.CROWDING] = crowding.astype(np.float32)
    adata.obs[keys.CROWDED] = crowding > CROWDED
    report(adata, record)
    if multiple == "all":
        sdata[keys.NUCLEI] = adata


def report(adata: ad.AnnData, record: dict[str, Any]) -> None:
    """Say what was found and what was not."""
    report_verdicts(adata, record, "cells have a usable nucleus")
    if record["n_nuclei_without_cell"]:
        logger.warning("%d nuclei belong to no cell of the table", record["n_nuclei_without_cell"])
    if record["n_outlines_repaired"]:
        logger.warning("%d outlines cross themselves; their largest part is used", record["n_outlines_repaired"])
