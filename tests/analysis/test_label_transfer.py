"""The model of label transfer against scikit-learn, planted truth, and what it must not depend on."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.utils.class_weight import compute_sample_weight

from lemon_sc.analysis import label_transfer
from lemon_sc.analysis.label_transfer import C, fit_labels, predict_labels
from lemon_sc.analysis.softmax import fit_softmax
from lemon_sc.analysis.splits import leave_one_group_out, stratified

NAMES = np.array(["lymphocyte", "stroma", "tumour"])


def cells(shares=(60, 25, 15), *, seed=0, d=6, shift=0.0, apart=2.0):
    """Classes in unequal numbers, each around a place of its own, on scales that differ; one feature is constant."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(3), shares)
    x = rng.standard_normal((len(code), d)) + shift
    x[np.arange(len(code)), code] += apart
    return np.column_stack([x * np.logspace(0, 3, d), np.full(len(code), 7.0)]).astype(np.float32), NAMES[code]


def folds_of(labels):
    return stratified(labels, rng=np.random.default_rng(0))


def theirs(x, labels, c):
    """scikit-learn's model on features standardised with every class counting alike, and what standardises them."""
    weight = compute_sample_weight("balanced", labels)
    mean = np.average(x, axis=0, weights=weight)
    sd = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    model = LogisticRegression(C=c, class_weight="balanced", solver="newton-cg", tol=1e-10, max_iter=1000)
    return model.fit((x - mean) / sd, labels), mean, sd


def test_is_the_balanced_model_of_scikit_learn_at_the_penalty_that_predicts_best():
    x, labels = cells()
    folds, used = folds_of(labels), x[:, :-1].astype(np.float64)
    made = fit_labels(x, labels, folds)
    losses, guesses = [], []
    for c in C:
        probability = np.zeros((len(x), 3))
        for f in range(len(folds.names)):
            train = folds.codes != f
            model, mean, sd = theirs(used[train], labels[train], c)
            probability[~train] = model.predict_proba((used[~train] - mean) / sd)
        losses.append(log_loss(labels, probability, sample_weight=compute_sample_weight("balanced", labels)))
        guesses.append(NAMES[probability.argmax(axis=1)])
    best = int(np.argmin(losses))
    assert made.c == C[best]
    assert made.held_out.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, guesses[best]))
    model, mean, sd = theirs(used, labels, C[best])
    query, _ = cells(seed=1)
    wanted = model.predict_proba((query[:, :-1] - mean) / sd)
    np.testing.assert_allclose(predict_labels(made, query), wanted, atol=2e-5)


def test_weights_of_cells_are_those_of_cells_that_are_there_several_times():
    x, labels = cells((20, 10, 6))
    code, times = np.unique(labels, return_inverse=True)[1], np.tile([1, 2, 3, 1], 9)
    z = (x[:, :-1] / x[:, :-1].std(axis=0)).astype(np.float64)
    once = fit_softmax(z, code, c=0.3, weight_N=times.astype(float))
    again = fit_softmax(np.repeat(z, times, axis=0), np.repeat(code, times), c=0.3)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_planted_classes_are_found_whatever_their_share_and_shuffled_labels_give_chance():
    x, labels = cells((150, 60, 30), apart=4.0)
    query, truth = cells((10, 30, 150), seed=1, apart=4.0)
    made = fit_labels(x, labels, folds_of(labels))
    assert balanced_accuracy_score(truth, NAMES[predict_labels(made, query).argmax(axis=1)]) > 0.9
    shuffled = np.random.default_rng(0).permutation(labels)
    nothing = fit_labels(x, shuffled, folds_of(shuffled))
    assert nothing.held_out.balanced_accuracy < 0.5
    assert abs(nothing.held_out.auc - 0.5) < 0.12


def test_own_mean_and_sd_take_off_a_shift_of_mixed_cells_and_mislead_where_there_is_one_class():
    x, labels = cells((90, 45, 15), apart=4.0)
    made = fit_labels(x, labels, folds_of(labels))
    moved, truth = cells((50, 50, 50), seed=1, shift=np.eye(6)[0] * 4, apart=4.0)
    moved[:, :-1] *= 1.7

    def accuracy(query, truth, how):
        guess = NAMES[predict_labels(made, query, standardize=how).argmax(axis=1)]
        return (guess == truth).mean()

    assert accuracy(moved, truth, "query") > 0.95 > 0.8 > accuracy(moved, truth, "reference")
    alone, truth = cells((0, 0, 150), seed=2, apart=4.0)
    assert accuracy(alone, truth, "reference") > 0.95 > 0.7 > accuracy(alone, truth, "query")


def test_does_not_depend_on_scale_order_or_blocks(monkeypatch):
    x, labels = cells()
    query = cells(seed=1)[0]
    slides = np.tile(["a", "b", "c", "d"], 25)
    made = predict_labels(fit_labels(x, labels, leave_one_group_out(slides)), query, standardize="query")
    order = np.random.default_rng(0).permutation(len(x))
    monkeypatch.setattr(label_transfer, "_AT_ONCE", 7)
    scale = np.logspace(-2, 2, x.shape[1], dtype=np.float32)
    other = fit_labels(x[order] * scale + 3, labels[order], leave_one_group_out(slides[order]))
    np.testing.assert_allclose(predict_labels(other, query * scale + 3, standardize="query"), made, atol=1e-4)


def test_a_class_of_one_slide_is_learned_and_not_scored():
    x, labels = cells((20, 20, 10), apart=4.0)
    slides = np.where(labels == "tumour", "c", np.tile(["a", "b"], 25))
    made = fit_labels(x, labels, leave_one_group_out(slides))
    assert made.classes == tuple(NAMES)
    assert made.held_out.n.tolist() == [20, 20, 0]
    assert (NAMES[predict_labels(made, x).argmax(axis=1)] == labels).mean() > 0.9


def test_what_cannot_be_learned():
    x, labels = cells()
    with pytest.raises(ValueError, match=r"at least two classes are needed.*found \['tumour'\]"):
        fit_labels(x, np.full(len(x), "tumour"), folds_of(labels))
    with pytest.raises(ValueError, match=r"No penalty can be chosen.*folds: groups.*a class of its own"):
        fit_labels(x, labels, leave_one_group_out(labels))
    with pytest.raises(ValueError, match="None of the 7 features of the reference varies"):
        fit_labels(np.ones_like(x), labels, folds_of(labels))
    made = fit_labels(x, labels, folds_of(labels))
    with pytest.raises(ValueError, match=r"have 7 columns, as the reference has, got \(100, 5\)"):
        predict_labels(made, x[:, :5])
    with pytest.raises(ValueError, match="`standardize` must be one of"):
        predict_labels(made, x, standardize="slide")
