"""Encoders with their card beside them: by path, and by name where they come with the package."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lemon_sc as lm
from lemon_sc.models import ModelCard, exported, registry
from lemon_sc.models.card_files import card_text
from lemon_sc.models.vit import cell_vit

SIZE = {"dim": 24, "num_heads": 3, "depth": 2}


def write(folder, name="toy", *, metadata=None, **changes):
    """Weights and card, written without the package's own writer."""
    module = cell_vit(**SIZE, generator=torch.Generator().manual_seed(5)).eval()
    path = folder / f"{name}.safetensors"
    folder.mkdir(exist_ok=True)
    save_file(
        module.state_dict(),
        path,
        metadata={"format": "pt", "lemon_sc": "lemon_sc.encoder/1"} if metadata is None else metadata,
    )
    card = {
        "schema": "lemon_sc.encoder/1", "name": name, "dim": 24, "input_px": 40, "mpp": 0.25, "num_heads": 3,
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "license": "BSD-3-Clause", "files": [],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "training": {"recipe": {"mean": [0.5]}},
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(card | changes))
    return module, path


def crops(n=3):
    return np.random.default_rng(0).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)


def truth(module, images):
    x = (torch.from_numpy(images).double() / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.2, 0.1])
    with torch.inference_mode():
        return module(x.float().permute(0, 3, 1, 2)).numpy()


def test_crops_are_normalised_and_heads_counted_as_the_card_says(tmp_path):
    module, path = write(tmp_path)
    encoder = lm.models.load(path)
    np.testing.assert_allclose(encoder.encode(crops()), truth(module, crops()), atol=1e-5)
    assert (encoder.card.name, encoder.card.mean, encoder.card.files) == ("toy", (0.5, 0.4, 0.3), ())
    assert encoder.card.training["recipe"] == {"mean": [0.5]}
    _, other = write(tmp_path, num_heads=4)
    assert np.abs(lm.models.load(other).encode(crops()) - truth(module, crops())).max() > 1e-3


def test_a_card_is_read_as_it_was_written(tmp_path):
    card = ModelCard(name="m", dim=3, num_heads=1, sha256="a" * 64, files=("x",), training={"recipe": {"a": [1, 2]}})
    (tmp_path / "m.json").write_text(card_text(card, exported.SCHEMA))
    assert exported.read_card(tmp_path / "m.safetensors") == card
    assert hash(card) == hash(dataclasses.replace(card, training={}))


@pytest.fixture
def with_toy(tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr(registry, "DEFAULT", "morphometry")
    return write(tmp_path / "weights")


def test_what_comes_with_the_package_is_found_by_name(with_toy):
    module, path = with_toy
    encoder = lm.models.load("toy")
    np.testing.assert_allclose(encoder.encode(crops()), truth(module, crops()), atol=1e-5)
    assert [card.name for card in lm.models.available()][:3] == ["morphometry", "toy", "lemon"]
    assert lm.models.status("toy") == f"ready: {path}"
    assert lm.models.as_encoder().card.name == "morphometry"
    with pytest.raises(ValueError, match="Did you mean 'toy'"):
        lm.models.load("toyy")
    with pytest.raises(ValueError, match="'toy' takes none"):
        lm.models.load("toy", weights=path)


def test_one_name_makes_it_the_default(with_toy, monkeypatch):
    monkeypatch.setattr(registry, "DEFAULT", "toy")
    assert lm.models.as_encoder().card == lm.models.available()[0] == lm.models.load("toy").card


def test_a_default_that_is_not_there_is_said(with_toy, monkeypatch):
    monkeypatch.setattr(registry, "DEFAULT", "lost")
    assert [card.name for card in lm.models.available()][:2] == ["morphometry", "toy"]
    with pytest.raises(ValueError, match="'lost'"):
        lm.models.as_encoder()


def test_what_is_missing_or_mixed_up_in_the_package_is_said(with_toy):
    _, path = with_toy
    path.rename(path.with_name("other.safetensors"))
    assert lm.models.status("toy") == f"not ready: {path} is missing, install lemon_sc again"
    with pytest.raises(FileNotFoundError, match="weights of 'toy' come with lemon_sc, but .* Install lemon_sc again"):
        lm.models.load("toy")
    path.with_suffix(".json").rename(path.with_name("other.json"))
    with pytest.raises(ValueError, match=r"other\.json is the card of 'toy'\. Name the files toy\.json"):
        lm.models.available()


def test_every_encoder_in_the_package_is_whole_and_small():
    names = set(exported.bundled())
    assert {p.stem for p in exported.FOLDER.glob("*.safetensors")} == names
    for name in names:
        assert exported.weights_of(name).stat().st_size < 45e6
        encoder = lm.models.load(name)
        assert encoder.encode(crops()).shape == (3, encoder.card.dim)
        assert encoder.card.license
        assert encoder.card.training["corpus"]["sources"]


def test_weights_that_are_not_those_of_the_card_are_refused(tmp_path):
    _, path = write(tmp_path, sha256="b" * 64)
    with pytest.raises(ValueError, match=r"not the weight file of its card: its sha256 is [0-9a-f]{64}, .* says b{64}"):
        lm.models.load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no card: toy\.json is not beside it"):
        lm.models.load(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is no JSON"),
        ("[]", "no card of an encoder"),
        ('{"schema": "lemon_sc.encoder/9"}', "'lemon_sc.encoder/9', not .* A newer lemon_sc"),
        ('{"schema": "lemon_sc.encoder/1", "dims": 3}', r"fields that cards do not have: \['dims'\]"),
        ('{"schema": "lemon_sc.encoder/1", "name": "m", "dim": 3}', r"lacks \['num_heads', 'sha256'\]"),
    ],
)
def test_a_damaged_card_is_refused(tmp_path, content, why):
    _, path = write(tmp_path)
    path.with_suffix(".json").write_text(content)
    with pytest.raises(ValueError, match=why):
        lm.models.load(path)


@pytest.mark.parametrize("heads", [0, 5])
def test_a_number_of_heads_that_cannot_be_is_refused(tmp_path, heads):
    _, path = write(tmp_path, num_heads=heads)
    with pytest.raises(ValueError, match=rf"{heads} heads cannot share a width of 24"):
        lm.models.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_heads", "3"), ("num_heads", None), ("mpp", "x"), ("mean", 0.5), ("features", {"a": 1}), ("training", None)],
)
def test_a_card_with_a_value_of_another_type_is_damaged(tmp_path, name, value):
    _, path = write(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=rf"toy\.json is damaged: `card\.{name}` must .* Fetch or export it again"):
        lm.models.load(path)


def test_weights_of_another_network_than_the_card_says_are_refused(tmp_path):
    _, path = write(tmp_path, dim=36)
    with pytest.raises(ValueError, match=r"toy\.safetensors is not a toy .*another shape"):
        lm.models.load(path)


def test_files_without_the_mark_are_read_as_before(tmp_path):
    _, path = write(tmp_path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="neither a ViT-S/8 nor a ViT-B/8"):
        lm.models.load(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="is not a readable safetensors"):
        lm.models.load(path)


def test_heads_share_the_width_before_a_linear_layer(tmp_path):
    """Not that of what comes after it."""
    module = cell_vit(**SIZE, n_out=7, generator=torch.Generator().manual_seed(5)).eval()
    path = tmp_path / "told.safetensors"
    save_file(module.state_dict(), path, metadata={"format": "pt", "lemon_sc": "lemon_sc.encoder/1"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    card = ModelCard(name="told", dim=7, num_heads=3, features=tuple("abcdefg"), sha256=digest, **statistics)
    path.with_suffix(".json").write_text(card_text(card, schema="lemon_sc.encoder/1"))
    np.testing.assert_allclose(lm.models.load(path).encode(crops()), truth(module, crops()), atol=1e-5)
    path.with_suffix(".json").write_text(card_text(dataclasses.replace(card, num_heads=5), schema="lemon_sc.encoder/1"))
    with pytest.raises(ValueError, match="told is damaged: 5 heads cannot share a width of 24"):
        lm.models.load(path)
