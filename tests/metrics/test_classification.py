from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from lemon_sc.metrics import classification


def made(n=300, k=4, seed=0):
    r = np.random.default_rng(seed)
    truth = r.choice([f"c{i}" for i in range(k)], n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    logit = r.standard_normal((n, k)) + 1.5 * (truth[:, None] == [f"c{i}" for i in range(k)])
    p = np.exp(logit)
    return truth, p / p.sum(axis=1, keepdims=True), [f"c{i}" for i in range(k)]


def test_equals_sklearn_where_all_classes_are_there():
    truth, p, classes = made()
    got = classification(truth, p, classes=classes)
    predicted = np.array(classes)[p.argmax(axis=1)]
    is_class = truth[:, None] == np.array(classes)
    assert got.auc == pytest.approx(sk.roc_auc_score(truth, p, multi_class="ovr", average="macro"), abs=1e-12)
    assert got.aupr == pytest.approx(sk.average_precision_score(is_class, p, average="macro"), abs=1e-12)
    assert got.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(truth, predicted), abs=1e-12)
    assert got.f1_macro == pytest.approx(sk.f1_score(truth, predicted, average="macro"), abs=1e-12)
    assert got.f1_weighted == pytest.approx(sk.f1_score(truth, predicted, average="weighted"), abs=1e-12)
    assert got.n.tolist() == [(truth == c).sum() for c in classes]
    assert got.n_missing == 0


def test_area_under_the_curve_is_the_share_of_ordered_pairs():
    truth, p, classes = made(n=60, k=2)
    positive, rest = p[truth == "c1", 1], p[truth == "c0", 1]
    pairs = (positive[:, None] > rest).mean() + 0.5 * (positive[:, None] == rest).mean()
    assert classification(truth, p, classes=classes).class_auc[1] == pytest.approx(pairs, abs=1e-12)


def test_a_class_that_is_not_there_is_in_no_mean():
    truth, p, classes = made()
    keep = truth != "c2"
    got = classification(truth[keep], p[keep], classes=classes)
    assert got.n_missing == 1
    for values, mean in [
        (got.class_auc, got.auc),
        (got.class_aupr, got.aupr),
        (got.class_recall, got.balanced_accuracy),
        (got.class_f1, got.f1_macro),
    ]:
        assert np.isnan(values).tolist() == [False, False, True, False]
        assert mean == pytest.approx(np.nanmean(values))
    assert (p[keep].argmax(axis=1) == 2).any()  # it was predicted, which must not add an F1 of 0


def test_positive_class_decides_the_precision_recall_curve():
    """The rarer class has the smaller chance level: at 15 % and 85 % an uninformed score gives .15 and .85."""
    r = np.random.default_rng(0)
    truth = np.where(r.random(20_000) < 0.85, "normal", "mitotic")
    p = r.random(20_000)
    scores = np.column_stack([p, 1 - p])
    of = {pos: classification(truth, scores, classes=["mitotic", "normal"], pos_label=pos) for pos in set(truth)}
    assert of["normal"].aupr == pytest.approx(0.85, abs=0.02)
    assert of["mitotic"].aupr == pytest.approx(0.15, abs=0.02)
    assert of["normal"].auc == pytest.approx(of["mitotic"].auc)
    both = classification(truth, scores, classes=["mitotic", "normal"])
    assert both.aupr == pytest.approx((of["normal"].aupr + of["mitotic"].aupr) / 2)


def test_one_class_alone_has_recall_but_no_curve():
    got = classification(["a", "a"], [[0.9, 0.1], [0.2, 0.8]], classes=["a", "b"])
    assert np.isnan([got.auc, got.aupr]).all()
    assert got.balanced_accuracy == 0.5


@pytest.mark.parametrize(
    ("truth", "probability", "options", "match"),
    [
        (["a", "x"], np.ones((2, 2)), {}, r"`truth` must hold only the classes \['a', 'b'\], got \['x'\]"),
        (["a"], np.ones((2, 2)), {}, r"got shapes \(1,\) and \(2, 2\)"),
        ([], np.ones((0, 2)), {}, r"N >= 1"),
        (["a", "b"], np.ones((2, 2)), {"pos_label": "c"}, r"`pos_label` must be one of \['a', 'b'\], got 'c'"),
        (["a", "a"], np.ones((2, 2)), {"classes": ["a", "a"]}, "at least two classes, each once"),
    ],
)
def test_bad_input_says_so(truth, probability, options, match):
    with pytest.raises(ValueError, match=match):
        classification(truth, probability, **{"classes": ["a", "b"]} | options)
