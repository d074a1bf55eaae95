"""Two label images of the same pixels: which labels lie over which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Rows = NDArray[np.intp]
    Labels = NDArray[np.integer[Any]]

_DENSE = 1 << 24  # label ids up to here are counted in a table, larger ones are sorted


@dataclass(frozen=True, eq=False, kw_only=True)
class Overlaps:
    """What two label images share. Rows number the labels of an image in ascending order of their ids, from 0."""

    first_ids: NDArray[np.int64]
    """(A,) ids in the first image."""
    second_ids: NDArray[np.int64]
    """(B,) ids in the second."""
    first_area: NDArray[np.int64]
    """(A,) px."""
    second_area: NDArray[np.int64]
    """(B,) px."""
    first: Rows
    """(P,) row in the first image of each pair that shares a pixel, pairs in ascending order."""
    second: Rows
    """(P,) row in the second."""
    pixels: NDArray[np.int64]
    """(P,) px that they share."""

    @property
    def iou(self) -> NDArray[np.float64]:
        """(P,) intersection over union."""
        return self.pixels / (self.first_area[self.first] + self.second_area[self.second] - self.pixels)


def as_labels(name: str, labels: ArrayLike) -> Labels:
    """Check a label image.

    Parameters
    ----------
    name
        Of the parameter, for the message.
    labels
        (H, W) integers, 0 for background.

    Returns
    -------
    The array.

    Raises
    ------
    ValueError
        If it is not two-dimensional, holds no integers, or a negative one.
    """
    array = np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise bad_value(
            name, must="be a label image, (H, W) integers with 0 for background", got=f"{array.dtype} {array.shape}"
        )
    if array.dtype.kind == "b":
        raise bad_value(
            name,
            must="number its nuclei",
            got="a mask of True and False",
            fix="Number its parts first, with `skimage.measure.label(mask)`.",
        )
    if array.size and array.min() < 0:
        raise bad_value(name, must="hold no negative label", got=int(array.min()))
    return array


def overlaps(first: ArrayLike, second: ArrayLike) -> Overlaps:
    """Areas of the labels of two images, and of what they share.

    Parameters
    ----------
    first, second
        (H, W) integers, 0 for background; ids need not be consecutive.

    Returns
    -------
    `Overlaps`.

    Raises
    ------
    ValueError
        If one is no label image or their shapes differ.
    """
    a, b = as_labels("first", first), as_labels("second", second)
    if a.shape != b.shape:
        msg = f"Both label images must show the same pixels, got shapes {a.shape} and {b.shape}."
        raise ValueError(msg)
    a_ids, a_area, a_rows = _rows(a)
    b_ids, b_area, b_rows = _rows(b)
    both = (a_rows >= 0) & (b_rows >= 0)
    pair, pixels = np.unique(a_rows[both] * max(len(b_ids), 1) + b_rows[both], return_counts=True)
    return Overlaps(
        first_ids=a_ids,
        second_ids=b_ids,
        first_area=a_area,
        second_area=b_area,
        first=pair // max(len(b_ids), 1),
        second=pair % max(len(b_ids), 1),
        pixels=pixels.astype(np.int64),
    )


def _rows(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64], Rows]:
    """Ids, areas, and the row of every pixel (raveled), -1 in the background."""
    flat = labels.ravel()
    if not flat.size or flat.max() >= _DENSE:
        ids, at, count = np.unique(flat, return_inverse=True, return_counts=True)
        background = int(len(ids) > 0 and ids[0] == 0)
        return ids[background:].astype(np.int64), count[background:].astype(np.int64), at.ravel() - background
    count = np.bincount(flat)
    count[0] = 0
    ids = np.flatnonzero(count)
    row = np.full(len(count), -1, dtype=np.intp)
    row[ids] = np.arange(len(ids))
    return ids.astype(np.int64), count[ids].astype(np.int64), row[flat]
