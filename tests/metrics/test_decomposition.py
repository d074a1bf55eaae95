"""Scores of compositions against scipy and loops."""

import numpy as np
import pytest
from scipy.stats import pearsonr

import lemon_sc as lm


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    truth = rng.dirichlet([1.0, 2.0, 0.5, 1.0], 90)
    guess = np.clip(truth + rng.normal(0, 0.2, truth.shape), 0, None)
    return truth, guess, np.repeat(["s1", "s2", "s3"], 30)


def test_scores_are_those_of_a_loop(case):
    truth, guess, slide = case
    made = lm.metrics.decomposition(truth, guess, slide=slide)
    assert made.slides == ("s1", "s2", "s3")
    for s, name in enumerate(made.slides):
        for c in range(4):
            a, b = truth[slide == name, c], guess[slide == name, c]
            assert made.type_cc[s, c] == pytest.approx(pearsonr(a, b).statistic)
            assert made.type_l1[s, c] == pytest.approx(sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 30)
    assert made.cc == pytest.approx(made.type_cc.mean())
    assert made.l1 == pytest.approx(np.abs(truth - guess).mean())
    assert made.cc_pooled == pytest.approx(np.mean([pearsonr(truth[:, c], guess[:, c]).statistic for c in range(4)]))


def test_differences_between_slides_count_only_in_the_pooled_correlation(case):
    _, _, slide = case
    rng = np.random.default_rng(0)
    level = (slide == "s1").astype(float)[:, None] * [10.0, 5.0]
    truth, guess = level + rng.random((90, 2)), level + rng.random((90, 2))
    made = lm.metrics.decomposition(truth, guess, slide=slide)
    assert made.cc_pooled > 0.95
    assert abs(made.cc) < 0.3


def test_a_type_that_is_constant_is_counted_and_not_zero(case):
    truth, guess, slide = case
    truth = truth.copy()
    truth[slide == "s2", 1] = 0.0
    made = lm.metrics.decomposition(truth, guess, slide=slide)
    assert made.n_undefined == 1
    assert np.isnan(made.type_cc[1, 1])
    assert made.slide_cc[1] == pytest.approx(np.mean(made.type_cc[1, [0, 2, 3]]))
    assert np.isfinite(made.type_l1).all()


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r"must both be \(N, G\)"):
        lm.metrics.decomposition(np.zeros((4, 2)), np.zeros((4, 3)))
