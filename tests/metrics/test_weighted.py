"""Scores under weights against those of scikit-learn, one weighting at a time."""

import numpy as np
import pytest
from sklearn import metrics as sk

from lemon_sc.metrics import bootstrap, classification, classification_intervals
from lemon_sc.metrics.classification import METRICS
from lemon_sc.metrics.weighted import weighted_scores


def cells(n=120, k=3, *, seed=0):
    """Classes of unequal size, and probabilities with ties."""
    r = np.random.default_rng(seed)
    code = r.choice(k, n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    p = np.exp(r.standard_normal((n, k)) + 1.2 * np.eye(k)[code])
    return code, (p / p.sum(axis=1, keepdims=True)).round(1)


def test_equals_scikit_learn_with_sample_weights():
    code, score = cells()
    weight = np.random.default_rng(1).integers(0, 4, (6, len(code))).astype(float)
    made = weighted_scores(code, score, weight)
    for b, w in enumerate(weight):
        _, recall, f1, n = sk.precision_recall_fscore_support(code, score.argmax(axis=1), sample_weight=w)
        np.testing.assert_allclose([made.recall[b], made.f1[b], made.n[b]], [recall, f1, n])
        for c in range(3):
            auc = sk.roc_auc_score(code == c, score[:, c], sample_weight=w)
            aupr = sk.average_precision_score(code == c, score[:, c], sample_weight=w)
            np.testing.assert_allclose([made.auc[b, c], made.aupr[b, c]], [auc, aupr])


def test_a_weight_is_a_number_of_copies():
    code, score = cells()
    times = np.random.default_rng(2).integers(0, 3, len(code))
    rows, names = np.repeat(np.arange(len(code)), times), ["0", "1", "2"]
    copied = classification(code[rows].astype(str), score[rows], classes=names, pos_label="1")
    made = weighted_scores(code, score, times[None].astype(float)).averaged(1)[0]
    np.testing.assert_allclose(made, [getattr(copied, name) for name in METRICS])


def test_a_class_that_was_not_drawn_is_in_no_mean():
    code, score = cells()
    weight = np.ones((2, len(code)))
    weight[1, code == 2] = 0
    made = weighted_scores(code, score, weight)
    assert np.isnan([made.recall[1, 2], made.f1[1, 2], made.auc[1, 2], made.aupr[1, 2]]).all()
    assert np.isfinite(made.averaged(None)).all()
    assert made.averaged(None)[1, 2] == pytest.approx(made.recall[1, :2].mean())
    alone = weighted_scores(code, score, (code == 0)[None].astype(float))
    assert np.isnan([*alone.auc[0], *alone.aupr[0]]).all()
    assert np.isnan(alone.averaged(None)[0, :2]).all()


def test_intervals_are_those_of_the_plain_bootstrap():
    code, score = cells(n=200)
    slide, truth, names = np.arange(200) // 10, code.astype(str), ["0", "1", "2"]
    made = classification_intervals(truth, score, classes=names, units=slide, n_draws=2000, rng=1)
    assert tuple(made) == METRICS
    for name in ("auc", "f1_macro"):

        def one(truth, score, name=name):
            return getattr(classification(truth, score, classes=names), name)

        plain = bootstrap((truth, score), score=one, units=slide, n_draws=500, rng=2)
        got = made[name]
        assert (got.value, got.n_units, got.n_draws) == (pytest.approx(plain.value), 20, 2000)
        np.testing.assert_allclose([got.low, got.high], [plain.low, plain.high], atol=0.2 * (plain.high - plain.low))


def test_whole_slides_make_wide_intervals():
    """All cells of a slide are right, or all wrong: there are as many independent cells as slides."""
    slide = np.repeat(np.arange(20), 50)
    truth = np.tile(["a", "b"], 500)
    right = np.random.default_rng(0).permutation(20)[slide] < 14
    score = np.where(((truth == "a") == right)[:, None], [0.9, 0.1], [0.1, 0.9])
    width = {}
    for name, units in (("slide", slide), ("cell", None)):
        made = classification_intervals(truth, score, classes=["a", "b"], units=units)["balanced_accuracy"]
        width[name] = made.high - made.low
        assert made.value == pytest.approx(0.7)
    assert width["slide"] == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 20), rel=0.15)
    assert width["cell"] == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 1000), rel=0.15)


def test_draws_that_lack_a_class_are_counted():
    truth, score = ["a", "a", "a", "b"], [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]]
    made = classification_intervals(truth, score, classes=["a", "b"], n_draws=400)["auc"]
    assert made.n_undefined / 400 == pytest.approx(0.75**4 + 0.25**4, abs=0.08)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"units": [1, 1, 1]}, "`units` must be at least two"),
        ({"n_draws": 0}, "`n_draws` must be an int >= 1"),
        ({"probability": np.full((3, 2), np.nan)}, "`probability` must be finite, got '3 rows"),
    ],
)
def test_bad_input_says_so(options, match):
    given = {"truth": ["a", "b", "a"], "probability": np.ones((3, 2)), "classes": ["a", "b"]} | options
    with pytest.raises(ValueError, match=match):
        classification_intervals(given.pop("truth"), given.pop("probability"), **given)
