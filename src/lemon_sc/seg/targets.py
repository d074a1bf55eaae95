"""What the network is taught, from an instance map. Made anew after every augmentation, never warped as images.

Distance maps as in HoVer-Net (Graham et al., Medical Image Analysis 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_PX = 30
"""Nuclei below this area have no distance map: they are cut off, or specks."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Targets:
    """Targets of one tile.

    Attributes
    ----------
    nuclei
        Uint8 (H, W), 1 on nuclei.
    hv
        Float32 (2, H, W), from `hv_maps`.
    types
        Uint8 (H, W), class of each pixel, 0 on the background; None where there are no types.
    """

    nuclei: NDArray[np.uint8]
    hv: NDArray[np.float32]
    types: NDArray[np.uint8] | None


def hv_maps(labels: NDArray[Any], *, min_px: int = MIN_PX) -> NDArray[np.float32]:
    """Horizontal and vertical offset of each pixel from the centre of its nucleus, scaled to -1..1 in each nucleus.

    The centre is the mean of the pixels, rounded (halves up). Offsets to the left (above) are divided by the largest
    of them, those to the right (below) by theirs.

    Parameters
    ----------
    labels
        Instance map, integers (H, W), 0 is background.
    min_px
        Nuclei of fewer pixels are left at 0.

    Returns
    -------
    Float32 (2, H, W): x, then y; 0 on the background.

    Raises
    ------
    ValueError
        Not (H, W) of integers.
    """
    labels = check_labels(labels)
    out = np.zeros((2, *labels.shape), np.float32)
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return out
    _, index, counts = np.unique(labels[rows, columns], return_inverse=True, return_counts=True)
    large = counts[index] >= min_px
    rows, columns, index = rows[large], columns[large], index[large]
    for channel, at in enumerate((columns, rows)):
        # in whole numbers: a sum of float64 could fall short of a half
        total = np.zeros(len(counts), np.int64)
        np.add.at(total, index, at)
        offset = at - (2 * total + counts)[index] // (2 * counts[index])
        least, most = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
        np.minimum.at(least, index, offset)
        np.maximum.at(most, index, offset)
        scale = np.where(offset < 0, -least[index], most[index])
        out[channel, rows, columns] = offset / np.maximum(scale, 1)
    return out


def check_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """An instance map, or an error.

    Parameters
    ----------
    labels
        What was given.

    Returns
    -------
    Integers (H, W), none below 0.

    Raises
    ------
    ValueError
        Another shape or type.
    """
    found = np.asarray(labels)
    if found.ndim != 2 or found.dtype.kind not in "ui" or (found.dtype.kind == "i" and found.size and found.min() < 0):
        raise bad_value(
            "labels",
            must="be an instance map: integers >= 0 of shape (H, W), 0 for the background",
            got=f"{found.dtype} {found.shape}",
        )
    return found


def make_targets(labels: NDArray[Any], *, types: NDArray[Any] | None = None) -> Targets:
    """All targets of a tile.

    Parameters
    ----------
    labels
        Instance map, integers (H, W), 0 is background.
    types
        Class of each id, (largest id + 1,), with 0 for the background; None for nuclei without types.

    Returns
    -------
    The targets.

    Raises
    ------
    ValueError
        No instance map, or ids without a class.
    """
    labels = check_labels(labels)
    typed = None
    if types is not None:
        if labels.size and labels.max() >= len(types):
            raise bad_value("types", must=f"name a class for each id up to {labels.max()}", got=f"{len(types)} entries")
        typed = np.asarray(types)[labels].astype(np.uint8)
        typed[labels == 0] = 0
    return Targets(nuclei=(labels > 0).astype(np.uint8), hv=hv_maps(labels), types=typed)
