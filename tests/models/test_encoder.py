import numpy as np
import pytest
import torch

import lemon_sc as lm
from lemon_sc.models import Encoder, ModelCard
from lemon_sc.models.encoder import fit_crops

CARD = ModelCard(name="mean-rgb", dim=3, input_px=4, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))


class MeanPool(torch.nn.Module):
    """Its answer is known in closed form; in training mode it is wrong on purpose."""

    def __init__(self):
        super().__init__()
        self.unit = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x.mean(dim=(2, 3)) * self.unit + (100 if self.training else 0)


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


def test_a_module_sees_normalised_crops_in_eval_mode(crops):
    module = MeanPool().train()
    z = lm.models.as_encoder((module, CARD)).encode(crops)
    expected = [[(crop[..., c].mean() / 255 - CARD.mean[c]) / CARD.std[c] for c in range(3)] for crop in crops]
    np.testing.assert_allclose(z, expected, rtol=1e-5)
    assert module.training  # the user's own module is left as it was
    assert module.unit.requires_grad


def test_bf16_is_close_and_float32_on_return(crops):
    card = ModelCard(name="linear", dim=8, input_px=4)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 8))
    encoder = lm.models.as_encoder(module, card)
    full, half = encoder.encode(crops), encoder.encode(crops, dtype="bf16")
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, atol=2e-2)
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        encoder.encode(crops, dtype="fp16")


def test_a_callable_sees_bytes_as_they_are(crops):
    seen = []

    def double(x):
        seen.append((x.dtype, x.shape))
        return x.mean(axis=(1, 2)) * 2.0

    z = lm.models.as_encoder((double, CARD)).encode(crops)
    np.testing.assert_allclose(z, crops.mean(axis=(1, 2)) * 2, rtol=1e-6)
    assert seen == [(np.uint8, (5, 4, 4, 3))]


def test_larger_crops_are_cut_to_their_centre():
    big = np.random.default_rng(0).integers(0, 256, (2, 60, 60, 3), dtype=np.uint8)
    assert np.array_equal(fit_crops(big, 40), big[:, 10:50, 10:50])
    assert np.array_equal(fit_crops(big, 60), big)


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (np.zeros((2, 4, 4, 3)), TypeError, "uint8 RGB in 0..255, got float64"),
        (np.zeros((2, 4, 4, 3), np.uint16), TypeError, "got uint16"),
        (np.zeros((2, 3, 4, 4), np.uint8), ValueError, "Move the channels last"),
        (np.zeros((2, 4, 4, 4), np.uint8), ValueError, "Drop the alpha channel"),
        (np.zeros((4, 4, 3), np.uint8), ValueError, r"crops\[None\]"),
        (np.zeros((2, 4, 6, 3), np.uint8), ValueError, r"shape \(n, S, S, 3\)"),
        (np.zeros((2, 2, 2, 3), np.uint8), ValueError, "be 4 px per side"),
        (np.zeros((2, 5, 5, 3), np.uint8), ValueError, "even number of px"),
    ],
)
def test_wrong_crops_are_named(bad, error, match):
    with pytest.raises(error, match=match):
        lm.models.as_encoder((MeanPool(), CARD)).encode(bad)


@pytest.mark.parametrize(
    ("give", "match"),
    [
        (lambda x: np.zeros((len(x), 4)), r"it returned float64 \(5, 4\)"),
        (lambda x: np.zeros((len(x), 2, 3)), "num_classes=0"),
        (lambda x: [0.0] * len(x), "it returned list"),
        (lambda x: (x, x), "it returned tuple"),
        (lambda x: np.array([["a"] * 3] * len(x)), "it returned <U1"),
    ],
)
def test_output_that_is_no_embedding_is_named(give, match, crops):
    with pytest.raises(ValueError, match=match):
        lm.models.as_encoder((give, CARD)).encode(crops)


def test_no_crops_no_rows(crops):
    assert lm.models.as_encoder((MeanPool(), CARD)).encode(crops[:0]).shape == (0, 3)


def test_either_a_function_or_a_module():
    with pytest.raises(ValueError, match="neither"):
        Encoder(card=CARD)
    with pytest.raises(ValueError, match="both"):
        Encoder(card=CARD, function=len, module=MeanPool())


def test_moving_makes_a_copy():
    encoder = lm.models.as_encoder((MeanPool(), CARD))
    assert encoder.to("cpu") is encoder
    moved = encoder.to("meta")
    assert (encoder.device, moved.device) == ("cpu", "meta")
