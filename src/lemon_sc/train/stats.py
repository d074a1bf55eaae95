"""Mean and standard deviation of the colours of a corpus, for the normalisation before an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lemon_sc._core.errors import one_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Kind = Literal["per_image", "pooled"]


@dataclass(frozen=True, kw_only=True)
class NormStats:
    """Colour statistics after division by 255.

    Attributes
    ----------
    mean, std
        Per channel, (R, G, B).
    kind
        ``"per_image"`` or ``"pooled"``.
    n
        Crops they were taken over.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    kind: Kind
    n: int


def check_crops(crops: NDArray[np.uint8], *, size_px: int | None = None) -> None:
    """Raise unless these are crops: uint8 (b, S, S, 3), of one size.

    Parameters
    ----------
    crops
        A batch.
    size_px
        Side that the crops must have; None accepts any.
    """
    found = f"{crops.dtype} {crops.shape}"
    if crops.dtype != np.uint8:
        nan = " that holds NaN" if crops.dtype.kind == "f" and np.isnan(crops).any() else ""
        msg = f"Crops must be uint8, 0 to 255, got {found}{nan}. Give the pixels as they were scanned."
        raise ValueError(msg)
    if crops.ndim != 4 or crops.shape[3] != 3 or crops.shape[1] != crops.shape[2]:
        msg = f"Crops must have the shape (n, S, S, 3), got {found}."
        raise ValueError(msg)
    if size_px is not None and crops.shape[1] != size_px:
        msg = (
            f"Crops of {crops.shape[1]} px among crops of {size_px} px: all must have one size. Cut them again at "
            "one size; a crop is never scaled, for the size of a nucleus would be lost."
        )
        raise ValueError(msg)


def norm_stats(batches: Iterable[NDArray[np.uint8]], *, kind: Kind = "per_image") -> NormStats:
    """Mean and standard deviation per channel over all crops, in one pass.

    ``"per_image"`` averages the means and unbiased standard deviations of the single crops, as LEMON's statistics do;
    ``"pooled"`` takes all pixels together, and its standard deviation is larger, for it holds the differences between
    crops, too. Every crop counts once, whatever the sizes of the batches.

    Parameters
    ----------
    batches
        Crops, uint8 (b, S, S, 3); batches may differ in b. One array (n, S, S, 3) must stand in a list.
    kind
        ``"per_image"`` or ``"pooled"``.

    Returns
    -------
    Mean and standard deviation of the three channels after division by 255, their kind, and the number of crops.

    Raises
    ------
    ValueError
        If there is no crop, or crops are not uint8 or differ in size.
    """
    one_of("kind", kind, get_args(Kind))
    n, size = 0, None
    means, stds = np.zeros(3), np.zeros(3)
    total, squares = np.zeros(3, dtype=object), np.zeros(3, dtype=object)  # Python's integers: exact, without end
    for crops in batches:
        check_crops(crops, size_px=size)
        size = crops.shape[1]
        pixels = crops.reshape(len(crops), size**2, 3)
        s1 = pixels.sum(axis=1, dtype=np.int64)
        s2 = (pixels.astype(np.uint16) ** 2).sum(axis=1, dtype=np.int64)
        n_pixels = pixels.shape[1]
        variance = (s2 * n_pixels - s1**2) / (n_pixels * max(n_pixels - 1, 1))  # the numerator is an exact integer
        n += len(crops)
        means += s1.sum(axis=0) / n_pixels
        stds += np.sqrt(variance).sum(axis=0)
        total += s1.sum(axis=0)
        squares += s2.sum(axis=0)
    if not n or size is None:
        msg = "There are no crops to take statistics of."
        raise ValueError(msg)
    if kind == "per_image":
        mean, std = means / n, stds / n
    else:
        count = n * size**2
        mean = (total / count).astype(float)
        spread = [int(s2) * count - int(s1) ** 2 for s1, s2 in zip(total, squares, strict=True)]
        std = np.sqrt([s / (count * max(count - 1, 1)) for s in spread])
    return NormStats(mean=_rgb(mean), std=_rgb(std), kind=kind, n=n)


def _rgb(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(v) / 255 for v in values)
    return red, green, blue
