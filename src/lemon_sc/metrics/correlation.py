"""Pearson correlation by column, and when a column counts as constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURED_RTOL = 1e-6
"""A measured column is constant if its sd is at most this part of its largest absolute value: the noise of float32."""

COMPUTED_RTOL = 1e-9
"""The same for a column computed in float64."""

MIN_CELLS = 3
"""Two points always correlate perfectly."""


def constant_floor(x: NDArray[np.floating], *, rtol: float = MEASURED_RTOL) -> NDArray[np.float64]:
    """(D,) sd at or below which a column of `x` (N, D) is constant.

    The variance of a constant column taken in float32 is about 1e-12, not 0; a comparison with zero then lets noise be
    scaled to unit variance.

    Parameters
    ----------
    x
        Values, (N, D).
    rtol
        Relative precision of a value.

    Returns
    -------
    Float64 (D,), in units of `x`.
    """
    if len(x) == 0:
        return np.zeros(x.shape[1])
    # min and max rather than max(abs): no copy of a large array
    return rtol * np.maximum(np.abs(x.min(axis=0).astype(np.float64)), np.abs(x.max(axis=0).astype(np.float64)))


def pearson(truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> NDArray[np.float64]:
    """Correlation of each column of `truth` with the same column of `prediction`.

    Parameters
    ----------
    truth, prediction
        (N, G), finite.

    Returns
    -------
    (G,); NaN where the truth or the prediction is constant, or with fewer than three cells.
    """
    n, n_columns = truth.shape
    if n < MIN_CELLS:
        return np.full(n_columns, np.nan)
    a, b = truth.astype(np.float64), prediction.astype(np.float64)
    a -= a.mean(axis=0)
    b -= b.mean(axis=0)
    sd_a, sd_b = np.sqrt(np.mean(a * a, axis=0)), np.sqrt(np.mean(b * b, axis=0))
    flat = (sd_a <= constant_floor(truth)) | (sd_b <= constant_floor(prediction, rtol=COMPUTED_RTOL))
    sd_a[flat] = sd_b[flat] = 1.0
    r = np.clip(np.mean(a * b, axis=0) / (sd_a * sd_b), -1.0, 1.0)
    r[flat] = np.nan
    return r
