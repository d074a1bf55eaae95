"""Exact k-nearest-neighbour graph of an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from lemon_sc._core.errors import bad_value
from lemon_sc.analysis.correlation import constant_floor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def zscore(x_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """Columns with mean 0 and sd 1 (ddof 0), float32; constant columns become 0."""
    mean = x_ND.mean(axis=0, dtype=np.float64)
    sd = x_ND.std(axis=0, dtype=np.float64)
    constant = sd <= constant_floor(x_ND)
    # In this order the large copy is float64 only where the input is.
    z = x_ND - mean.astype(x_ND.dtype)
    z *= np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, sd)).astype(x_ND.dtype)
    return z.astype(np.float32, copy=False)


def knn_graph(x_ND: NDArray[np.floating], *, k: int = 15) -> sparse.csr_matrix:
    """Directed graph from each cell to its `k` nearest others, weights ``1 / k``.

    Euclidean distance on z-scored columns, exact (no approximate index, hence no randomness). A cell is never its own
    neighbour, also where other cells have the same embedding. The time grows with N^2; for more than a few 100,000
    cells an approximate graph (`scanpy.pp.neighbors`) is the better input to Moran's I.

    Parameters
    ----------
    x_ND
        Embedding, finite.
    k
        Neighbours per cell, below N.

    Returns
    -------
    (N, N) float64 CSR; each row sums to 1.

    Raises
    ------
    ValueError
        If `k` is not between 1 and N - 1.
    """
    n = len(x_ND)
    if not 1 <= k < n:
        raise bad_value("k", must=f"be between 1 and {n - 1} for {n} cells", got=k)
    nearest = NearestNeighbors(n_neighbors=k).fit(zscore(x_ND))
    columns = np.sort(nearest.kneighbors(return_distance=False), axis=1)  # without a query: self is left out
    data = np.full(n * k, 1.0 / k)
    return sparse.csr_matrix((data, columns.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
