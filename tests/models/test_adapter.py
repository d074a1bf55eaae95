"""Adapters and expression sides as files: read back, refused for another encoder, damaged."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from seal_units import CARD, GENES, tiny_encoder, tiny_recipe, units

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.models import adapter, registry
from lemon_sc.models.fast_vit import fits
from lemon_sc.models.seal_card import tensors_digest
from lemon_sc.train import seal, seal_loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal_loop, "peak_flops", lambda *_, **__: 1e12)
        out = tmp_path_factory.mktemp("run")
        return seal(tiny_recipe(lr=1e-2), data=units(), model=tiny_encoder(), out=out, device="cpu")


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run.out, tmp_path / "copy")
    return tmp_path / "copy"


def test_an_adapter_is_small_and_says_what_it_is_for(run):
    assert run.adapter.stat().st_size < 8 * 16 * 48 * 4 + 2_000
    card = json.loads(run.adapter.with_suffix(".json").read_text())
    assert (card["base"]["name"], card["license"], card["rank"], card["alpha"]) == ("tiny", "CC0-1.0", 8, 8.0)
    assert card["network_sha256"] == tensors_digest(tiny_encoder().module.state_dict())
    assert sorted(card["genes"]) == sorted(g.upper() for g in GENES)
    assert card["layers"] == [f"blocks.1.{part}" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    assert card["training"]["data"]["sources"][0]["licence"] == "CC0-1.0"


def test_the_adapted_encoder_is_the_trained_one(run):
    """The weights of the checkpoint, put on by hand, give the embeddings that the merged encoder gives."""
    base, crops = tiny_encoder(), units().crops
    adapted = lm.models.with_adapter(base, run.adapter)
    state = torch.load(run.out / "checkpoint.pt", weights_only=True)["seal"]
    by_hand = tiny_encoder().module
    for name in run.card.layers:
        up, down = (state[f"encoder.{name}.lora_{part}"] for part in ("up", "down"))
        by_hand.get_submodule(name).weight += up @ down
    x = (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - torch.tensor(CARD.mean)[:, None, None]) / 0.2
    made = adapted.encode(crops)
    np.testing.assert_allclose(made, by_hand(x).numpy(), atol=2e-5)
    assert np.abs(made - base.encode(crops)).max() > 1e-3
    assert fits(adapted.module), "it is as fast as the encoder was"
    card = adapted.card
    assert (card.name, card.license, card.dim, card.input_px) == ("tiny-seal_small", "CC0-1.0", 48, 24)
    assert card.sha256 == run.card.adapted_sha256 != base.card.sha256
    assert lm.models.encode(crops, adapted).shape == (24, 48)


def test_expression_is_encoded_alike_wherever_it_comes_from(run):
    side = lm.models.load_expression(run.expression)
    data = units(seed=5)
    counts = data.counts.toarray()
    made = side.encode_expression(counts, data.genes)
    assert made.shape == (24, side.dim) == (24, 48)
    assert made.dtype == np.float32
    assert np.array_equal(made, side.encode_expression(counts, data.genes)), "nothing is drawn"
    turned = side.encode_expression(counts[:, ::-1], [g.lower() for g in data.genes[::-1]])
    np.testing.assert_allclose(turned, made, atol=1e-5)
    np.testing.assert_allclose(side.encode_expression(counts[:3], data.genes), made[:3], atol=1e-5)
    assert side.encode_expression(counts[:0], data.genes).shape == (0, 48)
    assert side.encoder_sha256 == lm.models.with_adapter(tiny_encoder(), run.adapter).card.sha256


def test_a_gene_is_a_query(run):
    side = lm.models.load_expression(run.expression)
    first, both = side.encode_genes("size0"), side.encode_genes(["SIZE0", "DARK1"], shift=3.0)
    np.testing.assert_allclose(both[0], first[0], atol=1e-6)
    assert not np.allclose(both[0], both[1])
    still = side.encode_genes(["SIZE0", "DARK1"], shift=0.0)
    np.testing.assert_allclose(still[0], still[1], atol=1e-6)
    with pytest.raises(MissingKeyError, match="'SIZE9' not found in `genes of the panel`.*Did you mean 'SIZE"):
        side.encode_genes("size9")
    with pytest.raises(ValueError, match="must name at least one gene"):
        side.encode_genes([])
    with pytest.raises(ValueError, match="`shift` must be a finite number"):
        side.encode_genes("size0", shift=np.nan)
    with pytest.raises(ValueError, match="None of the panel's 15 genes"):
        side.encode_expression([[1]], ["ENSG1"])


def other_encoders():
    wider = dataclasses.replace(CARD, mpp=0.5)
    return {
        "other weights": (tiny_encoder(seed=9), "trained with the same settings and other weights"),
        "another pixel size": (tiny_encoder(card=wider), "trained with mpp 0.25, not 0.5"),
        "no network": (lm.models.load("morphometry"), "'morphometry' has no weights that could be adapted"),
    }


@pytest.mark.parametrize("case", other_encoders())
def test_another_encoder_is_refused(case, run):
    encoder, match = other_encoders()[case]
    with pytest.raises(ValueError, match=f"is an adapter for 'tiny'.*{match}"):
        lm.models.with_adapter(encoder, run.adapter)


def test_load_finds_the_encoder_by_its_name_or_file(run, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="adapter for 'tiny', which is no model known by name. Pass `weights=`"):
        lm.models.load(run.adapter)
    with pytest.raises(ValueError, match="`pooling` is on the card of the adapter"):
        lm.models.load(run.adapter, pooling="cls")
    crops, expected = units().crops, lm.models.with_adapter(tiny_encoder(), run.adapter)
    monkeypatch.setitem(registry._cards.__globals__, "_cards", lambda: {"tiny": CARD})
    monkeypatch.setattr(registry.exported, "load_bundled", lambda name: tiny_encoder())
    found = lm.models.load(run.adapter)
    assert found.card == expected.card
    assert np.array_equal(found.encode(crops), expected.encode(crops))
    monkeypatch.setattr(registry.exported, "is_exported", lambda path: path.name == "base.safetensors")
    monkeypatch.setattr(registry.exported, "load_exported", lambda path: tiny_encoder())
    assert lm.models.load(run.adapter, weights=tmp_path / "base.safetensors").card == expected.card


def test_an_adapter_of_a_known_tile_encoder_gets_its_field(run, copied, monkeypatch):
    """Pooling, side and pixel size of the crops are on the adapter's card."""
    path = copied / "adapter.json"
    card = json.loads(path.read_text())
    card["base"] |= {"name": "dinov2_s", "pooling": "cls"}
    path.write_text(json.dumps(card))
    asked = {}

    def load_tiles(entry, **options):
        asked.update(options, name=entry.card.name)
        return tiny_encoder(card=dataclasses.replace(CARD, pooling="cls"))

    monkeypatch.setattr(registry.tiles, "load_tiles", load_tiles)
    found = lm.models.load(copied / "adapter.safetensors", weights="somewhere")
    assert found.card.name == "tiny-seal_small"
    assert (asked["name"], asked["pooling"], asked["input_px"]) == ("dinov2_s", "cls", 24)
    assert asked["weights"] == "somewhere"


def change_card(folder, name, **changes):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def swap_tensor(folder):
    state = load_file(folder / "adapter.safetensors")
    state.popitem()
    save_file(state, folder / "adapter.safetensors", metadata={"lemon_sc": "lemon_sc.adapter/1"})
    change_card(folder, "adapter", sha256=lm.models.checkpoint.digest(folder / "adapter.safetensors"))


DAMAGE = {
    "no card": (lambda f: (f / "adapter.json").unlink(), "has no card: adapter.json is not beside it.*which genes"),
    "card cut short": (lambda f: (f / "adapter.json").write_text("{"), "is no JSON"),
    "card of the other": (lambda f: shutil.copy(f / "expression.json", f / "adapter.json"), "no card of an adapter"),
    "another digest": (lambda f: change_card(f, "adapter", sha256="0" * 64), "is not the weight file of its card"),
    "unknown field": (lambda f: change_card(f, "adapter", depth=3), "damaged, or of a newer lemon_sc.*'depth'"),
    "no rank": (lambda f: change_card(f, "adapter", rank=0), "`card.rank` must be an int >= 1"),
    "a tensor less": (swap_tensor, "holds 7 tensors, and its card names 4 layers"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_is_not_read(case, copied):
    damage, match = DAMAGE[case]
    damage(copied)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        adapter.read_adapter(copied / "adapter.safetensors")


def test_an_expression_side_of_other_genes_is_damaged(copied):
    change_card(copied, "expression", genes=["A", "B"])
    with pytest.raises(ValueError, match="statistics of 15 genes, and its card names 2"):
        lm.models.load_expression(copied / "expression.safetensors")
    with pytest.raises(FileNotFoundError):
        lm.models.load_expression(copied / "nothing.safetensors")
