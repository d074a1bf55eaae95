"""The network, its loss and its held-out predictions."""

import logging

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from lemon_sc.analysis.decomposition import (
    DecompositionProtocol,
    decomposition_loss,
    decomposition_network,
    fit_decomposition,
)
from lemon_sc.analysis.decomposition_folds import decompose_held_out

SMALL = DecompositionProtocol(widths=(32, 32), dropout=0.0, epochs=120, lr=1e-2)


def planted(n=240, n_types=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    y = np.exp(x[:, :n_types])
    return x, y / y.sum(axis=1, keepdims=True)


def test_the_network_is_the_published_one():
    network = decomposition_network(1536, 9, DecompositionProtocol())
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    assert [layer.in_features for layer in linear] == [1536, 1024, 1024, 512, 512, 256, 128]
    assert linear[-1].out_features == 9
    assert sum(isinstance(layer, torch.nn.SiLU) for layer in network) == 6
    assert isinstance(network[-1], torch.nn.Linear)


def test_the_loss_is_that_of_numpy_and_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40, 3)) * 0.02  # shares are small: their spread must not vanish in an epsilon
    r = np.mean([pearsonr(a[:, c], b[:, c]).statistic for c in range(3)])
    wanted = np.mean((a - b) ** 2) + 2 * np.mean(np.abs(a - b)) + 3 * (1 - r)
    made = decomposition_loss(torch.from_numpy(a), torch.from_numpy(b), l1=2.0, correlation=3.0)
    assert float(made) == pytest.approx(wanted, rel=1e-3)
    assert float(decomposition_loss(torch.from_numpy(b), torch.from_numpy(b))) == pytest.approx(0, abs=1e-3)


def test_a_type_that_is_constant_in_a_batch_has_no_correlation_and_a_gradient():
    prediction = torch.full((8, 2), 0.5, requires_grad=True)
    decomposition_loss(prediction, torch.rand(8, 2)).backward()
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("target", ["abundance", "proportion"])
def test_what_was_planted_is_learned(target):
    x, share = planted()
    y = share * 20 if target == "abundance" else share
    valid = np.arange(240) >= 200
    made = fit_decomposition(
        x[:220], y[:220], valid=valid[:220], target=target, protocol=SMALL, rng=np.random.default_rng(0)
    )
    guess = made.predict(x[220:])
    assert min(pearsonr(guess[:, c], y[220:, c]).statistic for c in range(3)) > 0.9
    assert (guess >= 0).all()
    if target == "proportion":
        np.testing.assert_allclose(guess.sum(axis=1), 1, atol=1e-5)
    assert made.best_epoch == 1 + np.argmin(made.losses[:, 1])
    assert made.epochs == min(120, made.best_epoch + SMALL.patience)


def test_spots_to_stop_on_change_neither_scale_nor_weights_of_the_features():
    """Features of a held-out spot are scaled by the training spots; wild ones must not reach the statistics."""
    x, y = planted(80)
    wild = x.copy()
    wild[60:] *= 1e4
    valid = np.arange(80) >= 60
    made = fit_decomposition(wild, y, valid=valid, target="proportion", protocol=SMALL, rng=np.random.default_rng(0))
    np.testing.assert_allclose(made.mean, x[:60].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(made.inverse_sd, 1 / x[:60].astype(float).std(axis=0), rtol=1e-5)


def test_a_fit_is_repeatable_and_leaves_torch_alone():
    x, y = planted(90)
    state = torch.random.get_rng_state()
    how = {"valid": np.arange(90) >= 70, "target": "proportion", "protocol": SMALL}
    a, b = (fit_decomposition(x, y, **how, rng=np.random.default_rng(1)).predict(x) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert torch.equal(state, torch.random.get_rng_state())


def test_constant_features_have_no_weight_and_few_spots_are_said(caplog):
    x, y = planted(60)
    x[:, 5] = 7.0
    none = np.zeros(60, dtype=bool)
    with caplog.at_level(logging.WARNING, "lemon_sc"):
        made = fit_decomposition(x, y, valid=none, target="proportion", protocol=SMALL, rng=np.random.default_rng(0))
    assert "60 spots to learn from; correlations within a batch of fewer than 64" in caplog.text
    changed = x.copy()
    changed[:, 5] = -3.0
    np.testing.assert_array_equal(made.predict(x), made.predict(changed))
    assert made.best_epoch == made.epochs == 120
    x[:] = 0.0
    with pytest.raises(ValueError, match="None of the 6 features varies over the 60 training spots"):
        fit_decomposition(x, y, valid=none, target="proportion", protocol=SMALL, rng=np.random.default_rng(0))


def held_out(groups, slides, xy=None, *, y=None, seed=0):
    n = len(groups)
    x, share = planted(n)
    y = share if y is None else y
    short = DecompositionProtocol(widths=(8,), epochs=3)
    return decompose_held_out(
        x, y, groups=groups, slides=slides, xy=xy, target="proportion", protocol=short, rng=np.random.default_rng(seed)
    )


def test_training_stops_on_what_the_test_patient_has_no_part_in():
    groups = np.repeat(["a", "b", "c"], 40)
    made = held_out(groups, groups)
    for name, on in zip(made.groups, made.stopped_on, strict=True):
        assert on.startswith("group ")
        assert on[-1] in set("abc") - {name}
    np.testing.assert_array_equal(made.n_train, [40, 40, 40])
    two = np.repeat(["a", "b"], 60)
    slides = np.array(["a1"] * 60 + ["b1"] * 20 + ["b2"] * 40)
    rng = np.random.default_rng(0)
    by_slide = held_out(two, slides, rng.random((120, 2)))
    assert by_slide.stopped_on[0] in {"slide b1 of group b", "slide b2 of group b"}
    assert by_slide.stopped_on[1] == "blocks of slide a1"
    assert 30 < by_slide.n_train[1] < 60
    assert held_out(two, slides).stopped_on[1] == "nothing: all epochs"


def test_a_guess_without_an_image_is_the_mean_of_the_training_spots():
    groups = np.repeat(["a", "b"], 40)
    _, y = planted(80)
    made = held_out(groups, groups, y=y)
    np.testing.assert_allclose(made.baseline[:40], np.tile(y[40:].mean(axis=0), (40, 1)))


def test_the_truth_of_a_group_does_not_reach_its_predictions():
    groups = np.repeat(["a", "b", "c"], 40)
    _, y = planted(120)
    changed = y.copy()
    changed[:40] = y[40:80]
    first, second = held_out(groups, groups, y=y), held_out(groups, groups, y=changed)
    np.testing.assert_array_equal(first.predictions[:40], second.predictions[:40])
    assert not np.array_equal(first.predictions[40:], second.predictions[40:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch_size": 32}, "`batch_size` must be an int >= 64"),
        ({"widths": ()}, "`widths` must be a tuple"),
        ({"widths": (0,)}, "`widths` must be an int >= 1"),
        ({"dropout": 1.0}, "`dropout` must lie in"),
        ({"l1": -1.0}, "`l1` must be a finite number >= 0"),
        ({"lr": 0.0}, "`lr` must be a finite number > 0"),
        ({"patience": 0}, "`patience` must be an int >= 1"),
    ],
)
def test_bad_protocols(change, says):
    with pytest.raises(ValueError, match=says):
        DecompositionProtocol(**change)
