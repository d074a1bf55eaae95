from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm
from lemon_sc.analysis.stability import Original


def rng():
    return np.random.default_rng(0)


def test_equal_embeddings_have_not_moved():
    x = rng().standard_normal((150, 7)).astype(np.float32) * 40 + 9
    got = lm.metrics.stability(x, x, k=10)
    assert (got.rmse, got.knn_overlap) == (0, 1)
    assert got.cosine == pytest.approx(1, abs=1e-12)


def test_equals_a_plain_computation():
    r = rng()
    x = r.standard_normal((200, 6)) * [1, 5, 0.1, 1, 1, 30]
    y = x + 0.5 * r.standard_normal((200, 6)) * x.std(axis=0) + 0.2
    scaler = StandardScaler().fit(x)
    a, b = scaler.transform(x), scaler.transform(y)
    near = [NearestNeighbors(n_neighbors=15).fit(z).kneighbors(return_distance=False) for z in (a, b)]
    overlap = np.mean([len(set(i) & set(j)) / 15 for i, j in zip(*near, strict=True)])
    cosine = np.mean([u @ v / np.sqrt((u @ u) * (v @ v)) for u, v in zip(a, b, strict=True)])
    got = lm.metrics.stability(x, y, k=15)
    assert got.rmse == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), rel=1e-5)
    assert got.cosine == pytest.approx(cosine, rel=1e-5)
    assert got.knn_overlap == pytest.approx(overlap, abs=1e-12)


def test_unrelated_embeddings_are_at_chance():
    """RMSE sqrt(2), cosine 0, and an overlap of k / (n - 1)."""
    x, y = rng().standard_normal((2, 1500, 10))
    got = lm.metrics.stability(x, y, k=100)
    assert got.chance == 100 / 1499
    assert got.knn_overlap == pytest.approx(got.chance, abs=0.004)
    assert got.rmse == pytest.approx(np.sqrt(2), abs=0.03)
    assert got.cosine == pytest.approx(0, abs=0.02)


def test_a_shift_of_the_whole_cloud_is_seen_and_neighbours_stay():
    x = rng().standard_normal((300, 5))
    got = lm.metrics.stability(x, x + 2 * x.std(axis=0), k=20)
    assert got.rmse == pytest.approx(2, rel=1e-4)
    assert got.knn_overlap == pytest.approx(1, abs=0.005)  # float32 may swap two at the same distance
    assert got.cosine < 0.9


def test_scale_of_a_feature_does_not_matter_and_constant_ones_are_left_out():
    r = rng()
    x, y = r.standard_normal((2, 100, 4)).astype(np.float64)
    scale = np.array([1e-3, 1, 50, 1e4])
    one = lm.metrics.stability(x, y, k=9)
    other = lm.metrics.stability(np.column_stack([x * scale, np.ones(100)]), np.column_stack([y * scale, x[:, 0]]), k=9)
    assert (one.n_constant, other.n_constant) == (0, 1)
    assert other.rmse == pytest.approx(one.rmse, rel=1e-5)
    assert other.knn_overlap == one.knn_overlap


def test_originals_are_compared_with_several():
    x, y = rng().standard_normal((2, 100, 4))
    original = Original.of(x, k=5)
    assert original.against(y) == lm.metrics.stability(x, y, k=5)
    assert original.against(x).rmse == 0


def test_errors():
    x = rng().standard_normal((30, 3))
    bad = x.copy()
    bad[2] = np.nan
    with pytest.raises(ValueError, match="`transformed` must be finite, got '1 rows that are not'"):
        lm.metrics.stability(x, bad, k=5)
    with pytest.raises(ValueError, match="`k` must be an int between 1 and 29, as there are 30 cells, got 100"):
        lm.metrics.stability(x, x)
    with pytest.raises(ValueError, match=r"`transformed` must be \(30, 3\), as the originals are"):
        lm.metrics.stability(x, x[:, :2], k=5)
    with pytest.raises(ValueError, match="the same for all 30 cells"):
        lm.metrics.stability(np.ones((30, 3)), x, k=5)
    with pytest.raises(ValueError, match=r"`original` must be a floating point array \(N, D\)"):
        lm.metrics.stability(np.ones((30, 3), dtype=int), x, k=5)
