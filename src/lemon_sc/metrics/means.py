"""Mean and standard deviation of what is defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def nanmean(x: NDArray[np.floating], *, axis: int) -> Array:
    """Mean of what is finite; NaN, without a warning, where nothing is.

    Parameters
    ----------
    x
        Values.
    axis
        Axis to average over.

    Returns
    -------
    Float64, without that axis.
    """
    finite = np.isfinite(x)
    count = finite.sum(axis=axis)
    total = np.where(finite, x, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def nanstd(x: NDArray[np.floating], *, axis: int) -> Array:
    """Sample sd (ddof 1) of what is finite; NaN where there are fewer than two values.

    Parameters
    ----------
    x
        Values.
    axis
        Axis to go over.

    Returns
    -------
    Float64, without that axis.
    """
    finite = np.isfinite(x)
    count = finite.sum(axis=axis)
    deviation = np.where(finite, x - np.expand_dims(nanmean(x, axis=axis), axis), 0.0)
    return np.where(count > 1, np.sqrt((deviation**2).sum(axis=axis) / np.maximum(count - 1, 1)), np.nan)
