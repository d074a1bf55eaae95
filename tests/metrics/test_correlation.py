from __future__ import annotations

import numpy as np
from scipy.stats import pearsonr

from lemon_sc.metrics.correlation import constant_floor, pearson


def test_equals_scipy():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((50, 4)) * [1, 1e-3, 1e4, 1] + [0, 5, 0, 100]
    b = a + rng.standard_normal((50, 4)) * [1, 1e-3, 1e4, 3]
    expected = [pearsonr(a[:, j], b[:, j]).statistic for j in range(4)]
    np.testing.assert_allclose(pearson(a, b), expected, rtol=1e-12)


def test_constant_columns_are_undefined_not_noise():
    rng = np.random.default_rng(0)
    constant = np.full(1000, 0.1, dtype=np.float32)
    jitter = constant * (1 + 1e-7 * rng.standard_normal(1000)).astype(np.float32)  # float32 noise on a constant
    rare = np.zeros(1000, dtype=np.float32)
    rare[0] = 1
    truth = np.column_stack([constant, jitter, rare, rare])
    prediction = np.column_stack([rng.standard_normal((1000, 3)), np.full(1000, 0.3)])
    assert np.isnan(pearson(truth, prediction)).tolist() == [True, True, False, True]


def test_two_cells_do_not_correlate():
    assert np.isnan(pearson(np.array([[0.0], [1]]), np.array([[0.0], [1]]))).all()
    assert pearson(np.array([[0.0], [1], [3]]), np.array([[0.0], [2], [6]])) == 1


def test_floor_is_relative_to_the_largest_value():
    assert constant_floor(np.array([[1.0, -2000], [3, 1000]]), rtol=0.1).tolist() == [0.30000000000000004, 200]
    assert constant_floor(np.empty((0, 2))).tolist() == [0, 0]
