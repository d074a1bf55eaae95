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


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="`k` must be an int >= 1, got 0"):
        knn_graph(np.random.default_rng(0).standard_normal((10, 2)), k=0)


@pytest.mark.parametrize("k", [10, 15])
def test_too_few_cells_say_what_to_do(k):
    with pytest.raises(ValueError, match=f"more than {k} cells, but only 10 have.*`connectivity_key`"):
        knn_graph(np.random.default_rng(0).standard_normal((10, 2)), k=k)


def test_an_embedding_without_differences_is_an_error():
    with pytest.raises(ValueError, match="the same for all 40 cells"):
        knn_graph(np.full((40, 3), 0.1, np.float32))


def test_arbitrary_neighbours_are_counted(caplog):
    x = np.random.default_rng(0).standard_normal((60, 3))
    knn_graph(x, k=5)
    assert not caplog.records
    x[:20] = x[0]
    w = knn_graph(x, k=5)
    assert "20 of 60 cells share their embedding with 5 or more others" in caplog.text
    assert (w.indices.reshape(60, 5)[6:20] == np.arange(5)).all()


def test_order_of_cells_and_columns_does_not_matter():
    r = np.random.default_rng(0)
    x = r.standard_normal((150, 12))
    rows, columns = r.permutation(150), r.permutation(12)
    w, moved = knn_graph(x, k=6), knn_graph(x[rows][:, columns], k=6)
    assert (w[rows][:, rows] != moved).nnz == 0
