from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from lemon_sc.analysis.knn import knn_graph, zscore


def test_equals_brute_force_on_standardised_columns():
    x = np.random.default_rng(0).standard_normal((200, 30)) * np.logspace(-3, 3, 30) + 5
    w = knn_graph(x, k=7)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    distance = cdist(z, z)
    np.fill_diagonal(distance, np.inf)
    expected = np.sort(np.argsort(distance, axis=1)[:, :7], axis=1)
    assert (w.indices.reshape(200, 7) == expected).all()
    assert w.data == pytest.approx(1 / 7)
    assert (w != w.T).nnz > 0  # directed


def test_self_is_left_out_among_duplicates():
    x = np.repeat(np.random.default_rng(0).standard_normal((5, 30)), 20, axis=0).astype(np.float32)
    w = knn_graph(x, k=15)
    assert (w.diagonal() == 0).all()
    assert (np.diff(w.indptr) == 15).all()
    assert all(len(set(row)) == 15 for row in w.indices.reshape(100, 15))
    assert (w.indices.reshape(100, 15) // 20 == np.arange(100)[:, None] // 20).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_columns_do_not_become_noise(dtype):
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(dtype)
    x[:, 1] = dtype(0.1)
    z = zscore(x)
    assert (z[:, 1] == 0).all()
    assert z.dtype == np.float32
    assert z[:, [0, 2]].std(axis=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("k", [0, 10, 15])
def test_k_must_leave_others(k):
    with pytest.raises(ValueError, match=f"`k` must be between 1 and 9 for 10 cells, got {k}"):
        knn_graph(np.random.default_rng(0).standard_normal((10, 2)), k=k)
