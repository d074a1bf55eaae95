"""How well a search finds what it should: from the ranks that the right rows got."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RECALL_AT = (1, 5, 10, 50)


def recall_at(rank: NDArray[np.integer], ks: int | Sequence[int] = RECALL_AT) -> NDArray[np.float64]:
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
        If ranks or numbers of hits are below 1, or there is not one rank for each query.
    """
    found, k = _ranks(rank), np.atleast_1d(ks)
    if not k.size or not k.min() >= 1:
        raise bad_value("ks", must="hold ints >= 1", got=k.tolist())
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

    Raises
    ------
    ValueError
        If ranks are below 1.
    """
    found = _ranks(rank)
    return float(np.median(found)) if found.size else float("nan")


def _ranks(rank: NDArray[np.integer]) -> NDArray[np.integer]:
    """(M,) ranks, or an error if they are none."""
    found = np.asarray(rank)
    if found.ndim != 1:
        raise bad_value("rank", must="have one rank for each query", got=found.shape)
    if not (found >= 1).all():  # NaN, which is no rank, included
        raise bad_value("rank", must="hold ranks from 1 on", got=found[~(found >= 1)][0].item())
    return found
