"""`lm.pp.extract_patches`: a square of tissue around every spot or bin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import logger, progress
from lemon_sc._core.table import as_table
from lemon_sc._objects.candidates import collect
from lemon_sc._objects.choose import check_somewhere, choose, nuclei_to_cut
from lemon_sc._objects.nuclei import cut
from lemon_sc._objects.stores import extraction_digest
from lemon_sc._objects.unit_sizes import warn_if_sizes_differ
from lemon_sc._objects.units import annotated
from lemon_sc.crops.qc import PATCH_PX, judge_patches
from lemon_sc.geometry.windows import check_mpp
from lemon_sc.io.elements import resolve
from lemon_sc.pp._extraction import check_names, check_store, describe, report_verdicts, write_found
from lemon_sc.pp._keep_crops import Kept, keep_crops

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import anndata as ad
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from lemon_sc._objects.choose import Found
    from lemon_sc._objects.nuclei import Nuclei
    from lemon_sc.io.elements import Scene

DECIDES = ("image_key", "shapes_key", keys.UNIT, "mpp", "affine", "content", "size_um", "target_mpp")
"""Settings without which the patches would show something else."""


@doc
def extract_patches(
    sdata: SpatialData,
    *,
    image_key: str = "he_image",
    shapes_key: str | None = None,
    table_key: str = "table",
    store: str | os.PathLike[str] | None = None,
    size_um: float = 112.0,
    target_mpp: float = 0.5,
    mpp: float | Sequence[float] | None = None,
) -> None:
    """Find a square of tissue around every spot or bin in the H&E; optionally cut and keep it.

    For Visium, Visium HD, Spatial Transcriptomics, and whatever else has a table of circles, squares, polygons, points
    or labels. A patch is centred on the centroid of its unit and read by the same engine as nuclei, block by block of
    the image. It takes the names that a nucleus has (``nucleus_qc``, ``nucleus_xy``, ...), so that everything that
    works on nuclei, `lm.tl.embed` first of all, works on it.

    Parameters
    ----------
    sdata
        SpatialData with the H&E image, the units and their table, as `spatialdata_io.visium` reads a Visium run.
    %(image_key)s
    shapes_key
        The units, in ``sdata.shapes``, ``.labels`` or ``.points``. ``None`` takes the element that the table annotates.
    %(table_key)s
    store
        ``None``: only find the patches; `lm.tl.embed` then reads pixels as it goes, at the size of its model.
        ``"memory"``: keep them in ``obsm["nuclei"]``. A path: write them to a zarr v3 crop store there, as
        `lm.pp.extract_nuclei` does.
    size_um, target_mpp
        Side of a patch in um, and um per px of the patch: 112 and 0.5 make 224 px.
    mpp
        um per image px, one number or (x, y), where the transformations cannot tell: units given in px of the image,
        as `spatialdata_io.visium` reads them. A warning says if the size of the units, their distance on Visium's
        array, or the table's ``scalefactors`` contradict it.

    Returns
    -------
    Nothing. Adds to the table:

    `.obs["nucleus_qc"]`
        Categorical: ok, no_nucleus (nothing lies there for the row), outside_image, border (patch not wholly inside),
        blank, off_tissue (no tissue in the disc of half its side), pen, saturated. Focus is not judged.
    `.obs["tissue_share"]`
        Share of the patch that is stained, float32; NaN where it does not lie wholly in the image.
    `.obs["nucleus_id"]`, `.obs["nucleus_extraction"]`
        Id of the unit; id of this extraction.
    `.obsm["nucleus_xy"]`
        Centre in level-0 image px, float64 (n_obs, 2).
    `.obsm["nuclei"]`
        With ``store="memory"``: patches, uint8 (n_obs, S, S, 3); zeros where there is none.
    `.uns["lemon_sc"]["nuclei"]`
        Image, shapes, pixel size, affine, size, and the store's path and id; ``unit`` is ``"patch"``.

    Raises
    ------
    MissingKeyError
        If the image, the units or the table is not there.
    ValueError
        If the image is not uint8 RGB, nothing relates it to the units, ids do not match, all units lie outside the
        image, their size shows that the coordinates are not in um, or the table holds nuclei already.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=500, spots=20.0)
    >>> lm.pp.extract_patches(sdata, table_key="spots_table", store="memory", size_um=56.0)
    >>> sdata["spots_table"].obsm["nuclei"].shape[1:]
    (112, 112, 3)
    """
    size_px = side_of(size_um, target_mpp)
    check_store(store)
    adata = as_table(sdata, table_key=table_key)
    check_names(adata, table_key)
    check_free(adata, table_key)
    shapes_key = annotated(adata, table_key) if shapes_key is None else shapes_key
    scene = resolve(sdata, image_key=image_key, shapes_key=shapes_key, mpp=mpp)
    candidates = collect(sdata, adata, scene, shapes_key=shapes_key, noun="units")
    if mpp is not None:
        warn_if_sizes_differ(adata, scene, candidates, shapes_key=shapes_key)
    found = choose(candidates, n_obs=adata.n_obs, scene=scene, size_px=size_px, target_mpp=target_mpp)
    check_somewhere(found, scene, shapes_key, noun="units")
    nuclei = nuclei_to_cut(found, candidates)
    share = judge(scene, nuclei, found, size_um=size_px * target_mpp)
    record = {
        "image_key": image_key,
        "shapes_key": shapes_key,
        "multiple": "largest",
        "mask": "",
        keys.UNIT: keys.PATCH,
        "size_um": size_px * target_mpp,
        "mpp_given": mpp is not None,
        **describe(scene, candidates, size_px=size_px, target_mpp=target_mpp),
        "content": extraction_digest(scene, candidates),
    }
    nuclei = nuclei.take(found.qc[nuclei.row] == keys.QC_OK)
    kept = Kept() if store is None else keep_crops(adata, scene, nuclei, found.qc, record, store=store)
    write_found(adata, found, nuclei, record, kept, decides=DECIDES)
    adata.obs[keys.TISSUE_SHARE] = share.astype(np.float32)
    report_verdicts(adata, record, f"units have a usable patch of {size_px * target_mpp:g} um")
    if record["n_nuclei_without_cell"]:
        logger.warning("%d units belong to no row of the table", record["n_nuclei_without_cell"])


def side_of(size_um: float, target_mpp: float) -> int:
    """Side of a patch in px, or an error if there is no such patch."""
    target, _ = check_mpp(target_mpp, name="target_mpp")
    if isinstance(size_um, bool) or not isinstance(size_um, int | float | np.number) or not 0 < size_um < np.inf:
        raise bad_value("size_um", must="be a finite number of um > 0", got=size_um)
    size = size_um / target
    if abs(size - round(size)) > 1e-6 * size or round(size) % 2 or round(size) < 8:
        near = max(2 * round(size / 2), 8)
        fix = f"{near * target:g} um make {near} px."
        raise bad_value("size_um", must=f"be an even number of px (8 or more) of {target:g} um", got=size_um, fix=fix)
    return round(size)


def check_free(adata: ad.AnnData, table_key: str) -> None:
    """Raise if the table holds nuclei: patches would take their names."""
    record = adata.uns.get(keys.UNS, {}).get(keys.NUCLEI)
    if record is not None and record.get(keys.UNIT) != keys.PATCH:
        msg = (
            f"`sdata.tables[{table_key!r}]` holds what `lm.pp.extract_nuclei` found, and patches would take its names. "
            "Pass the table of the spots or bins as `table_key=`, or give patches around cells a copy of the table."
        )
        raise ValueError(msg)


def judge(scene: Scene, nuclei: Nuclei, found: Found, *, size_um: float) -> NDArray[np.float64]:
    """Mark in ``found.qc`` the patches of no use, from thumbnails; share of tissue of each row, NaN where unknown."""
    share = np.full(len(found.qc), np.nan)
    how: dict[str, Any] = {"size_px": PATCH_PX, "target_mpp": size_um / PATCH_PX}
    with progress(total=len(nuclei), desc="Looking for tissue", unit="patches") as bar:
        for index, thumbnails in cut(scene, nuclei, **how):
            row = nuclei.row[index]
            found.qc[row], share[row] = judge_patches(thumbnails)
            bar.update(len(index))
    return share
