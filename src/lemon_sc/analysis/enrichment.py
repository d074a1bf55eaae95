"""Is a quantity higher in what was found than in rows drawn at random?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc._core.rng import RNG, as_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEVEL = 0.95
"""Of the interval that means of random rows stay in."""


class Enrichment(NamedTuple):
    """Of M queries."""

    mean_M: Array
    """Mean over what was found."""
    expected_M: Array
    """Mean over all rows."""
    fold_M: Array
    """The first over the second; NaN where that is zero."""
    low_M: Array
    high_M: Array
    """Between these lie 95 % of the means over as many random rows."""
    pvalue_M: Array
    """(1 + number of random means as high) / (1 + number of draws), one-sided."""


def enrichment(values_NM: NDArray[np.floating], found_MK: NDArray[np.int64], *, n_perms: int, rng: RNG) -> Enrichment:
    """Compare the mean over the rows that each query found with that over as many rows at random.

    Parameters
    ----------
    values_NM
        Of each row that could be found, the quantity that each query asks for; finite.
    found_MK
        Rows that each query found.
    n_perms
        Draws of K rows without replacement, the same for all queries.
    rng
        Seed or Generator.

    Returns
    -------
    What was found, per query.

    Raises
    ------
    ValueError
        If there is no draw to be made.
    """
    n, k = len(values_NM), found_MK.shape[1]
    if isinstance(n_perms, bool) or not isinstance(n_perms, int | np.integer) or n_perms < 1:
        raise bad_value("n_perms", must="be an int >= 1", got=n_perms)
    generator = as_generator(rng)
    drawn = np.stack([values_NM[generator.choice(n, k, replace=False)].mean(axis=0) for _ in range(n_perms)])
    observed = np.take_along_axis(values_NM.T, found_MK, axis=1).mean(axis=1)
    expected = values_NM.mean(axis=0)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    slack = 1e-12 * np.abs(observed)  # the same rows in another order are as high
    return Enrichment(
        mean_M=observed,
        expected_M=expected,
        fold_M=np.divide(observed, expected, out=np.full_like(expected, np.nan), where=expected != 0),
        low_M=low,
        high_M=high,
        pvalue_M=(1 + (drawn >= observed - slack).sum(axis=0)) / (1 + n_perms),
    )
