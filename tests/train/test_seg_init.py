"""A run that begins with a segmenter's weights."""

import pytest
import torch

from lemon_sc.models.vit import cell_vit
from lemon_sc.seg.checkpoint import save
from lemon_sc.train.seg_build import build_segmenter, restate
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


TOLD = {"encoder": "conv_r18_vit_ti8", "width": 2, "size_px": 32, "mpp": 0.5}


def test_a_network_that_is_told_may_begin_with_one_that_is_not(tmp_path):
    """Network and decoder from the one, the ViT from the other; and it may go on from one that is told."""
    plain = {**TOLD, "encoder": "conv_r18"}
    recipe = seg_small(**plain, seed=5)
    network = build_segmenter(recipe, ())
    save(recipe.card(()), network.state_dict(), tmp_path / "w.safetensors")
    first = seg_small(**TOLD, init=str(tmp_path / "w.safetensors"), encoder_weights="guided_ti8")
    begun = build_segmenter(first, ())
    assert same(begun.state_dict(), network.state_dict(), network.state_dict())

    x, on = torch.randn(1, 3, 32, 32), str(tmp_path / "t.safetensors")
    with torch.no_grad():
        begun.encoder.tell[1].weight.normal_()
        save(first.card(()), begun.state_dict(), on)
        again = build_segmenter(seg_small(**TOLD, init=on), ()).eval()
        assert torch.equal(again(x)["np"], begun.eval()(x)["np"])
        assert not torch.equal(again(x)["np"], network.eval()(x)["np"])
    with pytest.raises(ValueError, match=r"is a segmenter on conv_r18_vit_ti8 of width 2: \d+ tensors differ"):
        build_segmenter(seg_small(**plain, init=on), ())
    for changed, word in (
        ({"encoder_weights": "guided_ti8"}, "`encoder_weights` must be None"),
        ({"mean": (0.5, 0.5, 0.5)}, "`mean` must be that of `init`"),
        ({"taps": (1, 2, 3, 12)}, "`taps` must be that of `init`"),
        ({"mpp": 0.25}, "`mpp` must be that of `init`"),
    ):
        with pytest.raises(ValueError, match=word):
            build_segmenter(seg_small(**{**TOLD, "init": on, **changed}), ())


def test_a_vit_that_does_not_learn_needs_its_weights_and_its_pixel_size():
    with pytest.raises(ValueError, match="`encoder_weights` must name weights for the ViT"):
        seg_small(**TOLD)
    with pytest.raises(ValueError, match=r"`encoder_weights` must name the weights of a ViT, got None"):
        build_segmenter(seg_small(**{**TOLD, "width": 16}, init="small"), ())
    with pytest.raises(ValueError, match=r"`mpp` must be 0.5 for conv_r18_vit_ti8 with guided_ti8"):
        build_segmenter(seg_small(**{**TOLD, "mpp": 0.25}, encoder_weights="guided_ti8"), ())
    with pytest.raises(ValueError, match="`drop_path` must be 0"):
        seg_small(**TOLD, encoder_weights="guided_ti8", drop_path=0.1)


def test_restated_weights_see_what_they_saw():
    """The same image, by the statistics of either, gives the same tokens."""
    vit = cell_vit(dim=32, depth=1, num_heads=2).eval()
    image = torch.rand(2, 3, 40, 40)
    mean, std = ((0.5, 0.4, 0.6), (0.56, 0.38, 0.54)), ((0.2, 0.25, 0.3), (0.18, 0.17, 0.14))
    new, old = (
        (image - torch.tensor(m)[:, None, None]) / torch.tensor(s)[:, None, None]
        for m, s in zip(mean, std, strict=True)
    )
    with torch.no_grad():
        before = vit(old)
        assert not torch.allclose(vit(new), before, atol=1e-2)
        restate(vit.patch_embed.proj, mean=mean, std=std)
        torch.testing.assert_close(vit(new), before, rtol=1e-4, atol=1e-5)


def test_a_vit_that_tells_has_the_weights_that_are_named():
    """As they are, but for the statistics of the images."""
    import lemon_sc as lm

    recipe = seg_small(encoder="conv_r18_vit_ti8", encoder_weights="guided_ti8", init="small", mpp=0.5)
    network, guided = build_segmenter(recipe, ()).eval(), lm.models.load("guided_ti8")
    card, image = guided.card, torch.rand(1, 3, 20, 20)

    def normalised(pixels, by):
        return (pixels - torch.tensor(by.mean)[:, None, None]) / torch.tensor(by.std)[:, None, None]

    with torch.no_grad():
        large = torch.nn.functional.interpolate(image, (40, 40), mode="bilinear")
        maps = guided.module.forward_intermediates(
            normalised(large, card), indices=[2, 5, 8, 11], norm=False, intermediates_only=True
        )
        seen = network.encoder.seen(normalised(image, recipe))
    torch.testing.assert_close(seen, torch.cat(maps, dim=1), rtol=1e-3, atol=0.02)
