from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import lemon_sc as lm


def test_interval_of_a_mean_equals_scipy():
    x = np.random.default_rng(1).gamma(2, 1, 40)
    expected = stats.bootstrap((x,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(0))
    got = lm.metrics.bootstrap(x, n_draws=9999)
    assert (got.value, got.n_units, got.n_undefined) == (x.mean(), 40, 0)
    np.testing.assert_allclose([got.low, got.high], expected.confidence_interval, atol=0.02)


def test_interval_holds_the_truth_as_often_as_it_says():
    r = np.random.default_rng(1)
    made = [lm.metrics.bootstrap(r.standard_normal(60), n_draws=200, level=0.8, rng=1000 + i) for i in range(200)]
    assert np.mean([m.low < 0 < m.high for m in made]) == pytest.approx(0.78, abs=0.09)


def test_whole_slides_are_drawn():
    """Twenty cells of a slide that are all alike say no more than one: the interval is that of the slides' means."""
    slide_mean = np.array([0.1, 0.4, 0.5, 0.9, 1.3, 1.4])
    slide = np.repeat(list("fbcade"), 20)
    got = lm.metrics.bootstrap(np.repeat(slide_mean, 20), units=slide, n_draws=3000)
    of_slides = lm.metrics.bootstrap(slide_mean, n_draws=3000, rng=1)
    of_cells = lm.metrics.bootstrap(np.repeat(slide_mean, 20), n_draws=500)
    assert got.n_units == 6
    assert got.high - got.low == pytest.approx(of_slides.high - of_slides.low, rel=0.08)
    assert (of_cells.high - of_cells.low) < 0.4 * (got.high - got.low)


def test_score_of_several_arrays_and_draws_without_one():
    r = np.random.default_rng(0)
    truth = np.array(["a"] * 2 + ["b"] * 18)
    p = r.random((20, 2))

    def auc(t, q):
        return lm.metrics.classification(t, q, classes=["a", "b"]).auc

    got = lm.metrics.bootstrap((truth, p), score=auc, n_draws=300)
    assert got.value == auc(truth, p)
    assert 0.05 < got.n_undefined / 300 < 0.25  # both cells of class a are missing with probability .9**20 = .12
    assert got.low < got.value < got.high


def test_permutation_test_equals_scipy_over_all_ways():
    r = np.random.default_rng(3)
    a = r.standard_normal(8)
    b = a + 0.5 + r.standard_normal(8)
    expected = stats.permutation_test(
        (b, a), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=np.inf
    )
    got = lm.metrics.paired_test(a, b)
    assert got.pvalue == pytest.approx(expected.pvalue, abs=1e-12)
    assert got.difference == pytest.approx((b - a).mean())


def test_paired_interval_is_that_of_the_differences():
    r = np.random.default_rng(3)
    a = 10 * r.standard_normal(30)  # slides differ much more than encoders
    b = a + 0.3 + 0.1 * r.standard_normal(30)
    got = lm.metrics.paired_test(a, b, n_draws=2000)
    of_difference = lm.metrics.bootstrap(b - a, n_draws=2000, rng=1)
    np.testing.assert_allclose([got.low, got.high], [of_difference.low, of_difference.high], atol=0.01)
    assert got.low > 0
    assert got.pvalue == pytest.approx(1 / 2001)


def test_equal_encoders_differ_as_often_as_chance_says():
    r = np.random.default_rng(0)
    p = [lm.metrics.paired_test(*r.standard_normal((2, 12)), n_draws=199, rng=i).pvalue for i in range(150)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    same = r.standard_normal(12)
    assert lm.metrics.paired_test(same, same).pvalue == 1


def test_predictions_are_swapped_slide_by_slide():
    """Cells of a slide agree; taken as single cells, a difference between three slides would look certain."""
    r = np.random.default_rng(0)
    truth = r.random(300) < 0.5
    slide = np.repeat(["a", "b", "c"], 100)
    good, bad = np.where(r.random(300) < 0.9, truth, ~truth), np.where(r.random(300) < 0.6, truth, ~truth)

    def accuracy(t, q):
        return np.mean(t == q)

    by_slide = lm.metrics.paired_test(bad, good, truth=truth, score=accuracy, units=slide)
    by_cell = lm.metrics.paired_test(bad, good, truth=truth, score=accuracy, n_draws=300)
    assert by_slide.difference == by_cell.difference == accuracy(truth, good) - accuracy(truth, bad)
    assert (by_slide.n_units, by_slide.pvalue) == (3, 0.25)  # 2 of 8 ways
    assert by_cell.pvalue < 0.01


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: m.bootstrap([1.0]), "`units` must be at least two"),
        (lambda m: m.bootstrap(([1.0, 2], [1.0])), "`data` must be arrays of one length"),
        (lambda m: m.bootstrap([1.0, 2], units=["a"]), "`units` must have one label for each of the 2 rows"),
        (lambda m: m.bootstrap([1.0, 2], level=95), "`level` must lie between 0 and 1, got 95"),
        (lambda m: m.bootstrap([1.0, 2], n_draws=0), "`n_draws` must be an int >= 1, got 0"),
        (lambda m: m.paired_test(np.ones((2, 1)), np.ones((2, 2))), "`first` and `second` must have the same shape"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call(lm.metrics)
