"""What an interrupted run needs to go on: an order known beforehand, an identity, and verdicts kept with rows."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import spatialdata as sd

import lemon_sc
from lemon_sc._core import keys
from lemon_sc._core.record import digest
from lemon_sc._objects.nuclei import extraction, scene_of
from lemon_sc.crops.stream import BLOCK_PX, reading_order

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    from lemon_sc._objects.candidates import Candidates
    from lemon_sc._objects.nuclei import Nuclei
    from lemon_sc.crops.stream import PyramidImage
    from lemon_sc.io.elements import Scene

GRID, PATCH_PX = 8, 128
"""Patches along each axis of the coarsest level, and their side: they stand for the pixels of an image."""


def image_digest(image: PyramidImage) -> str:
    """Digest of an image's size and of patches all over its coarsest level: another image of the same name is found."""
    level = image.levels[-1]
    pixels = hashlib.blake2b(digest_size=16)
    (ys, high), (xs, wide) = (patch_starts(size) for size in level.shape)
    for y in ys:
        for x in xs:
            pixels.update(np.ascontiguousarray(level.read(y, y + high, x, x + wide)).tobytes())
    return digest([list(each.shape) for each in image.levels], pixels.hexdigest())


def patch_starts(size: int) -> tuple[list[int], int]:
    """Where patches start along an axis of `size` px, evenly from end to end, and their length."""
    length = min(PATCH_PX, size)
    return sorted({int(v) for v in np.linspace(0, size - length, GRID)}), length


def extraction_digest(scene: Scene, candidates: Candidates) -> str:
    """Digest of what an extraction starts from: the pixels, and where all nuclei lie and how they are outlined."""
    outlines = hashlib.blake2b(digest_size=16)
    outlines.update((np.round(candidates.xy, 3) + 0.0).tobytes())
    outlines.update(np.round(candidates.area_um2, 3).tobytes())
    if scene.kind == "polygons":
        outlines.update(shapely.get_coordinates(scene.nuclei.geometry.to_numpy()).tobytes())
    return digest(image_digest(scene.image), outlines.hexdigest(), "\0".join(map(str, candidates.join.nucleus_id)))


def in_reading_order(scene: Scene, nuclei: Nuclei, *, size_px: int, target_mpp: float) -> Nuclei:
    """The nuclei in the order in which their crops come from the image."""
    order = reading_order(
        scene.image, nuclei.xy, mpp=scene.mpp, size_px=size_px, target_mpp=target_mpp, block_px=BLOCK_PX
    )
    return nuclei.take(order)


def content_digest(adata: ad.AnnData, nuclei: Nuclei, pixels: str, *settings: Any) -> str:
    """Digest of whose rows these are, where they lie, what pixels they are cut from, and how they are made."""
    names = adata.obs_names.to_numpy(dtype=object)[nuclei.row]
    whose = hashlib.blake2b("\0".join(map(str, names)).encode(), digest_size=16)
    whose.update(np.ascontiguousarray(nuclei.xy).tobytes())
    whose.update(np.ascontiguousarray(nuclei.rank).tobytes())
    made = extraction(adata).get("content", "")
    return digest(whose.hexdigest(), pixels, made, lemon_sc.__version__, *settings)


def source_digest(data: ad.AnnData | sd.SpatialData, adata: ad.AnnData, source: str) -> str:
    """Digest of the pixels that crops come from: of the image, or of the crops that were kept."""
    record = extraction(adata)
    if source == "image" and isinstance(data, sd.SpatialData):
        return image_digest(scene_of(data, record).image)
    if source == "store":
        return str(record["store_id"])
    crops = np.ascontiguousarray(adata.obsm[keys.NUCLEI])
    return hashlib.blake2b(crops.data, digest_size=16).hexdigest()


def verdict_codes(qc: NDArray[Any]) -> NDArray[np.uint8]:
    """Verdicts as positions in `keys.QC_CATEGORIES`, to be kept with rows."""
    codes = {name: k for k, name in enumerate(keys.QC_CATEGORIES)}
    return np.array([codes[name] for name in qc], dtype=np.uint8)


def apply_verdicts(qc: NDArray[Any], row: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
    """Mark in `qc` what the kept verdicts say; a cell with several nuclei gets the gravest."""
    for name in reversed(keys.QC_FROM_PIXELS):
        qc[row[codes == keys.QC_CATEGORIES.index(name)]] = name
