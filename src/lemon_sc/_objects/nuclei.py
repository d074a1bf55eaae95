"""The nuclei that a table remembers, and their crops wherever they are: memory, store, or still the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import spatialdata as sd

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, listing, missing_key
from lemon_sc._core.record import ID, read_record
from lemon_sc._core.table import as_table
from lemon_sc._objects.outlines import outlines_in_pixels
from lemon_sc.crops.mask import WHITE, apply_mask, outline_masks
from lemon_sc.crops.qc import QC_MPP, QC_PX, judge
from lemon_sc.crops.store import open_store, positions
from lemon_sc.crops.stream import BLOCK_PX, TARGET_MPP, blocks_of, stream_crops
from lemon_sc.crops.uncut import Uncut, stream_uncut
from lemon_sc.geometry.windows import choose_level, inside, window_side
from lemon_sc.io.elements import resolve
from lemon_sc.io.layout import warn_if_slow
from lemon_sc.io.shards import SHARD

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad
    from numpy.typing import NDArray

    from lemon_sc.io.elements import Scene

    Batches = Iterator[tuple[NDArray[np.int64], Any]]  # crops, uint8 (b, S, S, 3), or `Uncut`

EXTRACT_FIRST = "Run `lm.pp.extract_nuclei` first."
STAIN = "stain"
"""Entry of the extraction's record: how `lm.pp.normalize_stain` changed the crops."""
MEMORY_BATCH = 20 << 20
"""Bytes of the crops that are taken from memory at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Nuclei:
    """Nuclei of a table: one per cell, and under the policy "mean" further ones.

    Attributes
    ----------
    row
        Table row of each nucleus, (m,).
    xy
        Centre in level-0 image px, (m, 2).
    nucleus_id
        Id as text, (m,).
    rank
        0 for the nucleus that stands for the cell, 1 and on for further ones, (m,).
    """

    row: NDArray[np.int64]
    xy: NDArray[np.float64]
    nucleus_id: NDArray[Any]
    rank: NDArray[np.int64]

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Nuclei:
        """Some of them."""
        return Nuclei(row=self.row[index], xy=self.xy[index], nucleus_id=self.nucleus_id[index], rank=self.rank[index])

    def __len__(self) -> int:
        return len(self.row)


def extraction(adata: ad.AnnData) -> dict[str, Any]:
    """Record of `lm.pp.extract_nuclei`."""
    record = read_record(adata, keys.NUCLEI, fix=EXTRACT_FIRST)
    rows = adata.obs.get(keys.EXTRACTION)
    if "mask" not in record or (rows is not None and not (rows == record[ID]).all()):
        msg = (
            "The table holds nuclei of several extractions, as after `anndata.concat`, and a record of at most one of "
            "them. Embed each slide before joining them, and draw crops of one slide at a time."
        )
        raise ValueError(msg)
    for where, name in (("obs", keys.NUCLEUS_QC), ("obs", keys.NUCLEUS_ID), ("obsm", keys.NUCLEUS_XY)):
        if name not in (have := getattr(adata, where)):
            raise missing_key(name, where=f"adata.{where}", have=have.keys(), fix=EXTRACT_FIRST)
    return record


def nuclei_of(adata: ad.AnnData) -> Nuclei:
    """The usable nuclei (``nucleus_qc == "ok"``) of the table as it is now, subset or not."""
    record = extraction(adata)
    ok = (adata.obs[keys.NUCLEUS_QC] == keys.QC_OK).to_numpy()
    row = np.flatnonzero(ok)
    xy = np.asarray(adata.obsm[keys.NUCLEUS_XY], dtype=np.float64)[row]
    ids = adata.obs[keys.NUCLEUS_ID].to_numpy(dtype=object)[row]
    extra = record["extra"]
    of_extra = np.asarray(extra["obs_name"], dtype=object)
    if len(of_extra) and not adata.obs_names.is_unique:  # they are found by name, which nothing else is
        fix = "Run `adata.obs_names_make_unique()` before extraction."
        raise bad_value("adata.obs_names", must="be unique", got="names that are there twice", fix=fix)
    at = adata.obs_names.get_indexer(of_extra) if len(of_extra) else np.zeros(0, np.int64)
    kept = np.flatnonzero((at >= 0) & ok[at])
    return Nuclei(
        row=np.concatenate([row, at[kept]]),
        xy=np.concatenate([xy, np.asarray(extra["xy"], dtype=np.float64).reshape(-1, 2)[kept]]),
        nucleus_id=np.concatenate([ids, np.asarray(extra["nucleus_id"], dtype=object)[kept]]),
        rank=np.concatenate([np.zeros(len(row), np.int64), np.asarray(extra["rank"], dtype=np.int64)[kept]]),
    )


def scene_of(sdata: sd.SpatialData, record: dict[str, Any]) -> Scene:
    """The scene of an extraction, checked to be placed as it was then."""
    given = record["mpp_given"]
    scene = resolve(
        sdata,
        image_key=record["image_key"],
        shapes_key=record["shapes_key"],
        mpp=tuple(record["mpp"]) if given else None,
    )
    if not np.allclose(scene.to_pixel, record["affine"], rtol=1e-6, atol=1e-4):
        msg = (
            f"The transformations of {record['image_key']!r} or {record['shapes_key']!r} have changed since the nuclei "
            "were extracted. Run `lm.pp.extract_nuclei` again."
        )
        raise ValueError(msg)
    return scene


def stream(
    sdata: sd.SpatialData,
    record: dict[str, Any],
    nuclei: Nuclei,
    *,
    size_px: int,
    target_mpp: float,
    mask: str,
    qc: NDArray[Any] | None = None,
    uncut: bool = False,
) -> tuple[Nuclei, Batches]:
    """Crops straight from the image, for the nuclei whose window lies inside it."""
    scene = scene_of(sdata, record)
    warn_slow(scene, record["image_key"], len(nuclei), target_mpp=target_mpp)
    whole = inside(nuclei.xy, window_side(size_px, scene.mpp, target_mpp), scene.image.shape)
    nuclei = nuclei.take(whole)
    return nuclei, cut(scene, nuclei, size_px=size_px, target_mpp=target_mpp, mask=mask, qc=qc, uncut=uncut)


FEW = 5000
"""Up to so many nuclei are read by small blocks: a gallery needs a few px here and there."""


def cut(
    scene: Scene,
    nuclei: Nuclei,
    *,
    size_px: int,
    target_mpp: float = TARGET_MPP,
    mask: str = "",
    qc: NDArray[Any] | None = None,
    uncut: bool = False,
) -> Batches:
    """Cut the crops of `nuclei`: (positions in `nuclei`, crops). `mask` is "", "nucleus" or "ring".

    With `uncut`, windows that a device is to cut come in place of crops.

    Rows whose crop is of no use are marked in `qc`, judged before anything is masked. Crops that do not hold what is
    judged, because they are smaller or of another scale, are judged by other ones, cut for that first.
    """
    can_tell = np.isclose(target_mpp, QC_MPP) and size_px >= QC_PX and size_px % 2 == 0
    if qc is not None and not can_tell:
        for index, crops in _crops(scene, nuclei, size_px=QC_PX, target_mpp=QC_MPP):
            mark(qc, nuclei.row[index], crops)
    batches = _crops(scene, nuclei, size_px=size_px, target_mpp=target_mpp, uncut=uncut)
    if qc is not None and can_tell:
        batches = _marked(batches, nuclei, qc)
    yield from masked(batches, scene, nuclei, mask=mask, target_mpp=target_mpp) if mask else batches


def _marked(batches: Batches, nuclei: Nuclei, qc: NDArray[Any]) -> Batches:
    """Mark crops of no use as they pass; windows that are still to be cut, as they come back from the device."""
    for index, crops in batches:
        if isinstance(crops, Uncut):
            yield index, replace(crops, seen=lambda at, shown: mark(qc, nuclei.row[at], shown))
            continue
        mark(qc, nuclei.row[index], crops)
        yield index, crops


def masked(batches: Batches, scene: Scene, nuclei: Nuclei, *, mask: str, target_mpp: float = TARGET_MPP) -> Batches:
    """Crops with all but the nucleus (``"nucleus"``), or the nucleus itself (``"ring"``), whitened."""
    outlines = outlines_in_pixels(scene, nuclei.nucleus_id)
    scale = (target_mpp / scene.mpp[0], target_mpp / scene.mpp[1])
    for index, crops in batches:
        size_px = crops.cut.size_px if isinstance(crops, Uncut) else crops.shape[1]
        masks = outline_masks(outlines[index], nuclei.xy[index], scale=scale, size_px=size_px)
        if isinstance(crops, Uncut):
            yield index, replace(crops, keep=masks if mask == "nucleus" else ~masks)
        else:
            yield index, apply_mask(crops, masks, "nucleus" if mask == "nucleus" else "ring")


def _crops(scene: Scene, nuclei: Nuclei, *, size_px: int, target_mpp: float, uncut: bool = False) -> Batches:
    """Crops as they are in the image."""
    block_px = BLOCK_PX if len(nuclei) > FEW else BLOCK_PX // 8
    read = stream_uncut if uncut else stream_crops
    return read(scene.image, nuclei.xy, mpp=scene.mpp, size_px=size_px, target_mpp=target_mpp, block_px=block_px)


def warn_slow(scene: Scene, image_key: str, n_nuclei: int, *, target_mpp: float = TARGET_MPP) -> None:
    """Say up front if the image, as it is stored, is slow to read."""
    level = scene.image.levels[choose_level(scene.mpp, scene.image.downsamples, target_mpp)]
    rows, cols = blocks_of(level, BLOCK_PX if n_nuclei > FEW else BLOCK_PX // 8)
    warn_if_slow(level, rows.tolist(), cols.tolist(), image_key=image_key)


def from_memory(adata: ad.AnnData, record: dict[str, Any], nuclei: Nuclei) -> Batches:
    """Crops from ``obsm["nuclei"]``; those of further nuclei lie in the record."""
    first = adata.obsm[keys.NUCLEI]
    batch = max(MEMORY_BATCH // int(np.prod(first.shape[1:])), 1)
    for start in range(0, len(nuclei), batch):
        index = np.arange(start, min(start + batch, len(nuclei)))
        main = index[nuclei.rank[index] == 0]
        if len(main):
            yield main, np.asarray(first[nuclei.row[main]])
    further = np.flatnonzero(nuclei.rank > 0)
    if len(further):
        extra = record["extra"]
        at = {key: i for i, key in enumerate(zip(extra["obs_name"], extra["rank"], strict=True))}
        names = adata.obs_names.to_numpy(dtype=object)[nuclei.row[further]]
        wanted = [at[key] for key in zip(names, nuclei.rank[further], strict=True)]
        yield further, np.asarray(extra["crops"])[wanted]


def from_store(adata: ad.AnnData, record: dict[str, Any], nuclei: Nuclei) -> Batches:
    """Crops from the crop store, in its order, of the cells that the table still has."""
    store = open_store(record["store"])
    if store.attrs["id"] != record["store_id"]:
        msg = (
            f"The crop store '{store.path}' is not the one these nuclei were extracted to (id {store.attrs['id']}, "
            f"expected {record['store_id']}). Run `lm.pp.extract_nuclei` again."
        )
        raise ValueError(msg)
    row, rank = positions(store, adata.obs_names.to_numpy(dtype=object)), np.asarray(store.group["rank"])
    wanted = pd.MultiIndex.from_arrays([nuclei.row, nuclei.rank])
    target = wanted.get_indexer(pd.MultiIndex.from_arrays([row, rank]))
    found = np.unique(target[target >= 0])
    if len(found) < len(nuclei):
        lost = adata.obs_names[nuclei.row[np.setdiff1d(np.arange(len(nuclei)), found)]]
        msg = (
            f"The crop store '{store.path}' lacks {len(lost)} of the table's {len(nuclei)} usable nuclei, for instance "
            f"{listing(lost, most=3)}. Were cells renamed? Run `lm.pp.extract_nuclei` again."
        )
        raise ValueError(msg)
    if len(nuclei) * 4 < len(target):  # a gallery: a few crops, wherever they lie
        for at in np.array_split(np.flatnonzero(target >= 0), -(-len(found) // SHARD) or 1):
            yield target[at], store.read(at)
        return
    for at, crops in store.batches(target >= 0):
        yield target[at], crops


def crop_batches(
    data: ad.AnnData | sd.SpatialData,
    adata: ad.AnnData,
    nuclei: Nuclei,
    *,
    size_px: int | None = None,
    target_mpp: float | None = None,
    mask: str | None = None,
    qc: NDArray[Any] | None = None,
    uncut: bool = False,
) -> tuple[Nuclei, Batches, str]:
    """Crops of `nuclei`, from wherever they are.

    Parameters
    ----------
    data
        SpatialData, needed where the crops are still in the image; or the table.
    adata
        The table.
    nuclei
        Which, from `nuclei_of`.
    size_px, target_mpp
        What is wanted; None takes that of the extraction. Stored crops must be at least as large and at that scale.
    mask
        "", "nucleus" or "ring"; None takes that of the extraction.
    qc
        Where crops come from the image: verdict on each row, in which those whose crop is of no use are marked.
    uncut
        Where crops come from the image: give windows that a device is to cut in their place.

    Returns
    -------
    The nuclei that have a crop, (positions in them, crops) batch by batch, and the source: "memory", "store", "image".
    """
    record = extraction(adata)
    size = int(record["size_px"]) if size_px is None else size_px
    target_mpp = float(record["target_mpp"]) if target_mpp is None else target_mpp
    kept = keys.NUCLEI in adata.obsm or record["store"]
    wanted = record["mask"] if mask is None else mask
    fits = size <= record["size_px"] and np.isclose(target_mpp, record["target_mpp"])
    if kept and fits and record["mask"] in {"", wanted}:
        source = "memory" if keys.NUCLEI in adata.obsm else "store"
        batches = (from_memory if source == "memory" else from_store)(adata, record, nuclei)
        if wanted != record["mask"]:
            if not isinstance(data, sd.SpatialData):
                msg = "A mask follows the outlines of the nuclei. Pass the SpatialData, which holds them."
                raise ValueError(msg)
            batches = masked(batches, scene_of(data, record), nuclei, mask=wanted)
        return nuclei, batches, source
    if record.get(STAIN):
        msg = (
            f"The crops were stain-normalised ({record[STAIN]}), {record['size_px']} px at {record['target_mpp']:g} "
            f"um/px{' with a mask' if record['mask'] else ''}; there are none of {size} px at {target_mpp:g} um/px: "
            "the image was not. Extract crops that fit (`size_px=`, `mask=`), then normalise them."
        )
        raise ValueError(msg)
    if not isinstance(data, sd.SpatialData):
        msg = (
            f"The table holds no crops of {size} px at {target_mpp:g} um/px, only where the nuclei lie. Pass the "
            'SpatialData with the image, or keep crops with `lm.pp.extract_nuclei(..., store="memory")` or a path.'
        )
        raise ValueError(msg)
    qc = None if record.get(keys.UNIT) == keys.PATCH else qc
    nuclei, batches = stream(data, record, nuclei, size_px=size, target_mpp=target_mpp, mask=wanted, qc=qc, uncut=uncut)
    return nuclei, batches, "image"


def read_crops(
    data: ad.AnnData | sd.SpatialData, rows: NDArray[np.int64], *, table_key: str = "table"
) -> tuple[NDArray[np.uint8], float]:
    """Crops of some cells, for galleries.

    Parameters
    ----------
    data
        SpatialData or table.
    rows
        Rows of the table, usable or not. Their window must lie inside the image; of a SpatialData a part of it is
        enough, and what lies outside is white.
    table_key
        The table of a SpatialData.

    Returns
    -------
    Crops, uint8 (len(rows), S, S, 3), in the order asked for, and their um per px.
    """
    adata = as_table(data, table_key=table_key)
    record = extraction(adata)
    rows = np.asarray(rows, dtype=np.int64)
    qc = adata.obs[keys.NUCLEUS_QC].to_numpy(dtype=object)[rows]
    # what was judged from its pixels is kept of nuclei; of patches, only the image has it
    kept = (keys.QC_OK,) if record.get(keys.UNIT) == keys.PATCH else (keys.QC_OK, *keys.QC_FROM_PIXELS)
    in_image = (keys.QC_BORDER, *keys.QC_FROM_PIXELS)
    cut_off = ~np.isin(qc, kept) & np.isin(qc, in_image) & isinstance(data, sd.SpatialData)
    hidden = ~(cut_off | np.isin(qc, kept))
    if hidden.any():
        got = [f"{name} ({why})" for name, why in zip(adata.obs_names[rows[hidden]], qc[hidden], strict=True)]
        raise bad_value("rows", must="name cells whose nucleus can be shown", got=got[:5])
    nuclei = Nuclei(
        row=rows,
        xy=np.asarray(adata.obsm[keys.NUCLEUS_XY], dtype=np.float64)[rows],
        nucleus_id=adata.obs[keys.NUCLEUS_ID].to_numpy(dtype=object)[rows],
        rank=np.zeros(len(rows), dtype=np.int64),
    )
    size, mpp = int(record["size_px"]), float(record["target_mpp"])
    crops = np.zeros((len(rows), size, size, 3), dtype=np.uint8)
    whole, partial = np.flatnonzero(~cut_off), np.flatnonzero(cut_off)
    if len(whole):
        distinct, of = np.unique(rows[whole], return_index=True)  # a store gives each crop once
        _, batches, _ = crop_batches(data, adata, nuclei.take(whole[of]))
        found = np.zeros((len(distinct), size, size, 3), dtype=np.uint8)
        for index, pixels in batches:
            found[index] = pixels
        crops[whole] = found[np.searchsorted(distinct, rows[whole])]
    if len(partial):
        scene = scene_of(data, record)
        shown: dict[str, Any] = {"size_px": size, "target_mpp": mpp, "mask": record["mask"]}
        for index, pixels in cut(scene, nuclei.take(partial), **shown):
            crops[partial[index]] = whiten_outside(pixels, nuclei.xy[partial[index]], scene, target_mpp=mpp)
    return crops, mpp


def whiten_outside(
    crops: NDArray[np.uint8], xy: NDArray[np.float64], scene: Scene, *, target_mpp: float
) -> NDArray[np.uint8]:
    """Crops at `xy` with white where there is no image."""
    at = np.arange(crops.shape[1]) + 0.5 - crops.shape[1] / 2
    height, width = scene.image.shape
    x, y = (xy[:, axis, None] + at * target_mpp / scene.mpp[axis] for axis in (0, 1))
    inside_x, inside_y = (x >= 0) & (x < width), (y >= 0) & (y < height)
    return np.where((inside_y[:, :, None] & inside_x[:, None, :])[..., None], crops, np.uint8(WHITE))


def mark(qc: NDArray[Any], row: NDArray[np.int64], crops: NDArray[np.uint8]) -> None:
    """Mark in `qc` the rows whose crop is of no use; a cell with several nuclei gets the gravest verdict."""
    found = judge(crops)
    for k, name in enumerate(keys.QC_FROM_PIXELS):
        rows = row[found == name]
        qc[rows[np.isin(qc[rows], (*keys.QC_FROM_PIXELS[k:], keys.QC_OK))]] = name
