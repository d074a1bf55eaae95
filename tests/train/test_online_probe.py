import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score
from train_runs import pixels

from lemon_sc.train.online_probe import ProbeSet, balanced_accuracy, embed_probe, read_probe_set, ridge_scores
from lemon_sc.train.recipes import debug


def blobs(rng, n=200, gap=3.0):
    target = rng.integers(0, 3, n)
    return torch.from_numpy(rng.normal(size=(n, 5)) + gap * np.eye(5)[target]), torch.from_numpy(target)


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, target = blobs(rng, gap=1.0)
    target[:60] = 0  # classes of unequal size
    train = torch.from_numpy(rng.random(200) < 0.7)
    z = (x - x[train].mean(0)) / x[train].std(0, correction=0)
    weight = (1 / np.bincount(target[train]))[target[train]]
    theirs = Ridge(alpha=int(train.sum()) / 100).fit(
        z[train], np.eye(3)[target[train]], sample_weight=weight / weight.mean()
    )
    ours = ridge_scores(x, target, train, n_classes=3)
    np.testing.assert_allclose(ours, theirs.predict(z), atol=1e-4)


def probe_set(target):
    crops, n_classes = np.zeros((len(target), 40, 40, 3), np.uint8), int(target.max()) + 1
    return ProbeSet(crops=crops, target=target, n_classes=n_classes, fold=torch.arange(len(target)) % 5)


def test_separated_classes_are_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    x, target = blobs(rng, gap=8.0)
    assert balanced_accuracy(x, probe_set(target)) > 0.98
    noise = torch.from_numpy(rng.normal(size=(200, 5)))
    assert 0.2 < balanced_accuracy(noise, probe_set(target)) < 0.47
    constant = torch.ones(200, 4)
    assert balanced_accuracy(constant, probe_set(target)) == pytest.approx(1 / 3, abs=0.15)


def test_rare_classes_count_as_much():
    target = torch.tensor([0] * 180 + [1] * 20)
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    found = balanced_accuracy(x, probe_set(target))
    fold = np.arange(200) % 5
    predicted = np.empty(200, int)
    for k in range(5):
        held = fold == k
        scores = ridge_scores(x.double(), target, torch.from_numpy(~held), n_classes=2)
        predicted[held] = scores[held].argmax(1)
    assert found == pytest.approx(balanced_accuracy_score(target, predicted))


def test_a_group_is_in_one_fold_and_what_only_knows_it_is_not_rewarded(tmp_path):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 30)
    labels = np.where(rng.permutation(20) < 10, "tumour", "stroma")[groups]
    np.savez(tmp_path / "p.npz", crops=pixels(600, rng), labels=labels, groups=groups)
    probe = read_probe_set(tmp_path / "p.npz", side=40)
    assert all(len(set(probe.fold[groups == g].tolist())) == 1 for g in range(20))
    slide_only = torch.from_numpy(np.eye(20)[groups] + 0.01 * rng.normal(size=(600, 20)))
    assert balanced_accuracy(slide_only, probe) < 0.65


def test_crops_are_cut_to_the_centre_and_normalised():
    rng = np.random.default_rng(0)
    crops = pixels(5, rng)
    probe = ProbeSet(crops=crops, target=torch.zeros(5, dtype=torch.int64), n_classes=2, fold=torch.zeros(5))
    recipe = debug(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    found = embed_probe(lambda x: x.flatten(1), probe, recipe=recipe, device=torch.device("cpu"))
    expected = (crops[:, 10:50, 10:50] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2).reshape(5, -1), atol=1e-5)


def test_what_is_wrong_with_a_probe_set_is_said(tmp_path):
    rng = np.random.default_rng(0)
    good = {"crops": pixels(6, rng), "labels": np.array(list("ababab"))}
    bad = [
        (KeyError, "'labels' not found", {"labels": None}),
        (
            ValueError,
            r"uint8, 0 to 255, got float64 .* that holds NaN",
            {"crops": np.full((6, 60, 60, 3), np.nan)},
        ),
        (ValueError, "have 32 px; the encoder needs 40", {"crops": good["crops"][:, :32, :32]}),
        (ValueError, r"6 crops, labels \(5,\)", {"labels": good["labels"][:5]}),
        (ValueError, r"the classes \['a'\] in 6 groups", {"labels": np.array(["a"] * 6)}),
        (ValueError, "in 1 groups; a probe needs two of each", {"groups": np.zeros(6)}),
    ]
    for kind, message, changes in bad:
        np.savez(tmp_path / "p.npz", **{k: v for k, v in (good | changes).items() if v is not None})
        with pytest.raises(kind, match=message):
            read_probe_set(tmp_path / "p.npz", side=40)
    with pytest.raises(FileNotFoundError, match="No probe set at"):
        read_probe_set(tmp_path / "none.npz", side=40)
