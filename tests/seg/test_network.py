"""The network: published parameter counts, sides for every patch, and what is tapped."""

import dataclasses

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lemon_sc.models.vit import cell_vit
from lemon_sc.seg.card import SegCard
from lemon_sc.seg.network import CellViT, build_network
from lemon_sc.seg.segmenter import Segmenter, normalised
from lemon_sc.seg.taps import PyramidTaps, ToldTaps, VitTaps, build_encoder

CLASSES = ("background", *(f"type{k}" for k in range(14)))


def size(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def tiny_vit(patch, side=56, **options):
    return VisionTransformer(
        img_size=side, patch_size=patch, embed_dim=32, depth=4, num_heads=2, num_classes=0, **options
    )


def tiny(patch, *, n_classes=3, width=4, **options):
    torch.manual_seed(0)
    return CellViT(VitTaps(tiny_vit(patch, **options), taps=(1, 2, 3, 4)), n_classes=n_classes, width=width).eval()


@pytest.mark.parametrize(
    ("encoder", "side", "decoder", "whole"),
    [
        ("h0_mini", 448, 56_419_347, None),
        ("uni2_h", 448, 65_856_531, 748_430_355),
        ("sam_b", 256, 56_419_347, 146_090_259),
        ("phikon", 224, 56_419_347, 142_218_003),
    ],
)
def test_parameters_are_as_published(encoder, side, decoder, whole):
    with torch.device("meta"):
        network = build_network(SegCard(name="x", encoder=encoder, classes=CLASSES, size_px=side))
    assert size(network.neck, network.np, network.hv, network.tp) == decoder
    assert whole is None or size(network) == whole
    if encoder in {"h0_mini", "sam_b"}:  # at a side that the position embedding is not for
        found = network.eval()(torch.empty(1, 3, 336, 336, device="meta"))
        assert {name: tuple(m.shape) for name, m in found.items()} == {
            "np": (1, 2, 336, 336), "hv": (1, 2, 336, 336), "tp": (1, 15, 336, 336)
        }  # fmt: skip


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_maps_have_the_side_of_the_image(patch):
    network = tiny(patch, side=7 * patch)
    found = network(torch.randn(2, 3, 3 * patch, 5 * patch))
    shapes = {name: tuple(m.shape) for name, m in found.items()}
    assert shapes == {name: (2, c, 3 * patch, 5 * patch) for name, c in (("np", 2), ("hv", 2), ("tp", 3))}


@pytest.mark.parametrize(("patch", "scale", "grown"), [(8, 1, 8), (14, 2, 16), (16, 2, 16)])
def test_steps_up_follow_the_patch(patch, scale, grown):
    """Tokens are doubled three times with patches of 8 px, four times with larger ones, before any resizing."""
    network = tiny(patch, side=7 * patch)
    sides = []
    network.np.up1.register_forward_hook(lambda *args: sides.append(args[2].shape[-1]))
    network(torch.randn(1, 3, 3 * patch, 3 * patch))
    assert network.np.up4.stride == (scale, scale)
    assert sides == [3 * grown]


def test_a_pyramid_and_no_types():
    torch.manual_seed(0)
    network = CellViT(PyramidTaps("resnet18"), n_classes=0, width=4).eval()
    found = network(torch.randn(1, 3, 48, 32))
    assert {name: tuple(m.shape) for name, m in found.items()} == {"np": (1, 2, 48, 32), "hv": (1, 2, 48, 32)}


def told():
    torch.manual_seed(0)
    return ToldTaps("resnet18", VitTaps(cell_vit(dim=32, depth=4, num_heads=2), taps=(1, 2, 3, 4))).eval()


def test_a_network_that_is_told_sees_crops_side_by_side():
    """Every token is that of its crop alone, cut out of the enlarged image by hand; the last ones reach beyond it."""
    encoder = told()
    x = torch.randn(2, 3, 48, 64)
    large = torch.nn.functional.interpolate(x, (96, 128), mode="bilinear")
    with torch.no_grad():
        seen = encoder.seen(x)
        assert seen.shape == (2, 4 * 32, 12, 16)
        for i, row, column in ((0, 0, 0), (1, 1, 2), (0, 2, 3), (1, 2, 0)):
            rows = (torch.arange(40) + 40 * row).clamp(max=95)
            columns = (torch.arange(40) + 40 * column).clamp(max=127)
            tokens = torch.cat(encoder.vit(large[i][:, rows][:, :, columns][None]), dim=1)[0]
            there = seen[i, :, 5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
            torch.testing.assert_close(there, tokens[:, : there.shape[1], : there.shape[2]], rtol=1e-4, atol=1e-5)


def test_a_network_that_is_told_begins_as_it_is_without():
    """Until it learns what to make of the tokens; from then on they count, from 1/4 of the side on."""
    encoder, plain = told(), PyramidTaps("resnet18").eval()
    plain.load_state_dict({k: v for k, v in encoder.state_dict().items() if k.startswith("body.")})
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        before = encoder(x)
        for found, expected in zip(before, plain(x), strict=True):
            assert torch.equal(found, expected)
        encoder.tell[1].weight.normal_()
        differs = [not torch.equal(a, b) for a, b in zip(encoder(x), before, strict=True)]
    assert differs == [False, True, True, True]
    assert not any(p.requires_grad for p in encoder.vit.parameters())
    assert encoder.stride == plain.stride


def test_taps_are_raw_outputs_of_blocks_without_class_and_registers():
    vit = tiny_vit(14, reg_tokens=4, no_embed_class=True).eval()
    kept = {}
    for i, block in enumerate(vit.blocks):
        block.register_forward_hook(lambda _m, _i, out, i=i: kept.__setitem__(i + 1, out))
    taps = (1, 2, 4)
    with pytest.raises(ValueError, match=r"`taps` must be four different blocks.*of 1 to 4"):
        VitTaps(vit, taps=taps)
    x = torch.randn(1, 3, 42, 56)
    with torch.no_grad():
        maps = VitTaps(vit, taps=(1, 2, 3, 4))(x)
    for tap, found in zip((1, 2, 3, 4), maps, strict=True):
        patches = kept[tap][0, 5:]  # class token and four registers come first
        for row, column in ((0, 0), (2, 3), (1, 2)):
            torch.testing.assert_close(found[0, :, row, column], patches[row * 4 + column])


def test_released_taps_differ_from_the_papers():
    vit = tiny_vit(16, side=64)
    vit.blocks.extend([type(vit.blocks[0])(32, 2) for _ in range(8)])
    assert VitTaps(vit, taps=(4, 6, 8, 12)).indices == [3, 5, 7, 11]
    assert VitTaps(vit, taps=(3, 6, 9, 12)).indices == [2, 5, 8, 11]


def test_position_embedding_is_kept_at_its_own_side_and_resampled_elsewhere():
    vit = tiny_vit(8, side=32).eval()
    before = tiny_vit(8, side=32).eval()
    before.load_state_dict(vit.state_dict())
    taps = VitTaps(vit, taps=(1, 2, 3, 4))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        plain = before.forward_intermediates(x, norm=False, intermediates_only=True)
        torch.testing.assert_close(taps(x)[3], plain[3])
        vit.pos_embed.mul_(0).add_(1)  # a constant stays one when it is resampled
        flat = taps(torch.zeros(1, 3, 64, 64))[0]
    torch.testing.assert_close(flat, flat[..., :1, :1].expand_as(flat), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vit_debug", "conv_r18"])
def test_encoders_by_name_are_the_same_for_a_seed(name):
    card = SegCard(name="x", encoder=name, taps=(1, 2, 3, 4), width=4, size_px=32)
    first, again = (build_network(card).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    other = build_network(card, generator=torch.Generator().manual_seed(1)).state_dict()
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"encoder": "vit_debg"}, "Did you mean 'vit_debug'"),
        ({"size_px": 60}, "`size_px` must be a multiple of 8 for vit_debug, got 60. 64 would do"),
        ({"width": 5}, "`width` must be an even int"),
        ({"classes": ("tumour", "background")}, "begin with 'background'"),
        ({"classes": ("background", "a", "a")}, r"names \['a'\] twice"),
        ({"std": (1, 0, 1)}, "card.std"),
        ({"mpp": 0}, "card.mpp"),
    ],
)
def test_bad_cards(changes, match):
    fields = {"name": "x", "encoder": "vit_debug", "taps": (1, 2, 3, 4), "size_px": 32, **changes}
    with pytest.raises(ValueError, match=match):
        build_network(SegCard(**fields))


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        CellViT(build_encoder("vit_debug", size_px=32, taps=(1, 2, 3, 4)), n_classes=1)


def segmenter(**changes):
    card = SegCard(name="x", encoder="vit_debug", taps=(1, 2, 3, 4), width=4, size_px=32, **changes)
    return Segmenter(card=card, network=build_network(card).eval())


def test_maps_of_a_segmenter(monkeypatch):
    """Probabilities, offsets and argmax are those of the network; sides that do not fit are padded and cut."""
    monkeypatch.setattr("lemon_sc.seg.segmenter.cpu_has_amx", lambda: False)  # float32, as asked below
    made = segmenter(classes=("background", "a", "b"))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), dtype=np.uint8)
    x = (torch.tensor(images).double() / 255 - torch.tensor(made.card.mean)) / torch.tensor(made.card.std)
    with torch.no_grad():
        raw = made.network(x.permute(0, 3, 1, 2).float())
    found = made.maps(images)
    odds = torch.exp(raw["np"][:, 1] - raw["np"][:, 0])
    np.testing.assert_allclose(found.nuclei, odds / (1 + odds), rtol=1e-4)
    np.testing.assert_allclose(found.hv, raw["hv"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.types, raw["tp"].numpy().argmax(1))
    assert found.types.dtype == np.uint8

    odd = made.maps(images[:, :29, :33])
    assert odd.nuclei.shape == (2, 29, 33)
    assert odd.hv.shape == (2, 2, 29, 33)
    mirrored = np.concatenate([images[:, :29], images[:, 27:24:-1]], axis=1)[:, :, :33]
    mirrored = np.concatenate([mirrored, mirrored[:, :, 31:24:-1]], axis=2)
    np.testing.assert_allclose(odd.nuclei, made.maps(mirrored).nuclei[:, :29, :33], rtol=1e-5)


def test_a_segmenter_takes_nothing_and_one_pixel():
    made = segmenter()
    assert made.maps(np.zeros((0, 32, 32, 3), np.uint8)).hv.shape == (0, 2, 32, 32)
    one = made.maps(np.zeros((1, 1, 1, 3), np.uint8))
    assert one.nuclei.shape == (1, 1, 1)
    assert one.types is None


@pytest.mark.parametrize(
    "images", [np.zeros((32, 32, 3), np.uint8), np.zeros((1, 32, 32, 4), np.uint8), np.zeros((1, 8, 8, 3)), [[1]]]
)
def test_a_segmenter_refuses_what_is_no_image(images):
    with pytest.raises(ValueError, match="`images` must be uint8 RGB"):
        segmenter().maps(images)


def test_normalising_undoes_the_statistics():
    card = SegCard(name="x", encoder="vit_debug", mean=(0.5, 0.25, 0), std=(0.5, 0.25, 1))
    x = normalised(torch.tensor([[[[255, 127.5, 51.0]]]]), card)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([1.0, 1.0, 0.2]))


def test_a_card_survives_its_file():
    card = SegCard(name="x", encoder="sam_b", classes=CLASSES, sha256="0" * 64, training={"step": 3})
    assert SegCard.from_dict(card.to_dict()) == card
    with pytest.raises(KeyError, match="'encodr' not found.*Did you mean 'encoder'"):
        SegCard.from_dict({**card.to_dict(), "encodr": 1})
    with pytest.raises(KeyError, match="'sha256' not found"):
        SegCard.from_dict({"name": "x", "encoder": "sam_b"})
    assert dataclasses.replace(card, mpp=0.5).mpp == 0.5
