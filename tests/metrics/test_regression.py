from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mean_squared_error, r2_score

import lemon_sc as lm


def made(n=120, genes=3, slides=4, seed=0):
    r = np.random.default_rng(seed)
    slide = np.arange(n) % slides
    truth = r.standard_normal((n, genes)) + 3 * slide[:, None]
    return truth, truth + r.standard_normal((n, genes)), slide


def test_equals_scipy_and_sklearn_within_each_slide():
    truth, prediction, slide = made()
    got = lm.metrics.regression(truth, prediction, slide=slide)
    assert got.slides == ("0", "1", "2", "3")
    for s in range(4):
        rows = slide == s
        for g in range(3):
            y, p = truth[rows, g], prediction[rows, g]
            assert got.gene_pcc[s, g] == pytest.approx(pearsonr(y, p).statistic, abs=1e-12)
            assert got.gene_r2[s, g] == pytest.approx(r2_score(y, p), abs=1e-12)
            assert got.gene_mse[s, g] == pytest.approx(mean_squared_error(y, p), abs=1e-12)
    pooled = [pearsonr(truth[:, g], prediction[:, g]).statistic for g in range(3)]
    np.testing.assert_allclose(got.gene_pooled, pooled, rtol=1e-12)
    assert got.pcc == pytest.approx(got.gene_pcc.mean())
    assert got.r2 == pytest.approx(got.gene_r2.mean())
    assert got.n_undefined == 0


def test_pooling_slides_is_seen_to_inflate():
    """A prediction that knows nothing but the slide."""
    r = np.random.default_rng(0)
    slide = np.repeat(np.arange(5), 400)
    truth = r.standard_normal(2000) + 2 * slide
    got = lm.metrics.regression(truth, 2 * slide + 0.1 * r.standard_normal(2000), slide=slide)
    assert got.pcc == pytest.approx(0, abs=0.05)
    assert got.pcc_pooled > 0.9


def test_undefined_genes_are_counted_not_zeroed():
    truth, prediction, slide = made()
    truth[slide == 1, 0] = 0.1  # constant truth in one slide
    prediction[slide == 2, 1] = 5.0  # constant prediction in another
    prediction[slide == 3, 2] = np.nan  # not predicted there
    got = lm.metrics.regression(truth, prediction, slide=slide)
    assert np.argwhere(~np.isfinite(got.gene_pcc)).tolist() == [[1, 0], [2, 1], [3, 2]]
    assert got.n_undefined == 3
    assert np.argwhere(~np.isfinite(got.gene_r2)).tolist() == [[1, 0], [3, 2]]
    np.testing.assert_allclose(got.slide_pcc, [np.nanmean(row) for row in got.gene_pcc])
    assert got.pcc == pytest.approx(np.mean([np.nanmean(row) for row in got.gene_pcc]))
    assert np.isnan(got.gene_pooled).tolist() == [False, False, True]


def test_errors():
    with pytest.raises(ValueError, match=r"must both be \(N, G\) with N >= 1, got shapes \(3, 1\) and \(4, 1\)"):
        lm.metrics.regression(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="`truth` must be finite, got '1 values that are not'"):
        lm.metrics.regression([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="`slide` must name the slide of each of the 3 cells"):
        lm.metrics.regression(np.ones(3), np.ones(3), slide=["a", "b"])
