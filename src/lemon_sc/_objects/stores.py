"""What an interrupted run needs to go on: an order known beforehand, an identity, and verdicts kept with rows."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import spatialdata as sd

from lemon_sc._core import keys
from lemon_sc._core.record import digest
from lemon_sc._objects.nuclei import extraction, scene_of
from lemon_sc.crops.stream import BLOCK_PX, reading_order

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    from lemon_sc._objects.nuclei import Nuclei
    from lemon_sc.crops.stream import PyramidImage
    from lemon_sc.io.elements import Scene

TOKEN_PX = 1024
"""Side of the part of the coarsest level that stands for the pixels of an image."""


def image_digest(image: PyramidImage) -> str:
    """Digest of an image's size and of the middle of its coarsest level: another image under the same name is found."""
    level = image.levels[-1]
    height, width = level.shape
    y0, x0 = max((height - TOKEN_PX) // 2, 0), max((width - TOKEN_PX) // 2, 0)
    pixels = level.read(y0, min(y0 + TOKEN_PX, height), x0, min(x0 + TOKEN_PX, width))
    sizes = [list(level.shape) for level in image.levels]
    return digest(sizes, hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest())


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
    return digest(whose.hexdigest(), pixels, *settings)


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
