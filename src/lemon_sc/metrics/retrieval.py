"""How well a search finds what it should: from the ranks that the right rows got."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RECALL_AT = (1, 5, 10, 50)


def recall_at(rank: NDArray[np.integer], ks: Sequence[int] = RECALL_AT) -> NDArray[np.float64]:
    """Share of the queries whose right row is among the first k, for each k; k/N by chance among N rows.

    Parameters
    ----------
    rank
        Rank of the right row of each query, 1 for the best.
    ks
        Numbers of hits that are looked at.

    Returns
    -------
    Float64, one value per k; NaN without queries.

    Raises
    ------
    ValueError
        If ranks or numbers of hits are below 1.
    """
    found, k = np.asarray(rank), np.asarray(ks)
    if found.size and found.min() < 1:
        raise bad_value("rank", must="hold ranks from 1 on", got=int(found.min()))
    if not k.size or k.min() < 1:
        raise bad_value("ks", must="hold ints >= 1", got=list(ks))
    if not found.size:
        return np.full(len(k), np.nan)
    return np.asarray((found[:, None] <= k).mean(axis=0), dtype=np.float64)


def median_rank(rank: NDArray[np.integer]) -> float:
    """Median rank of the right rows; (N + 1) / 2 by chance among N rows.

    Parameters
    ----------
    rank
        Rank of the right row of each query, 1 for the best.

    Returns
    -------
    The median, NaN without queries.
    """
    return float(np.median(rank)) if len(rank) else float("nan")
