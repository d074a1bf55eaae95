"""Multiple-instance probes: one instance that decides, and what must not matter."""

import numpy as np
import pytest
import torch

import lemon_sc as lm
from lemon_sc.analysis.mil import BagClassifier

SETTINGS = {"n_folds": 2, "hidden": 32, "epochs": 25}


def one_decides(n_bags=48, n=30, seed=0):
    """Bags of noise; in every second one a single instance stands out. Where it lies is returned, too."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n_bags) % 2 == 1
    where = rng.integers(n, size=n_bags)
    bags = [rng.normal(size=(n, 6)) for _ in range(n_bags)]
    for b in np.flatnonzero(positive):
        bags[b][where[b], :2] += 6.0
    return bags, np.where(positive, "pos", "neg"), where


def test_attention_finds_the_one_instance_that_decides_and_the_mean_does_not():
    bags, labels, where = one_decides()
    patients = np.arange(len(bags))
    gated = lm.metrics.mil_probe(bags, labels, patients=patients, **SETTINGS)
    mean = lm.metrics.mil_probe(bags, labels, patients=patients, pooling="mean", **SETTINGS)
    assert gated.auc > 0.95
    assert gated.balanced_accuracy > 0.9
    assert gated.kappa > 0.8
    assert mean.auc < 0.85
    found = [a.argmax() == w for a, w, y in zip(gated.attention, where, labels, strict=True) if y == "pos"]
    assert np.mean(found) > 0.9
    assert all(a.sum() == pytest.approx(1, abs=1e-5) for a in gated.attention)
    assert all(np.allclose(a, 1 / 30) for a in mean.attention)


def test_bags_are_those_of_a_softmax_by_hand_and_have_no_order():
    torch.manual_seed(0)
    network = BagClassifier(5, 3, hidden=8).eval()
    x = torch.randn(11, 5)
    bag = torch.tensor([0] * 4 + [1] * 7)
    with torch.inference_mode():
        logits, weight = network(x, bag, 2)
        for b, rows in enumerate((x[:4], x[4:])):
            h = torch.relu(network.embed[0](rows))
            score = network.weigh(torch.tanh(network.content(h)) * torch.sigmoid(network.gate(h)))
            a = torch.softmax(score, dim=0)
            torch.testing.assert_close(weight[bag == b], a[:, 0])
            torch.testing.assert_close(logits[b], network.classify((a * h).sum(dim=0)))
        order = torch.randperm(11)
        again, moved = network(x[order], bag[order], 2)
        torch.testing.assert_close(again, logits)
        torch.testing.assert_close(moved, weight[order])


def test_bags_of_a_patient_stay_together_and_a_patient_is_not_learned():
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(16), 3)
    labels = np.repeat(np.arange(16) % 2, 3).astype(str)
    own = rng.normal(size=(16, 40))
    bags = [own[p] + 0.1 * rng.normal(size=(rng.integers(1, 9), 40)) for p in patients]
    made = lm.metrics.mil_probe(bags, labels, patients=patients, pooling="mean", n_folds=4, hidden=16, epochs=10)
    assert all(len(np.unique(made.fold[patients == p])) == 1 for p in range(16))
    assert made.balanced_accuracy < 0.8
    assert [len(a) for a in made.attention] == [len(b) for b in bags]


def test_kappa_counts_how_far_off_an_ordered_class_is():
    rng = np.random.default_rng(3)
    grade = np.tile([0, 1, 2], 16)
    names = np.array(["low", "middle", "high"])
    bags = [rng.normal(size=(12, 2)) + 1.5 * g for g in grade]
    order = {"classes": names.tolist(), "pooling": "mean", "n_folds": 2, "hidden": 16, "epochs": 40}
    made = lm.metrics.mil_probe(bags, names[grade], patients=np.arange(48), **order)
    guess = made.probability.argmax(axis=1)
    wanted = []
    for f in range(2):
        a, b = grade[made.fold == f], guess[made.fold == f]
        chance = np.mean([(i - j) ** 2 for i in a for j in b])
        wanted.append(1 - np.mean((a - b) ** 2) / chance)
    assert made.kappa == pytest.approx(np.mean(wanted))
    assert made.kappa > 0.8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bags": [np.zeros((0, 2))] + [np.ones((3, 2))] * 5}, r"bags \['0'\] are empty"),
        ({"bags": [np.ones((3, 1))] + [np.ones((3, 2))] * 5}, r"got D of \[1, 2\]"),
        ({"labels": ["a"] * 6}, "must be two or more"),
        ({"labels": ["a"] * 5}, "6 bags need as many labels"),
        ({"patients": [0, 0, 0, 0, 0, 1]}, r"there are: \['a \(1\)'\]. Leave such classes out"),
        ({"n_folds": 9}, "Lower `n_folds` to 3"),
        ({"labels": ["a", None, *"abab"]}, "`labels` must name every row, got '1 missing'"),
        ({"patients": [0, 1, 2, np.nan, 4, 5]}, "`patients` must name every row, got '1 missing'"),
        ({"classes": ["a", "c"]}, r"with every label among them, got \('a', 'c'\). Labels are \['a', 'b'\]"),
        ({"classes": ["a", "b", "b"]}, "each once"),
        ({"pooling": "max"}, "`pooling` must be one of"),
        ({"epochs": 0}, "`epochs` must be an int >= 1"),
    ],
)
def test_bad_input(change, says):
    given = {"bags": [np.ones((3, 2))] * 6, "labels": list("ababab"), "patients": list(range(6)), "n_folds": 2} | change
    with pytest.raises(ValueError, match=says):
        lm.metrics.mil_probe(given.pop("bags"), given.pop("labels"), **given)
