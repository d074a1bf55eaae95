"""Nearest-neighbour graph of an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import logger
from lemon_sc.analysis.nearest import nearest
from lemon_sc.metrics.correlation import constant_floor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def zscore(x_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """Columns with mean 0 and sd 1 (ddof 0), float32; constant columns become 0.

    Parameters
    ----------
    x_ND
        Values, finite.

    Returns
    -------
    Float32 (N, D).
    """
    mean = x_ND.mean(axis=0, dtype=np.float64)
    sd = x_ND.std(axis=0, dtype=np.float64)
    constant = sd <= constant_floor(x_ND)
    # In this order the large copy is float64 only where the input is.
    z = x_ND - mean.astype(x_ND.dtype)
    z *= np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, sd)).astype(x_ND.dtype)
    return z.astype(np.float32, copy=False)


def knn_graph(x_ND: NDArray[np.floating], *, k: int = 15, device: str = "auto") -> sparse.csr_matrix:
    """Directed graph from each cell to its `k` nearest others, weights ``1 / k``.

    Euclidean distance on z-scored columns, exact. A cell is never its own neighbour, also where other cells have the
    same embedding; of cells at the same distance, those with the lower index come first. Memory does not grow with N^2,
    time does.

    Parameters
    ----------
    x_ND
        Embedding, finite.
    k
        Neighbours per cell, below N.
    device
        As for `nearest`.

    Returns
    -------
    (N, N) float64 CSR; each row sums to 1.

    Raises
    ------
    ValueError
        If there are not more than `k` cells, or all have the same embedding.
    """
    n = len(x_ND)
    if k < 1:
        raise bad_value("k", must="be an int >= 1", got=k)
    if n <= k:
        msg = (
            f"A graph of {k} nearest neighbours needs more than {k} cells, but only {n} have an embedding. "
            "Use more cells, or pass a graph with fewer neighbours (of `sc.pp.neighbors`, say) as `connectivity_key`."
        )
        raise ValueError(msg)
    z = zscore(x_ND)
    if not z.any():
        msg = (
            f"The embedding is the same for all {n} cells, so that no cell is nearer than another. "
            "Check the images and the model that it was made with."
        )
        raise ValueError(msg)
    index, distance = nearest(z, k=k, device=device)
    n_copies = int((distance[:, -1] == 0).sum())
    if n_copies:
        logger.warning(
            "%d of %d cells share their embedding with %d or more others: which of these count as their neighbours is "
            "arbitrary (the first ones).",
            n_copies,
            n,
            k,
        )
    data = np.full(n * k, 1.0 / k)
    return sparse.csr_matrix((data, np.sort(index, axis=1).ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
