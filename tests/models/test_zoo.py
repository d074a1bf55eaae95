from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked

import lemon_sc as lm
from lemon_sc.models import networks, tiles
from lemon_sc.models.zoo import ZOO

VITS = [name for name, entry in ZOO.items() if entry.kind == "vit"]
GATED = {"embed_dim": 1536, "num_heads": 24, "mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
WIDE = {**GATED, "mlp_ratio": 2.66667 * 2, "init_values": 1e-5}

# the architectures as timm names them, with the arguments of the published model cards
NAMED = {
    "dinov2_s": ("vit_small_patch14_dinov2", {}),
    "dinov2_b": ("vit_base_patch14_dinov2", {}),
    "dinov2_l": ("vit_large_patch14_dinov2", {}),
    "dinov2_g": ("vit_giant_patch14_dinov2", {}),
    "uni": ("vit_large_patch16_224", {"init_values": 1e-5, "dynamic_img_size": True}),
    "uni2_h": ("vit_giant_patch14_224", {**WIDE, "depth": 24, "no_embed_class": True, "reg_tokens": 8}),
    "virchow2": (
        "vit_huge_patch14_224",
        {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 5.3375, "reg_tokens": 4,
         "init_values": 1e-5},
    ),
    "hoptimus0": ("vit_giant_patch14_reg4_dinov2", {"init_values": 1e-5}),
    "h0_mini": (
        "vit_base_patch14_reg4_dinov2",
        {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 5.33334},
    ),
    "phikon": ("vit_base_patch16_224", {}),
    "phikon_v2": ("vit_large_patch16_224", {"init_values": 1e-5}),
}  # fmt: skip

# name: parameters, GMAC of layers, GMAC with attention
ANCHORS = {
    "dinov2_s": (21_628_800, 5.515, 6.124),
    "dinov2_b": (85_724_928, 21.94, 23.16),
    "dinov2_l": (303_227_904, 77.77, 81.01),
    "dinov2_g": (1_134_769_664, 291.27, 299.39),
    "uni": (303_350_784, 59.65, 61.55),
    "uni2_h": (681_394_176, 180.29, 185.47),
    "virchow2": (631_239_424, 164.49, 170.07),
    "hoptimus0": (1_134_774_272, 295.80, 304.17),
    "h0_mini": (85_739_520, 22.28, 23.54),
    "phikon": (85_798_656, 16.85, 17.56),
    "phikon_v2": (303_350_784, 59.65, 61.55),
    "imagenet_r18": (11_176_512, 1.814, 1.814),
    "imagenet_r50": (23_508_032, 4.087, 4.087),
}


def crops(n=3, size=40):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def toy(name, monkeypatch):
    """The entry with a narrow, shallow network in place of the published one."""
    entry = ZOO[name]
    if entry.kind == "vit":
        small = {"embed_dim": 24, "depth": 2, "num_heads": 4}
        times = entry.card.dim // entry.options["embed_dim"]
        card = replace(entry.card, dim=24 * times, num_heads=4)
        entry = replace(entry, options={**entry.options, **small}, card=card)
        monkeypatch.setitem(ZOO, name, entry)
    if entry.kind == "conch":
        small = {"embed_dim": 24, "depth": 1, "num_heads": 4, "out_dim": 16, "pool_heads": 2}
        entry = replace(
            entry, options={**entry.options, **small}, card=replace(entry.card, dim=16, num_heads=4), size_px=64
        )
        monkeypatch.setitem(ZOO, name, entry)
    return entry


def trained(entry, seed=0):
    """A network with weights that no part of it can be exchanged without a change of the output."""
    draw = torch.Generator().manual_seed(seed)
    network = networks.build(entry)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.is_floating_point() and not key.endswith("running_var"):
                value.add_(torch.randn(value.shape, generator=draw) * 0.02)
    return network.eval()


def kept(network, path, **other):
    save_file({k: v.contiguous() for k, v in (network.state_dict() | other).items()}, path)
    return path


def by_hand(entry, network, images, size):
    """Pillow's resize in floating point, crop by crop, then the statistics, then the network."""
    out = []
    for image in images:
        planes = [
            np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
            for c in range(3)
        ]
        x = (np.stack(planes, -1) / 255 - entry.card.mean) / entry.card.std
        out.append(torch.tensor(x, dtype=torch.float32).permute(2, 0, 1))
    with torch.inference_mode():
        x = torch.stack(out)
        return network.forward_features(x) if entry.kind == "vit" else network(x)


@pytest.mark.parametrize("name", NAMED)
def test_architectures_are_those_that_timm_names(name):
    arch, options = NAMED[name]
    with torch.device("meta"):
        theirs = timm.create_model(arch, pretrained=False, num_classes=0, img_size=224, **options)
    ours = networks.construct(ZOO[name])
    shapes = [{k: tuple(v.shape) for k, v in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for trait in ("num_prefix_tokens", "no_embed_class", "patch_embed.grid_size", "blocks.0.attn.num_heads"):
        assert _trait(ours, trait) == _trait(theirs, trait), trait
    assert str(ours.blocks[0].mlp) == str(theirs.blocks[0].mlp)


def _trait(model, path):
    for part in path.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


@pytest.mark.parametrize("name", ANCHORS)
def test_parameters_and_cost(name):
    parameters, layers, everything = ANCHORS[name]
    network = networks.construct(ZOO[name])
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert lm.models.macs(name) / 1e9 == pytest.approx(layers, abs=0.006)
    assert lm.models.macs(name, attention=True) / 1e9 == pytest.approx(everything, abs=0.006)


def test_volta_is_a_pre_activation_resnet_18():
    """Convolutions of a ResNet-18 with a 3 x 3 stem, and norms before, not after, them."""
    widths, convolutions, norms = [64, 64, 128, 256, 512], 3 * 9 * 64, 0
    for before, width in zip(widths, widths[1:], strict=False):
        shortcut = before * width if before != width else 0
        convolutions += before * width * 9 + 3 * width * width * 9 + shortcut
        norms += 2 * (before + 3 * width)
    network = networks.construct(ZOO["volta_nucls"])
    assert sum(p.numel() for p in network.parameters()) == convolutions + norms
    # 32 px: the stem and the four stages at 32, 32, 16, 8, 4 px
    stages = [before * width * 9 + 3 * width * width * 9 + (before * width if before != width else 0)
              for before, width in zip(widths, widths[1:], strict=False)]  # fmt: skip
    expected = 1024 * 3 * 9 * 64 + sum(side * side * stage for side, stage in zip((32, 16, 8, 4), stages, strict=True))
    assert lm.models.macs("volta_nucls") == expected


@pytest.mark.parametrize("name", ZOO)
def test_every_card_runs_from_a_weight_file(name, monkeypatch, tmp_path):
    entry = toy(name, monkeypatch)
    network = trained(entry)
    encoder = lm.models.load(name, weights=kept(network, tmp_path / "w.safetensors"))
    images = crops()
    z = encoder.encode(images)
    made = by_hand(entry, network, images, entry.size_px)
    if entry.kind == "vit":
        registers = {"uni2_h": 8, "virchow2": 4, "hoptimus0": 4, "h0_mini": 4}.get(name, 0)
        cls, patches = made[:, 0], made[:, 1 + registers :]
        made = torch.cat([cls, patches.mean(1)], 1) if name == "virchow2" else cls
    np.testing.assert_allclose(z, made.numpy(), atol=2e-3, rtol=2e-3)
    assert z.shape == (3, encoder.card.dim)
    assert np.abs(z[0] - z[1]).max() > 1e-4
    np.testing.assert_allclose(encoder.encode(images[1:2]), z[1:2], atol=1e-4)
    assert len(encoder.card.sha256) == 64
    assert encoder.card.revision == ""
    assert lm.models.macs(encoder) == lm.models.macs(name)


@pytest.mark.parametrize(("name", "first"), [("dinov2_s", 6), ("uni", 5), ("hoptimus0", 6)])
def test_centre_tokens_are_those_of_the_middle_8_um(name, first, monkeypatch, tmp_path):
    entry = toy(name, monkeypatch)
    network = trained(entry)
    encoder = lm.models.load(name, weights=kept(network, tmp_path / "w.safetensors"), pooling="centre")
    assert (encoder.card.input_px, encoder.card.dim, encoder.card.pooling) == (128, 24, "centre")
    images = crops(2, 128)
    tokens = by_hand(entry, network, images, 224)
    side = 224 // entry.options["patch_size"]
    prefix = tokens.shape[1] - side * side
    expected = sum(tokens[:, prefix + r * side + c] for r in range(first, first + 4) for c in range(first, first + 4))
    np.testing.assert_allclose(encoder.encode(images), expected / 16, atol=2e-3, rtol=2e-3)


def test_pooling_on_planted_tokens():
    tokens = torch.arange(2.0 * 261 * 3).reshape(2, 261, 3)
    assert torch.equal(networks.pool(tokens, prefix=5, pooling="cls"), tokens[:, 0])
    both = networks.pool(tokens, prefix=5, pooling="cls_mean")
    torch.testing.assert_close(both, torch.cat([tokens[:, 0], tokens[:, 5:].sum(1) / 256], 1))
    middle = networks.pool(tokens, prefix=5, pooling="centre")
    assert middle[0, 0] == 3 * (5 + 7.5 * 16 + 7.5)  # the mean of a linear ramp is its value in the middle
    with pytest.raises(ValueError, match="`pooling` must be one of"):
        networks.pool(tokens, prefix=5, pooling="max")


def test_choices_of_pooling_and_field():
    virchow = tiles.chosen(ZOO["virchow2"])
    assert (virchow.dim, virchow.pooling, virchow.input_px) == (2560, "cls_mean", 40)
    assert tiles.chosen(ZOO["virchow2"], pooling="cls").dim == 1280
    assert tiles.chosen(ZOO["h0_mini"], pooling="cls_mean").dim == 1536
    assert tiles.chosen(ZOO["uni"], input_px=128).input_px == 128
    assert tiles.chosen(ZOO["uni"], pooling="centre", input_px=64).input_px == 64
    whole = tiles.chosen(ZOO["uni"], input_px=224, mpp=0.5)  # a patch of tissue, as the encoder was trained on
    assert (whole.input_px, whole.mpp, tiles.chosen(ZOO["uni"]).mpp) == (224, 0.5, 0.25)
    with pytest.raises(ValueError, match="`pooling` must be one of"):
        tiles.chosen(ZOO["uni"], pooling="center")
    with pytest.raises(ValueError, match="choice for transformers; 'imagenet_r18' has 'average' alone"):
        tiles.chosen(ZOO["imagenet_r18"], pooling="cls")


def test_statistics_and_scale_of_the_cards():
    assert {entry.card.mpp for entry in ZOO.values()} == {0.25}
    assert ZOO["hoptimus0"].card.mean == ZOO["h0_mini"].card.mean == (0.707223, 0.578729, 0.703617)
    assert ZOO["uni"].card.std == (0.229, 0.224, 0.225)
    assert ZOO["volta_consep"].card.mean != ZOO["volta_lizard"].card.mean
    for entry in ZOO.values():
        assert all((entry.card.license, entry.card.citation, entry.card.url, entry.card.arch)), entry.card.name
        assert entry.card.hub or entry.layout == "volta"


def test_cost_of_what_has_none_is_refused():
    with pytest.raises(ValueError, match="a model with a network, got 'morphometry'"):
        lm.models.macs("morphometry")
    assert lm.models.macs("lemon") == lm.models.macs(lm.models.vit_s8_40())


def test_the_table_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    table = text.split("<!-- the models trained on tiles")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "`" in line]
    assert [row[0].strip("`") for row in rows] == list(ZOO)
    for name, parameters, cost, width, license, access in rows:
        card = ZOO[name.strip("`")].card
        assert (int(width), license, access == "gated") == (card.dim, card.license, card.gated)
        module = tiles.untrained(ZOO[card.name])
        assert parameters == f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}"
        assert cost == ", ".join(f"{lm.models.macs(module, attention=a) / 1e9:.2f}" for a in (False, True))
