import hashlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lemon_sc as lm
from lemon_sc.models.lemon import ENV, FILE, MEAN, STD
from lemon_sc.models.vit import vit_b8_40, vit_s8_40


@pytest.fixture(scope="module")
def truth():
    """An online encoder, recognisable by a shifted position embedding, and a momentum encoder that differs."""
    online, momentum = (vit_s8_40(generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    with torch.no_grad():
        online.pos_embed.add_(0.25)
    return online.eval(), momentum.eval()


@pytest.fixture(scope="module")
def checkpoint(truth, tmp_path_factory):
    """A file in the layout of a MoCo v3 training state."""
    online, momentum = truth
    state = {f"module.base_encoder.{k}": v for k, v in online.state_dict().items()}
    state |= {f"module.momentum_encoder.{k}": v for k, v in momentum.state_dict().items()}
    for network in ("base_encoder.head", "momentum_encoder.head", "predictor"):
        state |= {f"module.{network}.0.weight": torch.ones(4, 4), f"module.{network}.1.running_mean": torch.ones(4)}
    content = {"epoch": 3, "arch": "vit_small", "state_dict": state, "optimizer": {"state": {}}, "scaler": {}}
    path = tmp_path_factory.mktemp("weights") / FILE
    torch.save(content, path)
    return path


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


def expected(model, crops):
    """Normalised by hand, crop by crop."""
    rows = []
    for crop in crops:
        x = (torch.tensor(crop.tolist()) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        with torch.inference_mode():
            rows.append(model(x.permute(2, 0, 1)[None])[0].numpy())
    return np.array(rows)


def test_the_online_encoder_is_read_and_nothing_else(truth, checkpoint, crops):
    encoder = lm.models.load("lemon", weights=checkpoint)
    z = encoder.encode(crops)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, expected(truth[0], crops), atol=1e-5)
    assert np.abs(z - expected(truth[1], crops)).max() > 1e-2
    assert encoder.card.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (encoder.card.name, encoder.card.dim, encoder.card.license) == ("lemon", 384, "MIT")


def test_the_stored_position_embedding_is_kept(checkpoint):
    module = lm.models.load(checkpoint).module
    torch.testing.assert_close(module.pos_embed, vit_s8_40().pos_embed + 0.25)
    assert {block.attn.num_heads for block in module.blocks} == {12}


@pytest.mark.parametrize("prefix", ["module.base_encoder.", "base_encoder.", ""])
@pytest.mark.parametrize("kind", ["state_dict", "plain", "safetensors"])
def test_every_layout_gives_the_same_weights(truth, tmp_path, prefix, kind):
    state = {prefix + k: v.clone() for k, v in truth[0].state_dict().items()}
    path = tmp_path / f"mine.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "state_dict" else state, path)
    encoder = lm.models.as_encoder(path)
    for name, value in encoder.module.state_dict().items():
        assert torch.equal(value, truth[0].state_dict()[name])
    assert (encoder.card.name, encoder.card.license) == ("mine", "")  # a licence is not claimed for unknown weights


def test_the_larger_network_is_told_by_its_shapes(tmp_path):
    torch.save(vit_b8_40().state_dict(), tmp_path / "b.pth")
    card = lm.models.load(tmp_path / "b.pth").card
    assert (card.dim, card.arch) == (768, "vit_b8_40")


def test_the_folder_of_the_environment_is_looked_at(checkpoint, monkeypatch):
    monkeypatch.setenv(ENV, str(checkpoint.parent))
    assert lm.models.load("lemon").card.sha256


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_missing_weights_say_which_where_and_how(folder, monkeypatch):
    monkeypatch.delenv(ENV, raising=False)
    if folder:
        monkeypatch.setenv(ENV, folder)
    with pytest.raises(FileNotFoundError) as error:
        lm.models.load("lemon")
    for word in (FILE, "aliceblondel/LEMON", "weights=PATH", "model=PATH", ENV):
        assert word in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*nothing\.pth"):
        lm.models.load(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match="nothing.pth is not a file"):
        lm.models.load("lemon", weights=tmp_path / "nothing.pth")


class Trojan:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": Trojan()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="Files that need code"):
        lm.models.load(tmp_path / "bad.pth")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "empty.pth", "cut.pth"])
def test_files_that_are_no_checkpoint_are_refused(tmp_path, checkpoint, name):
    content = {"text": b"not a checkpoint at all", "empty": b"", "cut": checkpoint.read_bytes()[:50_000]}
    (tmp_path / name).write_bytes(content[name.split(".")[0]])
    with pytest.raises(ValueError, match=f"{name} is not a"):
        lm.models.load(tmp_path / name)


def test_checkpoints_of_something_else_are_refused(tmp_path, truth):
    path = tmp_path / "other.pth"
    full = truth[0].state_dict()

    def refuse(content, match):
        torch.save(content, path)
        with pytest.raises(ValueError, match=match):
            lm.models.load(path)

    refuse([1, 2], "holds no state dict")
    refuse({"state_dict": {"epoch": 1}}, "holds no state dict")
    refuse({"fc.weight": torch.ones(2, 2)}, "no `cls_token` among")
    refuse(full | {"cls_token": torch.ones(1, 1, 192)}, r"shape \(1, 1, 192\)")
    refuse({k: v for k, v in full.items() if k != "norm.bias"}, r"lacks keys \['norm.bias'\]")
    refuse(full | {"blocks.12.norm1.bias": torch.ones(384)}, "unexpected keys .*blocks.12")
    refuse(full | {"pos_embed": torch.ones(1, 197, 384)}, r"another shape .*pos_embed \(1, 197, 384\)")
    momentum = {f"module.momentum_encoder.{k}": v for k, v in full.items()}
    refuse({"state_dict": momentum}, "holds no online encoder")


def test_the_old_pickle_format_without_an_archive(tmp_path):
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"state_dict": Trojan()}, protocol=2))
    with pytest.raises(ValueError, match="raw.pth is not a"):
        lm.models.load(tmp_path / "raw.pth")
