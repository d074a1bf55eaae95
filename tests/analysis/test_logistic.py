from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.analysis.splits import leave_one_group_out, stratified
from lemon_sc.metrics.classification import METRICS


def rng():
    return np.random.default_rng(0)


@pytest.fixture
def cells():
    """Three classes that differ a little in four of twelve features, five slides with offsets."""
    r = np.random.default_rng(1)
    slide = np.repeat(np.arange(5), 60)
    label = r.choice(["stroma", "tumour", "immune"], 300, p=[0.5, 0.3, 0.2])
    x = r.standard_normal((300, 12)) @ r.standard_normal((12, 12)) + r.standard_normal((5, 12))[slide]
    x[:, 0] += 4 * (label == "tumour")
    x[:, 1] -= 4 * (label == "immune")
    return x, label, slide


@pytest.mark.parametrize("n_pcs", [None, 5])
def test_equals_a_pipeline_of_sklearn(cells, n_pcs):
    x, label, slide = cells
    result = logistic_probe(x, label, leave_one_group_out(slide), rng=rng(), n_null=0, n_pcs=n_pcs)
    assert result.classes == ("immune", "stroma", "tumour")
    for f in range(5):
        train, test = slide != f, slide == f
        steps = [StandardScaler(), *([] if n_pcs is None else [PCA(n_pcs, svd_solver="full")])]
        model = make_pipeline(*steps, LogisticRegression(C=1.0, max_iter=5000, tol=1e-9)).fit(x[train], label[train])
        p, hard = model.predict_proba(x[test]), model.predict(x[test])
        np.testing.assert_allclose(result.probability[test], p, atol=1e-6)
        expected = {
            "auc": roc_auc_score(label[test], p, multi_class="ovr"),
            "aupr": average_precision_score(label[test][:, None] == model.classes_, p),
            "balanced_accuracy": balanced_accuracy_score(label[test], hard),
            "f1_macro": f1_score(label[test], hard, average="macro"),
            "f1_weighted": f1_score(label[test], hard, average="weighted"),
        }
        np.testing.assert_allclose(result.metrics[f], [expected[m] for m in METRICS], atol=1e-6)


def test_separable_classes_score_high_and_shuffled_labels_at_chance(cells):
    x, label, slide = cells
    folds = leave_one_group_out(slide)
    strong = x.copy()
    strong[:, 2] += 60 * (label == "tumour")
    strong[:, 3] += 60 * (label == "immune")
    good = logistic_probe(strong, label, folds, rng=rng(), n_null=20)
    assert good.metrics.min() > 0.95
    assert good.null[..., METRICS.index("auc")].mean() == pytest.approx(0.5, abs=0.03)
    assert good.null[..., METRICS.index("balanced_accuracy")].mean() == pytest.approx(1 / 3, abs=0.03)
    assert good.null_auc.shape == (20, 5, 3)
    shuffled = logistic_probe(strong, rng().permutation(label), folds, rng=rng(), n_null=0)
    assert shuffled.metrics.mean(axis=0)[0] == pytest.approx(0.5, abs=0.08)
    assert shuffled.metrics.mean(axis=0)[2] == pytest.approx(1 / 3, abs=0.08)


def test_slide_leak_is_not_rewarded():
    """An embedding that knows only the slide, and classes that follow it."""
    r = np.random.default_rng(0)
    slide = np.repeat(np.arange(20), 50)
    label = np.where(np.arange(20) % 2, "tumour", "stroma")[slide]
    x = np.eye(20)[slide] + 0.01 * r.standard_normal((1000, 20))
    by_slide = logistic_probe(x, label, leave_one_group_out(slide), rng=rng(), n_null=0)
    assert by_slide.metrics[:, METRICS.index("balanced_accuracy")].mean() < 0.65
    by_chance = logistic_probe(x, label, stratified(label, rng=rng()), rng=rng(), n_null=0)
    assert by_chance.metrics[:, METRICS.index("balanced_accuracy")].mean() > 0.99


def test_classes_missing_in_a_fold_or_in_what_it_learns_from_are_counted(cells):
    x, label, slide = cells
    label = label.astype("U12")
    label[(label == "immune") & (slide == 1)] = "stroma"
    label[np.flatnonzero(slide == 3)[:9]] = "only_here"
    result = logistic_probe(x, label, leave_one_group_out(slide), rng=rng(), n_null=2)
    assert (result.by_class("n") == 0).sum(axis=1).tolist() == [1, 2, 1, 0, 1]
    assert result.n_untrained.tolist() == [0, 0, 0, 1, 0]
    there = result.by_class("class_recall")[1]
    assert np.isnan(there).tolist() == [True, True, False, False]
    assert result.metrics[1, 2] == pytest.approx(np.nanmean(there))
    column = result.classes.index("only_here")
    assert (result.probability[slide == 3, column] == 0).all()
    assert result.by_class("class_recall")[3, column] == 0  # present in the truth, so it counts
    np.testing.assert_allclose(result.probability.sum(axis=1), 1)


def test_features_without_variance_do_no_harm():
    label = np.tile(["a", "b", "b"], 20)
    x = np.full((60, 2), 0.1, dtype=np.float32) * (1 + 1e-7 * rng().standard_normal((60, 2))).astype(np.float32)
    result = logistic_probe(x, label, leave_one_group_out(np.repeat([0, 1], 30)), rng=rng(), n_null=0)
    np.testing.assert_allclose(result.probability, np.tile([1 / 3, 2 / 3], (60, 1)))
    assert result.metrics[:, 0] == pytest.approx([0.5, 0.5])


def test_same_seed_same_null(cells):
    x, label, slide = cells
    folds = leave_one_group_out(slide)
    a, b = (logistic_probe(x, label, folds, rng=rng(), n_null=3).null for _ in range(2))
    assert (a == b).all()


def test_one_class_is_an_error(cells):
    x, label, slide = cells
    with pytest.raises(ValueError, match=r"at least two classes, found \['a'\]"):
        logistic_probe(x, np.full(300, "a"), leave_one_group_out(slide), rng=rng())
    label = np.where(slide == 2, "b", "a")
    with pytest.raises(ValueError, match=r"predict fold '2' there are only cells of class \['a'\]"):
        logistic_probe(x, label, leave_one_group_out(slide), rng=rng())
