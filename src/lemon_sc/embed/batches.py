"""Batches of crops on their way to the devices: checked, and regrouped to the size that devices want.

Crops are an array, or windows that are still to be cut (`lemon_sc.crops.uncut.Uncut`). Both have a length and slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc.crops.uncut import Uncut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Crops: TypeAlias = NDArray[np.uint8] | Uncut
    Batch: TypeAlias = tuple[NDArray[np.int64], Crops]


def checked(batches: Iterable[Batch], n: int) -> Iterator[Batch]:
    """The same batches, each row number seen to be in range and new.

    Parameters
    ----------
    batches
        Row numbers and crops.
    n
        Row numbers are below it.

    Yields
    ------
    The batches.

    Raises
    ------
    ValueError
        Rows outside 0..n-1, given twice, or not one per crop.
    """
    seen = np.zeros(n, bool)
    for rows, crops in batches:
        at = np.asarray(rows)
        if at.ndim != 1 or len(at) != len(crops) or (at.size and at.dtype.kind not in "iu"):
            msg = f"A batch must hold one int row number per crop, got {at.dtype} {at.shape} for {len(crops)} crops."
            raise ValueError(msg)
        if at.size and (at.min() < 0 or at.max() >= n):
            raise bad_value("rows", must=f"be in 0..{n - 1} (n = {n})", got=(int(at.min()), int(at.max())))
        seen_before = int(seen[at].sum()) + len(at) - len(np.unique(at))
        if seen_before:
            msg = f"{seen_before} rows came twice; every row takes one crop."
            raise ValueError(msg)
        seen[at] = True
        yield at, crops


def rebatched(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows and crops in batches of `size`, in the order they came; the last may be smaller.

    Parameters
    ----------
    batches
        Row numbers and crops, all crops arrays of one shape or all windows of one stream.
    size
        Crops of a batch.

    Yields
    ------
    Row numbers and crops.
    """
    held: list[Batch] = []
    count = 0
    for rows, crops in batches:
        start = 0
        while start < len(rows):
            stop = start + min(size - count, len(rows) - start)
            held.append((rows[start:stop], crops[start:stop]))
            count += stop - start
            start = stop
            if count == size:
                yield joined(held)
                held, count = [], 0
    if held:
        yield joined(held)


def joined(held: list[Batch]) -> Batch:
    """One batch of several.

    Parameters
    ----------
    held
        At least one.

    Returns
    -------
    Row numbers and crops.
    """
    if len(held) == 1:
        return held[0]
    rows = np.concatenate([rows for rows, _ in held])
    windows = [crops for _, crops in held if isinstance(crops, Uncut)]
    return rows, Uncut.joined(windows) if windows else np.concatenate([crops for _, crops in held])


def masked(batch: Crops, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crops as the encoder sees them.

    Parameters
    ----------
    batch
        What was to be embedded.
    crops
        uint8 (n, S, S, 3), cut from it if it was not cut.

    Returns
    -------
    uint8 (n, S, S, 3).
    """
    return batch.masked(crops) if isinstance(batch, Uncut) else crops
