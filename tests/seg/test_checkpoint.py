"""Weight files of our own, and those in the published layout, which a network of its own writes here."""

import json

import pytest
import torch
from published_cellvit import Published
from timm.models.vision_transformer import VisionTransformer

from lemon_sc.models.cards import ModelCard
from lemon_sc.models.zoo import ZOO, Entry
from lemon_sc.seg import checkpoint, taps
from lemon_sc.seg.card import SegCard
from lemon_sc.seg.checkpoint import load, save
from lemon_sc.seg.histoplus import CLASSES, load_histoplus
from lemon_sc.seg.network import build_network

FOUR = (1, 2, 3, 4)
CARD = SegCard(
    name="tiny", encoder="vit_debug", taps=FOUR, classes=("background", "a"), width=2, size_px=16, license="CC0",
    training={"data": {"sources": [{"name": "set", "licence": "CC BY 4.0"}]}},
)  # fmt: skip


def network(card=CARD):
    return build_network(card, generator=torch.Generator().manual_seed(3)).eval()


def test_what_is_saved_is_what_is_loaded(tmp_path):
    made, path = network(), tmp_path / "tiny.safetensors"
    written = save(CARD, made.state_dict(), path)
    found = load(path)
    assert found.card == written
    assert found.card.classes == ("background", "a")
    assert found.card.training["data"]["sources"][0]["licence"] == "CC BY 4.0"
    x = torch.randn(1, 3, 32, 24)
    with torch.no_grad():
        for name, values in made(x).items():
            torch.testing.assert_close(found.network(x)[name], values)
    assert not any(p.requires_grad for p in found.network.parameters())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.json", "tiny.safetensors"]


def test_half_the_size_reads_into_float32(tmp_path):
    state, big, small = network().state_dict(), tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save(CARD, state, big)
    save(CARD, state, small, half=True)
    assert small.stat().st_size < 0.7 * big.stat().st_size
    found = load(small).network.state_dict()
    for name, values in state.items():
        assert found[name].dtype == values.dtype
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-6)


def test_a_convolutional_encoder_is_saved_too(tmp_path):
    card = SegCard(name="conv", encoder="conv_r18", width=2, size_px=32)
    save(card, network(card).state_dict(), tmp_path / "conv.safetensors")
    assert load(tmp_path / "conv.safetensors").card.classes == ()


@pytest.fixture
def saved(tmp_path):
    save(CARD, network().state_dict(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_classes_that_do_not_match_are_named(saved, tmp_path):
    state = network().state_dict()
    with pytest.raises(ValueError, match=r"has 2 type channels, but 3 classes are named: \['background', 'b', 'c'\]"):
        save(
            SegCard(name="x", encoder="vit_debug", classes=("background", "b", "c")), state, tmp_path / "x.safetensors"
        )
    card = json.loads(saved.with_suffix(".json").read_text())
    saved.with_suffix(".json").write_text(json.dumps({**card, "classes": []}))
    with pytest.raises(ValueError, match="has 2 type channels, but 0 classes"):
        load(saved)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda p: p.with_suffix(".json").unlink(), "has no card: tiny.json is not beside it"),
        (lambda p: p.with_suffix(".json").write_text("{"), "is damaged: it is no JSON"),
        (lambda p: p.with_suffix(".json").write_text('{"schema": "other"}'), "no card of a segmenter.*Name the file"),
        (
            lambda p: p.with_suffix(".json").write_text('{"schema": "lemon_sc.segmenter/2"}'),
            "no card of a segmenter.*A newer lemon_sc may read it",
        ),
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"x"), "is not the weight file of its card"),
        (lambda p: p.unlink(), "There is no .*Name a weight file"),
    ],
)
def test_files_that_cannot_be_used(saved, spoil, match):
    spoil(saved)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        load(saved)


def test_a_card_of_another_network(saved):
    path = saved.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "width": 4}))
    with pytest.raises(ValueError, match=r"is not a tiny \(CellViT on vit_debug\): it has keys of another shape"):
        load(saved)
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": 4}))
    with pytest.raises(ValueError, match="damaged, or of a newer lemon_sc: 'colour' not found"):
        load(saved)


def test_names_are_those_of_the_folder(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "FOLDER", saved.parent)
    assert load().card.name == "tiny"
    assert load("tiny").card.sha256 == load(saved).card.sha256
    monkeypatch.setattr(checkpoint, "FOLDER", saved.parent / "none")
    with pytest.raises(FileNotFoundError, match="No segmenter comes with this installation"):
        load()


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in '.safetensors'"):
        save(CARD, network().state_dict(), tmp_path / "tiny.pt")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small network under the published names, its encoder one with patches of 14 px and registers."""
    options = {"embed_dim": 16, "depth": 5, "num_heads": 2, "patch_size": 14, "reg_tokens": 4, "no_embed_class": True}
    entry = Entry(card=ModelCard(name="tiny14", dim=16), kind="vit", options=options, size_px=28)
    monkeypatch.setitem(ZOO, "tiny14", entry)
    monkeypatch.setattr(taps, "ENCODERS", (*taps.ENCODERS, "tiny14"))
    torch.manual_seed(5)
    vit = VisionTransformer(img_size=28, num_classes=0, **options)
    made = Published(vit, taps=(1, 2, 4, 5), width=4, n_classes=15).eval()
    torch.save({"state_dict": made.state_dict()}, tmp_path / "published.pt")
    return made, tmp_path / "published.pt"


def test_the_published_layout_gives_the_published_maps(published):
    made, path = published
    found = load_histoplus(path, encoder="tiny14", taps=(1, 2, 4, 5))
    assert (found.card.classes, found.card.size_px, found.card.width) == (CLASSES, 28, 4)
    assert found.card.license == "CC-BY-NC-ND-4.0"
    x = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        for name, values in made(x).items():
            torch.testing.assert_close(found.network(x)[name], values, rtol=1e-4, atol=1e-5)
        other = load_histoplus(path, encoder="tiny14", taps=(1, 2, 3, 5)).network(x)["np"]
    assert not torch.allclose(other, made(x)["np"], atol=1e-3), "taps matter"


def test_cellvits_own_names_are_known(published, tmp_path):
    made, path = published
    names = {"np_branch": "nuclei_binary_map_decoder", "hv_branch": "hv_map_decoder",
             "tp_branch": "nuclei_type_maps_decoder", "extractor.feature_extractor": "encoder"}  # fmt: skip
    state = {}
    for key, value in made.state_dict().items():
        name = key.removeprefix("neck.")
        for old, new in names.items():
            name = name.replace(old, new) if name.startswith(old) else name
        state[name] = value
    torch.save(state, tmp_path / "cellvit.pt")
    x = torch.randn(1, 3, 28, 28)
    first, second = (
        load_histoplus(p, encoder="tiny14", taps=(1, 2, 4, 5)).network(x)["tp"] for p in (path, tmp_path / "cellvit.pt")
    )
    torch.testing.assert_close(first, second)


def test_published_weights_that_do_not_fit(published, tmp_path):
    made, path = published
    with pytest.raises(ValueError, match=r"has 15 type channels, but 14 classes are named: \['background', 'cancer'"):
        load_histoplus(path, classes=CLASSES[:-1], encoder="tiny14")
    with pytest.raises(FileNotFoundError, match="There is no weight file"):
        load_histoplus(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match="taps"):
        load_histoplus(path, encoder="tiny14")
    state = made.state_dict()
    bare = {k: v for k, v in state.items() if "patch_embed" not in k}
    torch.save(bare, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="no checkpoint in the layout of HistoPLUS: it has 0 tensors"):
        load_histoplus(tmp_path / "bare.pt")
    lacking = {k: v for k, v in state.items() if k != "neck.decoder2.1.block.0.bias"}
    torch.save(lacking | {"classifier_head.weight": torch.zeros(1)}, tmp_path / "lacking.pt")
    with pytest.raises(ValueError, match=r"lacks keys \['neck.skip2.1.0.bias'\]"):
        load_histoplus(tmp_path / "lacking.pt", encoder="tiny14", taps=(1, 2, 4, 5))
