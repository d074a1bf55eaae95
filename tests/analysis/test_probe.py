from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lemon_sc.analysis.probe import nanmean, nanstd, ridge_probe
from lemon_sc.analysis.ridge import ALPHAS
from lemon_sc.analysis.splits import leave_one_group_out


def rng():
    return np.random.default_rng(0)


@pytest.fixture
def slides():
    """Six slides with their own offset; loud nuisances in all features, quiet directions drive two of the targets."""
    r = np.random.default_rng(1)
    slide = np.repeat(np.arange(6), 60)
    own = r.standard_normal((360, 30))
    x = own + 3 * r.standard_normal((360, 3)) @ r.standard_normal((3, 30)) + r.standard_normal((6, 30))[slide]
    y = own @ np.column_stack([r.standard_normal((30, 2)) / 5, np.zeros(30)]) + r.standard_normal((360, 3))
    return x, y + r.standard_normal((6, 3))[slide], slide


def nested_cv(x, y, slide):
    """The same protocol, written with scikit-learn and loops."""
    pcc, chosen = [], []
    for test in np.unique(slide):
        outer = slide != test
        score = {}
        for alpha in ALPHAS:
            per_slide = []
            for inner in np.unique(slide[outer]):
                fit, check = outer & (slide != inner), slide == inner
                p = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x[fit], y[fit]).predict(x[check])
                per_slide.append(np.mean([pearsonr(y[check, g], p[:, g]).statistic for g in range(y.shape[1])]))
            score[alpha] = np.mean(per_slide)
        best = max(score, key=score.get)
        p = make_pipeline(StandardScaler(), Ridge(alpha=best)).fit(x[outer], y[outer]).predict(x[slide == test])
        pcc.append([pearsonr(y[slide == test, g], p[:, g]).statistic for g in range(y.shape[1])])
        chosen.append(best)
    return np.array(pcc), np.array(chosen)


def test_equals_nested_cross_validation_with_sklearn(slides):
    x, y, slide = slides
    result = ridge_probe(x, y, leave_one_group_out(slide), rng=rng(), n_null=0)
    pcc, alpha = nested_cv(x, y, slide)
    np.testing.assert_allclose(result.alpha, alpha)
    np.testing.assert_allclose(result.pcc, pcc, atol=1e-6)
    assert set(alpha) - {ALPHAS[0], ALPHAS[-1]}  # a real choice, not an end of the range
    expected = [pearsonr(y[:, g], result.predictions[:, g]).statistic for g in range(3)]
    np.testing.assert_allclose(result.pooled, expected, atol=1e-12)
    assert result.null.shape == (0, 6, 3)
    assert np.isnan(result.pvalue).all()


def test_null_separates_signal_from_noise(slides):
    x, y, slide = slides
    result = ridge_probe(x, y, leave_one_group_out(slide), rng=rng(), n_null=60)
    assert abs(result.null.mean()) < 0.02
    assert result.pvalue[:2] == pytest.approx(1 / 61)
    assert result.pvalue[2] > 0.05
    again = ridge_probe(x, y, leave_one_group_out(slide), rng=rng(), n_null=60)
    assert (again.null == result.null).all()


def test_null_is_a_fit_to_rows_shuffled_within_slides(slides):
    x, y, slide = slides
    result = ridge_probe(x, y, leave_one_group_out(slide), rng=rng(), n_null=1)
    shuffle = rng().spawn(2)[1].spawn(1)[0]
    shuffled = np.concatenate([y[shuffle.permutation(np.flatnonzero(slide == s))] for s in range(6)])
    for s, alpha in enumerate(result.alpha):
        model = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x[slide != s], shuffled[slide != s])
        p = model.predict(x[slide == s])
        expected = [pearsonr(shuffled[slide == s, g], p[:, g]).statistic for g in range(3)]
        np.testing.assert_allclose(result.null[0, s], expected, atol=1e-6)


def test_pvalue_of_noise_is_uniform():
    r = np.random.default_rng(5)
    x, y = r.standard_normal((200, 4)), r.standard_normal((200, 300))
    p = ridge_probe(x, y, leave_one_group_out(np.repeat(np.arange(4), 50)), rng=rng(), n_null=19).pvalue
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.04)
    assert p.mean() == pytest.approx(0.5, abs=0.1)


def test_two_groups_choose_the_penalty_inside_the_one_they_learn_from(slides):
    x, y, slide = slides
    keep = slide < 2
    result = ridge_probe(x[keep], y[keep], leave_one_group_out(slide[keep]), rng=rng(), n_null=5)
    assert result.inner == "parts_of_the_training_fold"
    first, second = keep & (slide == 0), keep & (slide == 1)
    model = make_pipeline(StandardScaler(), Ridge(alpha=result.alpha[0])).fit(x[second], y[second])
    np.testing.assert_allclose(result.predictions[slide[keep] == 0], model.predict(x[first]), atol=1e-6)
    assert result.gene_score[0] > 0.1


def test_undefined_correlations_are_nan_and_left_out_of_means():
    r = np.random.default_rng(0)
    slide = np.repeat(np.arange(4), 40)
    x = r.standard_normal((160, 5)).astype(np.float32)
    y = np.column_stack([x[:, 0], np.full(160, 0.1), np.where(slide == 2, 0.5, x[:, 1])]).astype(np.float32)
    result = ridge_probe(x, y, leave_one_group_out(slide), rng=rng(), n_null=3)
    assert np.isnan(result.pcc).tolist() == [[False, True, False]] * 2 + [[False, True, True]] + [[False, True, False]]
    assert result.gene_score[0] > 0.99
    assert np.isnan(result.gene_score[1])
    assert result.gene_score[2] == pytest.approx(np.nanmean(result.pcc[:, 2]))
    assert np.isnan(result.pvalue[1])


def test_embedding_that_is_constant_within_slides_predicts_nothing():
    slide = np.repeat(np.arange(5), 30)
    y = np.random.default_rng(0).standard_normal((150, 4)) + slide[:, None]
    result = ridge_probe(np.eye(5, dtype=np.float32)[slide], y, leave_one_group_out(slide), rng=rng(), n_null=2)
    assert np.isnan(result.pcc).all()
    assert np.isnan(result.null).all()
    assert (result.alpha == ALPHAS[-1]).all()


def test_group_of_one_cell_does_not_stop_the_rest():
    r = np.random.default_rng(0)
    x = r.standard_normal((41, 3))
    folds = leave_one_group_out(["a"] * 40 + ["b"])
    result = ridge_probe(x, x[:, :1], folds, rng=rng(), n_null=1)
    assert np.isnan(result.pcc).all()
    assert np.isfinite(result.predictions).all()


def test_negative_number_of_shuffles():
    with pytest.raises(ValueError, match="`n_null` must be an int >= 0, got -1"):
        ridge_probe(np.ones((9, 1)), np.ones((9, 1)), leave_one_group_out(np.arange(9) % 3), rng=rng(), n_null=-1)


def test_nan_means_without_warnings():
    x = np.array([[1.0, np.nan, 3], [np.nan, np.nan, 5]])
    np.testing.assert_array_equal(nanmean(x, axis=0), [1, np.nan, 4])
    np.testing.assert_allclose(nanstd(x, axis=0), [np.nan, np.nan, np.sqrt(2)])
    np.testing.assert_array_equal(nanmean(x, axis=1), [2, 5])
