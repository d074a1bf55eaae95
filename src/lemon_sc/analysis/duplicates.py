"""Crops that show the same nucleus: twice in the data, and so on both sides of a split.

Data sets overlap: regions are exported twice, slides are scanned twice, images are re-encoded. The test of identity is
on pixels, so it holds for every encoder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc.analysis.nearest import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 12
"""Cells along each axis of the small grey picture that crops are compared by."""

ALIKE = 0.98
"""Correlation of two small pictures from which they count as one."""

_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_BATCH = 4096


@dataclass(frozen=True, eq=False, kw_only=True)
class Duplicates:
    """Crops with a twin on the other side of the split. N crops."""

    exact: NDArray[np.bool_]
    """(N,) a crop on another side has the same pixels."""
    near: NDArray[np.bool_]
    """(N,) a crop on another side looks the same: `similarity` of `ALIKE` or more. Exact twins among them."""
    twin: NDArray[np.int64]
    """(N,) the most similar crop on another side; -1 where there is none."""
    similarity: NDArray[np.float64]
    """(N,) correlation of the small grey pictures of both; NaN without a twin, or without any contrast."""


def duplicate_crops(crops: NDArray[np.uint8], apart: NDArray[np.intp], *, alike: float = ALIKE) -> Duplicates:
    """Find crops that are held out while the same nucleus is learned from.

    Each crop is reduced to a grey picture of 12 x 12 cells, with mean 0 and length 1. The correlation of two such
    pictures survives re-encoding, a change of brightness, contrast or stain, and a shift of a fraction of a cell; it
    does not survive a rotation or a flip.

    Parameters
    ----------
    crops
        uint8 (N, S, S, 3) with S of 12 or more.
    apart
        (N,) side of the split that each crop is held out with.
    alike
        Correlation from which two crops count as one.

    Returns
    -------
    `Duplicates`.

    Raises
    ------
    ValueError
        If crops have another type or shape, or `alike` is no correlation.
    """
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3 or min(crops.shape[1:3]) < SIDE:
        got = f"{crops.dtype} {crops.shape}"
        raise bad_value("crops", must=f"be uint8 (N, S, S, 3) with S >= {SIDE}", got=got)
    side = np.asarray(apart)
    if side.shape != (len(crops),):
        raise bad_value("apart", must=f"have one entry for each of the {len(crops)} crops", got=side.shape)
    if not 0 < alike <= 1:
        raise bad_value("alike", must="lie above 0 and not above 1", got=alike)
    small = small_pictures(crops)
    twin, similarity = np.full(len(crops), -1, dtype=np.int64), np.full(len(crops), np.nan)
    for s in np.unique(side):
        mine, others = np.flatnonzero(side == s), np.flatnonzero(side != s)
        if len(others):
            index, distance = nearest(small[others], k=1, query_MD=small[mine])
            twin[mine] = others[index[:, 0]]
            similarity[mine] = 1 - distance[:, 0] ** 2 / 2
    similarity[~small.any(axis=1)] = np.nan
    exact = _same_pixels(crops, side)
    return Duplicates(
        exact=exact,
        near=exact | (np.nan_to_num(similarity, nan=-1.0) >= alike),
        twin=twin,
        similarity=similarity,
    )


def small_pictures(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey pictures of 12 x 12 cells, as vectors with mean 0 and length 1; zeros for a crop without any contrast.

    Parameters
    ----------
    crops
        uint8 (N, S, S, 3).

    Returns
    -------
    Float32 (N, 144).
    """
    n, height, width, _ = crops.shape
    down, across = _cells(height), _cells(width)
    out = np.empty((n, SIDE * SIDE), dtype=np.float32)
    for start in range(0, n, _BATCH):
        grey = crops[start : start + _BATCH] @ _GREY
        out[start : start + _BATCH] = np.matmul(np.matmul(down, grey), across.T).reshape(-1, SIDE * SIDE)
    out -= out.mean(axis=1, keepdims=True)
    length = np.linalg.norm(out, axis=1, keepdims=True)
    return np.divide(out, np.where(length > 1e-3, length, np.inf), dtype=np.float32)


def _cells(size: int) -> NDArray[np.float32]:
    """(SIDE, size) shares of each pixel in each cell: the mean over an interval whose ends need not be whole pixels."""
    ends = np.linspace(0, size, SIDE + 1)
    low, high = ends[:-1, None], ends[1:, None]
    pixel = np.arange(size)
    share = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return (share / share.sum(axis=1, keepdims=True)).astype(np.float32)


def _same_pixels(crops: NDArray[np.uint8], side: NDArray[np.intp]) -> NDArray[np.bool_]:
    digests = [hashlib.blake2b(crop.tobytes(), digest_size=16).digest() for crop in crops]
    _, code = np.unique(np.array(digests, dtype="S16"), return_inverse=True)
    pairs = np.unique(np.column_stack([code.reshape(-1), side]), axis=0)
    return np.asarray(np.bincount(pairs[:, 0])[code.reshape(-1)] > 1)
