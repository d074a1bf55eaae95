import subprocess
import sys

import numpy as np
import pytest
import torch

import lemon_sc as lm
from lemon_sc.models import Encoder, ModelCard

CARD = ModelCard(name="mine", dim=3, input_px=40)


def crops(n=4):
    return np.random.default_rng(0).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)


def test_the_models_that_are_there():
    names = [card.name for card in lm.models.available()]
    assert names[:4] == ["guided_ti8", "morphometry", "lemon", "dinov2_s"]
    assert {
        "dinov2_b", "dinov2_l", "dinov2_g", "uni", "uni2_h", "virchow2", "hoptimus0", "h0_mini", "phikon", "phikon_v2",
        "conch_v1", "volta_nucls", "volta_pannuke", "imagenet_r18", "imagenet_r50",
    } <= set(names)  # fmt: skip
    assert len(set(names)) == len(names)


def test_the_state_of_a_model_is_one_line():
    assert lm.models.status("morphometry") == "ready (no weights needed)"
    assert lm.models.status("conch_v1").startswith(
        "not ready: needs download=True from MahmoodLab/CONCH after accepting"
    )
    assert (
        lm.models.status("volta_lizard") == "not ready: weights from https://github.com/AIMLab-UBC/VOLTA, weights=PATH"
    )
    with pytest.raises(ValueError, match="`name` must be one of"):
        lm.models.status("nonesuch")


@pytest.mark.parametrize("model", [None, "guided_ti8"])
def test_the_default_is_the_encoder_that_comes_with_the_package(model):
    encoder = lm.models.as_encoder(model)
    assert encoder.card == lm.models.available()[0]
    assert encoder.encode(crops()).shape == (4, encoder.card.dim) == (4, 72)


def test_an_encoder_is_passed_through():
    encoder = Encoder(card=CARD, function=lambda x: x.mean(axis=(1, 2)))
    assert lm.models.as_encoder(encoder) is encoder


def test_an_unknown_name_gets_the_list_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"Unknown model 'morphometri' \(models: .*'lemon'.*Did you mean 'morphometry'"
    ):
        lm.models.as_encoder("morphometri")
    with pytest.raises(ValueError, match="Unknown model 'resnet'"):
        lm.models.load("resnet")
    for nothing in (None, "", 3):
        with pytest.raises(ValueError, match=r"`name_or_path` must name a model.*Models: .*'guided_ti8'"):
            lm.models.load(nothing)


def test_weights_go_with_a_model_that_has_some(tmp_path):
    with pytest.raises(ValueError, match="'morphometry' takes none"):
        lm.models.load("morphometry", weights=tmp_path)


@pytest.mark.parametrize("model", [torch.nn.Identity(), np.mean])
def test_a_model_without_a_card_is_refused(model):
    with pytest.raises(TypeError, match="without a card. Pass the pair"):
        lm.models.as_encoder(model)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="got int"):
        lm.models.as_encoder(3)
    with pytest.raises(TypeError, match="A card goes with"):
        lm.models.as_encoder("morphometry", CARD)


def test_encode_serves_arrays():
    made = lm.models.encode(crops(7), (lambda x: x.mean(axis=(1, 2)), CARD), batch_size=3)
    np.testing.assert_allclose(made, crops(7).mean(axis=(1, 2)), rtol=1e-6)
    assert made.dtype == np.float32
    assert lm.models.encode(crops(0)).shape == (0, lm.models.load("guided_ti8").card.dim)


def test_encode_cuts_the_centre_out_of_training_crops():
    big = np.random.default_rng(0).integers(0, 256, (3, 60, 60, 3), dtype=np.uint8)
    assert np.array_equal(lm.models.encode(big), lm.models.encode(big[:, 10:50, 10:50]))


def test_the_namespace():
    assert {"encode", "load", "available", "vit_s8_40", "vit_b8_40", "macs", "ModelCard", "Encoder"} <= set(
        dir(lm.models)
    )
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        lm.models.lod  # noqa: B018


def test_importing_does_not_load_torch():
    code = "import sys, lemon_sc.models as m; m.load('morphometry'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
