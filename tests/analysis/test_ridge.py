from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from lemon_sc.analysis import ridge
from lemon_sc.metrics.correlation import constant_floor, pearson


def fit(x, y, train, alphas):
    centre = ridge.centre_of(x, y)
    m = ridge.moments(x, y, train, centre)
    return m, centre, ridge.weights(ridge.decompose(m, constant_floor(x)), m, alphas)


@pytest.fixture
def data():
    """Features with offsets, scales from 1e-3 to 1e3, a duplicate, and more features than needed."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((300, 6))
    x = latent @ rng.standard_normal((6, 20)) + 0.3 * rng.standard_normal((300, 20))
    x = x * np.logspace(-3, 3, 20) + 10 * np.logspace(-3, 3, 20)
    x[:, 7] = x[:, 3]
    y = latent @ rng.standard_normal((6, 5)) + rng.standard_normal((300, 5)) + [0, 1, 5, -3, 100]
    return x, y


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_train", [200, 12])
def test_equals_sklearn(data, dtype, n_train):
    x, y = data[0].astype(dtype), data[1]
    train, test = np.arange(n_train), np.arange(200, 300)
    m, centre, weight = fit(x, y, train, ridge.ALPHAS)
    scaler = StandardScaler().fit(x[train].astype(np.float64))
    for a, alpha in enumerate(ridge.ALPHAS):
        model = Ridge(alpha=alpha, solver="svd").fit(scaler.transform(x[train].astype(np.float64)), y[train])
        expected = model.predict(scaler.transform(x[test].astype(np.float64)))
        got = ridge.predict(x, test, weight[:, a], train=m, centre=centre)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_row_blocks_and_addition_change_nothing(data, monkeypatch):
    x, y = data
    whole, centre, weight = fit(x, y, np.arange(300), [1.0])
    monkeypatch.setattr(ridge, "_ROWS", 7)
    parts = ridge.add(ridge.moments(x, y, rows, centre) for rows in np.array_split(np.arange(300), 4))
    assert parts.n == whole.n
    for name in ("x", "y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-7)
    whole_rows = np.arange(300)
    np.testing.assert_allclose(ridge.cross_moment(x, y, whole_rows, whole_rows, centre), whole.xy, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(
        ridge.predict(x, whole_rows, weight[:, 0], train=whole, centre=centre).mean(axis=0), y.mean(axis=0), rtol=1e-9
    )


def test_features_constant_in_training_get_no_weight(data):
    x, y = data[0].astype(np.float32), data[1]
    x[:200, 4] = 0.1  # varies in the test cells only
    x[:, 5] = np.float32(0.3) * (1 + 1e-7 * np.random.default_rng(1).standard_normal(300)).astype(np.float32)
    _, _, weight = fit(x, y, np.arange(200), [1e-2, 1.0])
    assert (weight[[4, 5]] == 0).all()
    assert (weight[[0, 1, 2]] != 0).all()
    assert np.isfinite(weight).all()


def test_correlation_from_sums_equals_correlation_of_predictions(data):
    x, y = data
    y = np.column_stack([y, np.full(300, 0.7)])
    train, test = np.arange(200), np.arange(200, 300)
    m, centre, weight = fit(x, y, train, [0.01, 1.0, 1e6])
    held_out = ridge.moments(x, y, test, centre)
    every = ridge.pearson_from_moments(held_out, weight, constant_floor(y))
    for a, w in enumerate(np.moveaxis(weight, 1, 0)):
        got = ridge.pearson_from_moments(held_out, w, constant_floor(y))
        np.testing.assert_allclose(every[a], got, atol=1e-12)
        expected = pearson(y[test], ridge.predict(x, test, w, train=m, centre=centre))
        np.testing.assert_allclose(got, expected, atol=1e-7)
        assert np.isnan(got).tolist() == [False] * 5 + [True]
    two = ridge.moments(x, y, test[:2], centre)
    assert np.isnan(ridge.pearson_from_moments(two, weight[:, 0], constant_floor(y))).all()


@pytest.mark.parametrize("columns", [1, 7, 1000])
def test_targets_are_scored_in_parts_as_at_once(data, monkeypatch, columns):
    x, y = data
    m, centre, weight = fit(x, y, np.arange(150), [0.1, 10.0, 1e3])
    cells = [ridge.moments(x, y, rows, centre) for rows in (np.arange(150, 200), np.arange(200, 300))]
    expected = [ridge.pearson_from_moments(c, weight, constant_floor(y)) for c in cells]
    monkeypatch.setattr(ridge, "_COLUMNS", columns)
    basis = ridge.decompose(m, constant_floor(x))
    got = ridge.correlations(basis, m, cells, np.array([0.1, 10.0, 1e3]), constant_floor(y))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert np.shape(got) == (2, 3, 5)


def test_sums_of_the_parts_are_not_changed_by_adding_them(data):
    x, y = data
    centre = ridge.centre_of(x, y)
    first, second = (ridge.moments(x, y, rows, centre) for rows in (np.arange(9), np.arange(9, 20)))
    before = first.xx.copy(), first.yy.copy()
    ridge.add([first, second])
    np.testing.assert_array_equal(first.xx, before[0])
    np.testing.assert_array_equal(first.yy, before[1])
