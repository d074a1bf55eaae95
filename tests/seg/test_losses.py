"""Every term against numpy written from the definition, and against values in closed form."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from lemon_sc.seg.losses import (
    WEIGHTS,
    LossOptions,
    cross_entropy,
    dice,
    focal_tversky,
    gradient_kernels,
    loss_terms,
    msge,
    one_hot,
    weighted_sum,
)
from lemon_sc.seg.targets import hv_maps


def pair(n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, n_classes, 5, 6))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes = rng.integers(n_classes, size=(2, 5, 6))
    return p, classes


def tensors(p, classes):
    return torch.tensor(p), one_hot(torch.tensor(classes), p.shape[1]).double()


def test_dice():
    p, classes = pair()
    expected = 0.0
    for c in range(3):
        t = classes == c
        expected += 1 - (2 * p[:, c][t].sum() + 1e-3) / (p[:, c].sum() + t.sum() + 1e-3)
    assert dice(*tensors(p, classes)).item() == pytest.approx(expected, rel=1e-6)


def tversky(p, t):
    tp, fn, fp = (p * t).sum(), ((1 - p) * t).sum(), (p * (1 - t)).sum()
    return (1 - (tp + 1e-6) / (tp + 0.7 * fn + 0.3 * fp + 1e-6)) ** (4 / 3)


def test_focal_tversky_per_class_and_pooled():
    p, classes = pair()
    t = np.stack([classes == c for c in range(3)], axis=1)
    given = tensors(p, classes)
    expected = sum(tversky(p[:, c], t[:, c]) for c in range(3))
    assert focal_tversky(*given).item() == pytest.approx(expected, rel=1e-6)
    assert focal_tversky(*given, pooled=True).item() == pytest.approx(tversky(p, t), rel=1e-6)


def test_pooling_two_complements_takes_the_weights_away():
    """Over nucleus and background at once, missed pixels are false ones, too: all weights that sum to 1 do the same."""
    p, classes = pair(2)
    given = tensors(p, classes)
    hit = sum(p[:, c][classes == c].sum() for c in (0, 1))
    assert focal_tversky(*given, pooled=True).item() == pytest.approx((1 - hit / classes.size) ** (4 / 3), rel=1e-5)


def test_missing_costs_more_than_inventing():
    t = torch.zeros(1, 1, 10, 10)
    t[..., :5] = 1
    missed, invented = t.clone(), t.clone()
    missed[..., 0] = 0
    invented[..., 9] = 1
    assert focal_tversky(missed, t) > focal_tversky(invented, t)
    assert focal_tversky(missed, t).item() == pytest.approx((1 - 40 / 47) ** (4 / 3), rel=1e-5)


def test_cross_entropy_is_torchs_and_clipped():
    p, classes = pair()
    torch_says = torch.nn.functional.nll_loss(torch.tensor(p).log(), torch.tensor(classes))
    assert cross_entropy(*tensors(p, classes)).item() == pytest.approx(torch_says.item(), rel=1e-9)
    wrong = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    assert cross_entropy(wrong, wrong.flip(1)).item() == pytest.approx(-np.log(1e-7), rel=1e-6)


def kernel(axis):
    y, x = np.mgrid[-2:3, -2:3].astype(float)
    return (x, y)[axis] / (x**2 + y**2 + 1e-15)


def looped_msge(pred, true, mask):
    total = 0.0
    for n in range(len(pred)):
        for channel in (0, 1):
            g = [correlate(m[n, channel], kernel(channel), mode="constant") for m in (pred, true)]
            total += (mask[n] * (g[0] - g[1]) ** 2).sum()
    return total / (2 * mask.sum() + 1e-8)


def test_msge():
    rng = np.random.default_rng(0)
    pred, true = rng.normal(size=(2, 2, 2, 9, 8))
    mask = rng.random((2, 9, 8)) < 0.5
    found = msge(torch.tensor(pred), torch.tensor(true), torch.tensor(mask))
    assert found.item() == pytest.approx(looped_msge(pred, true, mask), rel=1e-6)
    assert msge(torch.tensor(pred), torch.tensor(true), torch.zeros(2, 9, 8)).item() == 0


def test_the_corrected_kernel_sees_the_slope_of_an_ideal_map_and_the_published_one_does_not():
    labels = np.zeros((31, 31), int)
    labels[5:26, 5:26] = 1
    inner = (slice(8, 23), slice(8, 23))
    hv = torch.tensor(hv_maps(labels))[None]
    for legacy, low, high in ((False, 0.5, 5), (True, 0, 1e-5)):
        kernels = gradient_kernels(legacy=legacy)[:, None]
        slope = torch.nn.functional.conv2d(hv, kernels, padding=2, groups=2)[0]
        assert low <= slope[0][inner].abs().mean() <= high
        assert low <= slope[1][inner].abs().mean() <= high
    assert gradient_kernels()[0, 2, 3] == pytest.approx(1)  # a map that rises to the right has a positive slope
    assert gradient_kernels()[1, 3, 2] == pytest.approx(1)


def given(n_classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    maps = {name: torch.randn(2, c, 8, 8, generator=g, requires_grad=True) for name, c in
            (("np", 2), ("hv", 2), ("tp", n_classes))}  # fmt: skip
    types = torch.randint(n_classes, (2, 8, 8), generator=g)
    return maps, {"nuclei": (types > 0).long(), "hv": torch.randn(2, 2, 8, 8, generator=g), "types": types}


def test_the_sum_and_its_gradient():
    maps, target = given()
    terms = loss_terms(maps, **target)
    loss = weighted_sum(terms)
    by_hand = (
        terms["np_ft"] + terms["np_dice"] + 2.5 * terms["hv_mse"] + 8 * terms["hv_msge"]
        + 0.5 * terms["tp_ce"] + 0.2 * terms["tp_dice"] + 0.5 * terms["tp_ft"]
    )  # fmt: skip
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert set(terms) == set(WEIGHTS) - {"np_ce"}
    loss.backward()
    assert all(m.grad.abs().sum() > 0 for m in maps.values())


def test_terms_are_those_of_probabilities_after_one_softmax():
    maps, target = given()
    plain, twice = (loss_terms(maps, **target, options=LossOptions(legacy_double_softmax=f)) for f in (False, True))
    p = maps["np"].detach().double().softmax(1).numpy()
    t = target["nuclei"].numpy()
    assert plain["np_ft"].item() == pytest.approx(tversky(p[:, 1], t), rel=1e-4)
    again = np.exp(p) / np.exp(p).sum(1, keepdims=True)
    assert twice["np_ft"].item() == pytest.approx(tversky(again[:, 1], t), rel=1e-4)
    assert twice["np_dice"].item() == plain["np_dice"].item()
    pooled = loss_terms(maps, **target, options=LossOptions(legacy_pooled=True))["np_ft"]
    assert pooled.item() == pytest.approx(tversky(p, np.stack([1 - t, t], 1)), rel=1e-4)
    crossed = loss_terms(maps, **target, options=LossOptions(legacy_kernel=True))["hv_msge"]
    assert crossed.item() != pytest.approx(plain["hv_msge"].item())


def test_the_other_loss_of_the_nuclei_and_no_types():
    maps, target = given()
    del target["types"]
    terms = loss_terms(maps, **target, options=LossOptions(np_loss="ce+dice"))
    assert set(terms) == {"np_ce", "np_dice", "hv_mse", "hv_msge"}
    torch_says = torch.nn.functional.cross_entropy(maps["np"], target["nuclei"])
    assert terms["np_ce"].item() == pytest.approx(torch_says.item(), rel=1e-5)
    with pytest.raises(ValueError, match="np_loss"):
        LossOptions(np_loss="ce")


def test_a_perfect_answer_costs_nothing():
    _, target = given()
    sure = {"np": 50.0 * one_hot(target["nuclei"], 2), "hv": target["hv"], "tp": 50.0 * one_hot(target["types"], 4)}
    assert weighted_sum(loss_terms(sure, **target)).item() == pytest.approx(0, abs=1e-3)
