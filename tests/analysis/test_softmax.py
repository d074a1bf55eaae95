"""The solver against other solvers of scikit-learn, and against the conditions of an optimum."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from lemon_sc.analysis import softmax as module
from lemon_sc.analysis.softmax import fit_softmax


def made(n=300, d=12, k=3, *, seed=0):
    """Features of very different spread, correlated, and classes that depend on them."""
    r = np.random.default_rng(seed)
    x = r.standard_normal((n, d)) @ (r.standard_normal((d, d)) * np.logspace(1, -2, d))
    code = (x[:, :k] / x[:, :k].std(axis=0) + r.gumbel(size=(n, k))).argmax(axis=1)
    assert len(np.unique(code)) == k
    return x, code


def probability(x, code, **options):
    weight, intercept = fit_softmax(x, code, **options)
    assert weight.shape == (x.shape[1], code.max() + 1)
    return softmax(x @ weight + intercept, axis=1)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("c", [1e-3, 1.0, 100.0])
def test_is_the_optimum_that_newton_finds(k, c):
    x, code = made(k=k)
    model = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=1000).fit(x, code)
    np.testing.assert_allclose(probability(x, code, c=c), model.predict_proba(x), atol=2e-6)


def test_more_features_than_cells():
    x, code = made(n=40, d=90)
    model = LogisticRegression(solver="newton-cg", tol=1e-10, max_iter=1000).fit(x, code)
    np.testing.assert_allclose(probability(x, code), model.predict_proba(x), atol=2e-6)


def test_classes_that_a_feature_separates_keep_finite_weights():
    x = np.repeat([[-1.0], [1.0]], 30, axis=0)
    weight, intercept = fit_softmax(x, np.repeat([0, 1], 30))
    step = weight[0, 1] - weight[0, 0]
    assert intercept[1] - intercept[0] == pytest.approx(0, abs=1e-6)
    # Where the derivative of  60 log(1 + exp(-w)) + w^2 / 2  vanishes.
    assert 60 / (1 + np.exp(step)) == pytest.approx(step, rel=1e-5)


def test_nothing_to_learn_gives_the_shares_of_the_classes():
    got = probability(np.zeros((10, 2)), np.repeat([0, 1, 2], [5, 3, 2]))
    np.testing.assert_allclose(got, np.tile([0.5, 0.3, 0.2], (10, 1)), atol=1e-6)


def test_the_optimum_does_not_depend_on_rotation():
    x, code = made()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0]
    np.testing.assert_allclose(probability(x @ turn, code), probability(x, code), atol=2e-6)


def test_says_that_it_did_not_get_there(monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_ITER", 3)
    fit_softmax(*made())
    assert "did not converge in 3 steps" in caplog.text
    assert "The penalty was 1 / 1; stronger ones converge sooner." in caplog.text  # callers may have no `c`
