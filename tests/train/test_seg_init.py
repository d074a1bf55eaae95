"""A run that begins with a segmenter's weights."""

import pytest
import torch

from lemon_sc.seg.checkpoint import save
from lemon_sc.train.seg_build import build_segmenter
from lemon_sc.train.seg_recipes import seg_small

NETWORK = {"encoder": "vit_debug", "taps": (1, 2, 3, 4), "width": 2, "size_px": 32}
TYPES = ("background", "round", "long")


def trained(path, classes=()):
    """A weight file of random values unlike those that a network begins with."""
    recipe = seg_small(**NETWORK, seed=5)
    network = build_segmenter(recipe, classes)
    save(recipe.card(classes), network.state_dict(), path)
    return network.state_dict()


def same(a, b, names):
    return all(torch.equal(a[name], b[name]) for name in names)


def test_it_begins_with_encoder_and_decoder(tmp_path):
    weights = trained(tmp_path / "w.safetensors")
    fresh = build_segmenter(seg_small(**NETWORK), ()).state_dict()
    found = build_segmenter(seg_small(**NETWORK, init=str(tmp_path / "w.safetensors")), ()).state_dict()
    assert same(found, weights, weights)
    assert not same(fresh, weights, weights)


def test_types_begin_anew_where_they_are_others(tmp_path):
    weights = trained(tmp_path / "w.safetensors", TYPES)
    begun = seg_small(**NETWORK, init=str(tmp_path / "w.safetensors"))
    more = build_segmenter(begun, (*TYPES, "third")).state_dict()
    assert more["tp.head.2.weight"].shape[0] == 4
    assert same(more, weights, [k for k in weights if not k.startswith("tp.head.2")])
    none = build_segmenter(begun, ()).state_dict()
    assert same(none, weights, none)

    untyped = trained(tmp_path / "u.safetensors")
    typed = build_segmenter(seg_small(**NETWORK, init=str(tmp_path / "u.safetensors")), TYPES).state_dict()
    assert same(typed, untyped, untyped)
    assert typed["tp.head.2.weight"].shape[0] == 3


def test_another_network_is_refused(tmp_path):
    trained(tmp_path / "w.safetensors")
    init = str(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"is a segmenter on vit_debug of width 2: \d+ tensors differ"):
        build_segmenter(seg_small(**{**NETWORK, "width": 4}, init=init), ())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_segmenter(seg_small(**NETWORK, init="nowhere"), ())
    with pytest.raises(ValueError, match="`init` must be None where `encoder_weights`"):
        seg_small(**NETWORK, init=init, encoder_weights="mine")
