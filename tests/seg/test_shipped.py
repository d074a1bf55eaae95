"""The segmenters that come with the package."""

import numpy as np
import pytest
import torch
from coded_slides import field, stained

import lemon_sc as lm
from lemon_sc.metrics import panoptic_quality
from lemon_sc.seg import checkpoint, segmenter
from lemon_sc.seg.finders import resolve_finder
from lemon_sc.seg.postprocess import nuclei


@pytest.fixture(scope="module", params=["small", "small_vit"])
def shipped(request):
    return lm.seg.load(request.param)


def outlined(shipped, image):
    maps = shipped.maps(image[None])
    return nuclei(maps.nuclei[0], maps.hv[0], mpp=shipped.card.mpp)


def test_its_card_says_what_it_may_be_used_for(shipped):
    """Licence, and every set that it learned from with its own: all of them may be shared."""
    card = shipped.card
    assert card.license == "BSD-3-Clause"
    sources = {s["name"]: s["licence"] for s in card.training["data"]["sources"]}
    assert sources == {"nuinsseg": "CC BY 4.0", "tnbc": "CC BY 4.0"}
    assert all(name in card.citation for name in sources)
    assert (checkpoint.FOLDER / f"{card.name}.safetensors").stat().st_size < 60e6
    assert "/" not in str({k: v for k, v in card.training["recipe"].items() if k != "init"})
    assert not str(card.training["recipe"]["init"]).startswith("/")


def test_the_fast_one_is_the_default():
    assert resolve_finder(None).name == lm.seg.load().card.name == "small"


def test_the_vit_is_the_one_that_comes_with_the_package():
    """Its weights did not learn, but for the statistics of images, which are in its first layer."""
    own = lm.seg.load("small_vit").network.encoder.vit.vit.state_dict()
    guided = lm.models.load("guided_ti8").module.state_dict()
    kept = [k for k in own if not k.startswith("patch_embed")]
    assert len(kept) > 140
    for name in kept:
        torch.testing.assert_close(own[name], guided[name], rtol=1e-3, atol=1e-5)


def test_it_finds_planted_nuclei(shipped):
    labels = field((256, 256), n=40, radius=(6, 9))
    found = outlined(shipped, stained(labels))
    quality = panoptic_quality(labels, found.labels)
    assert quality.dq > 0.95
    assert quality.pq > 0.85
    assert len(outlined(shipped, stained(np.zeros_like(labels)))) == 0


def test_bfloat16_finds_what_float32_finds(shipped, monkeypatch):
    image = stained(field((256, 256), n=60, radius=(5, 9)), noise=12)
    found = {}
    for half in (False, True):
        monkeypatch.setattr(segmenter, "cpu_has_amx", lambda half=half: half)
        found[half] = outlined(shipped, image).labels
    assert found[False].max() > 30
    assert panoptic_quality(found[False], found[True]).pq > 0.95
