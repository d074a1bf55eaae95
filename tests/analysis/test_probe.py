from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lemon_sc.analysis.probe import ridge_probe
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


def pipeline(alpha, n_pcs, **options):
    pca = [] if n_pcs is None else [PCA(n_pcs, svd_solver="full")]
    return make_pipeline(StandardScaler(), *pca, Ridge(alpha=alpha, **options))


def nested_cv(x, y, slide, *, patient=None, n_pcs=None):
    """The same protocol, written with scikit-learn and loops; slides of one patient are left out together."""
    patient = slide if patient is None else patient
    pcc, chosen = [], []
    for test in np.unique(slide):
        outer = patient != patient[slide == test][0]
        score = {}
        for alpha in ALPHAS:
            per_slide = []
            for inner in np.unique(slide[outer]):
                fit, check = outer & (patient != patient[slide == inner][0]), slide == inner
                p = pipeline(alpha, n_pcs).fit(x[fit], y[fit]).predict(x[check])
                per_slide.append(np.mean([pearsonr(y[check, g], p[:, g]).statistic for g in range(y.shape[1])]))
            score[alpha] = np.mean(per_slide)
        best = max(score, key=score.get)
        p = pipeline(best, n_pcs).fit(x[outer], y[outer]).predict(x[slide == test])
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


@pytest.mark.parametrize("n_pcs", [None, 8])
def test_slides_of_one_patient_leave_together_and_are_scored_one_by_one(slides, n_pcs):
    x, y, slide = slides
    patient = np.array([0, 0, 1, 2, 2, 2])[slide]
    folds = leave_one_group_out(slide, patient)
    result = ridge_probe(x, y, folds, rng=rng(), n_null=2, n_pcs=n_pcs)
    pcc, alpha = nested_cv(x, y, slide, patient=patient, n_pcs=n_pcs)
    np.testing.assert_allclose(result.alpha, alpha)
    np.testing.assert_allclose(result.pcc, pcc, atol=1e-6)
    assert result.n_features.tolist() == [n_pcs or 30] * 6
    assert result.null.shape == (2, 6, 3)


def test_two_patients_choose_the_penalty_inside_the_one_they_learn_from(slides):
    x, y, slide = slides
    folds = leave_one_group_out(slide, slide // 3)
    result = ridge_probe(x, y, folds, rng=rng(), n_null=0)
    assert result.inner == "parts_of_the_training_fold"
    assert len(set(result.alpha[:3])) == len(set(result.alpha[3:])) == 1
    model = pipeline(result.alpha[0], None).fit(x[slide > 2], y[slide > 2])
    np.testing.assert_allclose(result.predictions[slide < 3], model.predict(x[slide < 3]), atol=1e-6)


@pytest.mark.parametrize("n_pcs", [None, 8, 500])
def test_penalty_of_hest_without_intercept(slides, n_pcs):
    x, y, slide = slides
    y = y + 5
    result = ridge_probe(x, y, leave_one_group_out(slide), rng=rng(), n_null=0, alpha="hest", n_pcs=n_pcs)
    k = min(n_pcs or 30, 30)
    for s in range(6):
        model = pipeline(100 / (k * 3), None if n_pcs is None else k, fit_intercept=False).fit(
            x[slide != s], y[slide != s]
        )
        np.testing.assert_allclose(result.predictions[slide == s], model.predict(x[slide == s]), atol=1e-6)
    np.testing.assert_allclose(result.alpha, 100 / (k * 3))
    assert result.inner == "hest"


def test_a_penalty_can_be_given(slides):
    x, y, slide = slides
    result = ridge_probe(x, y, leave_one_group_out(slide), rng=rng(), n_null=0, alpha=7.0)
    model = pipeline(7.0, None).fit(x[slide != 2], y[slide != 2])
    np.testing.assert_allclose(result.predictions[slide == 2], model.predict(x[slide == 2]), atol=1e-6)
    assert (result.inner, result.alpha.tolist()) == ("fixed", [7.0] * 6)


def test_targets_that_a_fold_does_not_use_do_not_touch_it(slides):
    """A fold's penalty, scores and predictions are those of a probe of its own targets."""
    x, y, slide = slides
    folds = leave_one_group_out(slide)
    used = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]], dtype=bool)
    result = ridge_probe(x, y, folds, rng=rng(), n_null=2, used_FG=used)
    for f in (0, 2, 4):
        alone = ridge_probe(x, y[:, used[f]], folds, rng=rng(), n_null=2)
        assert result.alpha[f] == alone.alpha[f]
        np.testing.assert_allclose(result.pcc[f, used[f]], alone.pcc[f], atol=1e-12)
        np.testing.assert_allclose(result.predictions[slide == f][:, used[f]], alone.predictions[slide == f])
        np.testing.assert_allclose(result.null[:, f, used[f]], alone.null[:, f], atol=1e-12)
    assert (np.isnan(result.pcc) == ~used).all()
    has = used[slide][:, 0]
    assert result.pooled[0] == pytest.approx(pearsonr(y[has, 0], result.predictions[has, 0]).statistic)


def test_pooled_correlation_is_inflated_by_slide_means_and_the_one_per_slide_is_not():
    """Features and target differ between slides in the same direction, and are unrelated within."""
    r = np.random.default_rng(0)
    slide = np.repeat(np.arange(12), 100)
    level = np.linspace(-3, 3, 12)[slide]
    x = level[:, None] * r.standard_normal(5) + r.standard_normal((1200, 5))
    y = (level + r.standard_normal(1200))[:, None]
    result = ridge_probe(x, y, leave_one_group_out(slide), rng=rng(), n_null=0)
    assert abs(result.gene_score[0]) < 0.05
    assert result.pooled[0] > 0.7


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
