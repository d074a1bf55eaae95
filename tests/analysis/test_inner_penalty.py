"""Penalties of the logistic probe that are chosen within the training cells."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lemon_sc.analysis import logistic
from lemon_sc.analysis.logistic import choose_c, logistic_probe
from lemon_sc.analysis.splits import leave_one_group_out, stratified
from lemon_sc.metrics.classification import METRICS


def rng():
    return np.random.default_rng(0)


def cells(n, n_noise, *, seed=0):
    """Three classes, one of them rare, in three of many features."""
    r = np.random.default_rng(seed)
    label = r.choice(["stroma", "tumour", "immune"], n, p=[0.5, 0.35, 0.15])
    told = (label[:, None] == np.unique(label)).astype(float)
    return np.hstack([1.5 * told + r.standard_normal((n, 3)), r.standard_normal((n, n_noise))]), label


@pytest.mark.parametrize("patients", [None, ["a", "a", "b", "c", "d"]])
def test_the_choice_is_that_of_nested_cross_validation_with_sklearn(monkeypatch, patients):
    monkeypatch.setattr(logistic, "PENALTIES", np.array([1e-3, 1e-2, 1e-1, 1.0]))
    x, label = cells(200, 20)
    slide = np.repeat(np.arange(5), 40)
    who = slide if patients is None else np.array(patients)[slide]
    folds = leave_one_group_out(slide, None if patients is None else who)
    expected = []
    for f in range(5):
        train = who != who[slide == f][0]
        score = []
        for c in logistic.PENALTIES:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000, tol=1e-8))
            told = cross_val_predict(model, x[train], label[train], groups=who[train], cv=LeaveOneGroupOut())
            score.append(balanced_accuracy_score(label[train], told))
        expected.append(logistic.PENALTIES[np.argmax(score)])
    assert len(set(expected)) > 1, "or the test could not fail"
    made = logistic_probe(x, label, folds, rng=rng(), n_null=0, c="inner")
    assert made.c.tolist() == choose_c(x, label, folds).tolist() == expected
    fixed = [logistic_probe(x, label, folds, rng=rng(), n_null=0, c=c) for c in expected]
    for f in range(5):
        held = slide == f
        np.testing.assert_allclose(made.probability[held], fixed[f].probability[held], atol=1e-6)


def test_a_rare_class_that_can_be_told_is_not_penalised_away():
    r = rng()
    rare = np.where(r.random(600) < 0.1, "mitosis", "other")
    told = 0.5 * (rare == "mitosis")[:, None] + 0.2 * r.standard_normal((600, 1))
    folds = stratified(rare, rng=rng())
    weak, chosen = (logistic_probe(told, rare, folds, rng=rng(), n_null=0, c=c) for c in (1e-4, "inner"))
    at = METRICS.index("balanced_accuracy")
    assert weak.metrics[:, at].tolist() == [0.5] * 5, "every cell is told to be of the common class"
    assert chosen.metrics[:, at].min() > 0.6
    assert chosen.c.min() > 1e-3


def test_held_out_cells_have_no_say():
    x, label = cells(150, 20)
    folds = leave_one_group_out(np.repeat(np.arange(3), 50))
    other = label.copy()
    other[folds.codes == 0] = rng().permutation(other[folds.codes == 0])
    assert choose_c(x, label, folds)[0] == choose_c(x, other, folds)[0]


def test_two_folds_are_too_few():
    x, label = cells(100, 3)
    with pytest.raises(ValueError, match=r"To choose a penalty for fold '0', two folds .* there is one"):
        logistic_probe(x, label, leave_one_group_out(np.repeat([0, 1], 50)), rng=rng(), c="inner")


def test_one_class_to_choose_with_is_an_error():
    x, _ = cells(150, 3)
    slide = np.repeat([0, 1, 2], 50)
    label = np.where((slide == 2) | (np.arange(150) % 50 < 10) & (slide == 1), "a", "b")
    with pytest.raises(ValueError, match=r"predict folds '0' and '1' there are only cells of class \['a'\]"):
        logistic_probe(x, label, leave_one_group_out(slide), rng=rng(), c="inner")
