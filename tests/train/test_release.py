"""From a run to a weight file: what is read back is what was trained, and its card says where it comes from."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file

import lemon_sc as lm
from lemon_sc.models.card_files import write_pair
from lemon_sc.models.vit import vit_s8_40
from lemon_sc.train.checkpoint import corpus_record
from lemon_sc.train.corpus_reader import Corpus
from lemon_sc.train.loop import fit
from lemon_sc.train.recipes import debug
from lemon_sc.train.release import export, push_to_hub, readme
from lemon_sc.train.seal_loop import SealRun
from lemon_sc.train.state import begin


def tiny_corpus():
    crops = np.random.default_rng(0).integers(0, 256, (32, 60, 60, 3), dtype=np.uint8)
    slides = [{"name": f"a/{k}", "organ": "skin"} for k in range(2)]
    sources = [{"name": "a", "licence": "CC BY 4.0 (Someone 2020)", "n_crops": 32}]
    manifest = {"slides": slides, "sources": sources}
    return Corpus(crops=crops, slide=np.repeat(np.arange(2, dtype=np.int32), 16), manifest=manifest)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = debug(epochs=1, epoch_length=32, mean=(0.7, 0.5, 0.6))
    return fit(recipe, corpus=tiny_corpus(), out=tmp_path_factory.mktemp("run") / "out", device="cpu")


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory):
    """Writes the checkpoint of a recipe at its first step."""

    def write(recipe):
        path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
        state = begin(recipe, tiny_corpus(), torch.device("cpu"))
        torch.save(state.to_checkpoint(corpus_record(tiny_corpus())), path)
        return path

    return write


@pytest.fixture(scope="module")
def small(checkpoint_of):
    """Checkpoint of a ViT-S/8 that MoCo v3 is to train."""
    return checkpoint_of(debug(encoder="vit_s8", options={"hidden": 8, "out": 8}))


def crops(n=3):
    return np.random.default_rng(1).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)


def by_hand(run, images):
    """The online encoder of the checkpoint, in torch's own words: two blocks of width 32 with two heads."""
    w = torch.load(run.checkpoint, weights_only=True)["method"]
    w = {k.removeprefix("base_encoder."): v for k, v in w.items() if k.startswith("base_encoder.")}
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (run.recipe.mean, run.recipe.std))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    x = torch.nn.functional.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8)
    x = torch.cat([w["cls_token"].expand(len(x), 1, -1), x.flatten(2).mT], dim=1) + w["pos_embed"]

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (32,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for b in ("blocks.0", "blocks.1"):
        q, k, v = linear(norm(x, f"{b}.norm1"), f"{b}.attn.qkv").chunk(3, dim=-1)
        heads = [((q[..., at] @ k[..., at].mT) / 4).softmax(-1) @ v[..., at] for at in (slice(0, 16), slice(16, 32))]
        x = x + linear(torch.cat(heads, dim=-1), f"{b}.attn.proj")
        x = x + linear(torch.nn.functional.gelu(linear(norm(x, f"{b}.norm2"), f"{b}.mlp.fc1")), f"{b}.mlp.fc2")
    return norm(x, "norm")[:, 0].numpy()


@pytest.mark.parametrize("given", ["run", "folder", "file"])
def test_what_is_read_back_embeds_as_what_was_trained(run, tmp_path, given):
    source = {"run": run, "folder": run.out, "file": run.checkpoint}[given]
    card = export(source, tmp_path / "new" / "mine.safetensors")
    encoder = lm.models.load(tmp_path / "new" / "mine.safetensors")
    np.testing.assert_allclose(encoder.encode(crops()), by_hand(run, crops()), atol=1e-4)
    assert encoder.card == card
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"mine.safetensors", "mine.json"}


def test_the_card_says_what_it_is_and_where_it_comes_from(run, tmp_path):
    path = tmp_path / "mine.safetensors"
    export(run, path, name="other", metrics={"amibr": 0.7})
    card = lm.models.load(path).card
    assert (card.name, card.dim, card.num_heads, card.input_px, card.mpp) == ("other", 32, 2, 40, 0.25)
    assert (card.mean, card.std) == ((0.7, 0.5, 0.6), run.recipe.std)
    assert (card.license, card.sha256) == ("BSD-3-Clause", hashlib.sha256(path.read_bytes()).hexdigest())
    training = card.training
    assert training["recipe"] == json.loads((run.out / "recipe.json").read_text())
    assert training["corpus"] == json.loads((run.out / "corpus.json").read_text())
    assert training["corpus"]["sources"][0]["licence"] == "CC BY 4.0 (Someone 2020)"
    assert (training["corpus"]["n_slides"], training["corpus"]["n_organs"]) == (2, 1)
    assert (training["step"], training["metrics"]["amibr"]) == (2, 0.7)
    assert training["metrics"]["loss"] == pytest.approx(run.metrics["loss"])


def test_the_public_names_are_functions_whatever_was_imported_before():
    assert lm.train.export is export
    assert lm.train.push_to_hub is push_to_hub


def test_half_precision_halves_the_file_and_hardly_changes_an_embedding(run, tmp_path):
    export(run, tmp_path / "full.safetensors")
    export(run, tmp_path / "half.safetensors", precision="fp16")
    assert load_file(tmp_path / "half.safetensors")["cls_token"].dtype == torch.float16
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    half, full = (lm.models.load(tmp_path / f"{n}.safetensors") for n in ("half", "full"))
    assert half.module.norm.weight.dtype == torch.float32
    np.testing.assert_allclose(half.encode(crops()), full.encode(crops()), atol=2e-2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_a_guided_encoder_tells_has_names_and_one_scale(tmp_path, precision):
    """On the crops that gave the scales, what is told varies about what is measured."""
    images = crops(64)
    recipe = debug(method="guided", options={}, augmentation="light", epochs=1, epoch_length=32)
    run = fit(recipe, corpus=tiny_corpus(), out=tmp_path / "run", device="cpu")
    card = export(run, tmp_path / "told.safetensors", precision=precision, readout=True)
    plain, told = (lm.models.load(path) for path in (run.weights, tmp_path / "told.safetensors"))
    assert told.card == card
    assert card.dim == len(card.features) == 72
    state = torch.load(run.checkpoint, weights_only=True)["method"]
    every = plain.encode(images) @ state["guide.head.weight"].numpy().T + state["guide.head.bias"].numpy()
    made = dict(zip(card.features, told.encode(images).T, strict=True))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if precision == "fp32" else {"rtol": 2e-2, "atol": 2e-2}
    assert abs(state["guide.deviation"][1] - 1) > 0.1  # um2; the columns are not in it
    np.testing.assert_allclose(made["area_um2"], every[:, 1], **tolerance)
    np.testing.assert_allclose(made["e_outside_mean"], every[:, 51], **tolerance)
    np.testing.assert_allclose(made["blue_p98"], every[:, -1], **tolerance)
    np.testing.assert_allclose(made["red_p02"], every[:, 92], **tolerance)
    again = fit(
        debug(init=str(tmp_path / "told.safetensors"), epochs=1, epoch_length=32),
        corpus=tiny_corpus(),
        out=tmp_path / "on",
        device="cpu",
    )
    assert lm.models.load(again.weights).card.training["began_with"]["sha256"] == card.sha256


def test_an_encoder_that_was_not_guided_tells_nothing(run, tmp_path):
    with pytest.raises(ValueError, match="`readout` must be False: the encoder was not guided"):
        export(run, tmp_path / "x.safetensors", readout=True)
    assert not list(tmp_path.iterdir())


def test_layer_scales_and_the_teacher_of_dinov2_are_read_back(checkpoint_of, tmp_path):
    options = {"n_local": 0, "prototypes": 16, "hidden": 16, "bottleneck": 8}
    source = checkpoint_of(debug(method="dinov2", options=options, layer_scale=0.5, image_px=48))
    card = export(source, tmp_path / "d.safetensors")
    module = lm.models.load(tmp_path / "d.safetensors").module
    assert (card.input_px, module.blocks[0].ls1.gamma[0].item()) == (48, 0.5)
    assert module(torch.zeros(1, 3, 48, 48)).shape == (1, 32)


def test_a_checkpoint_in_the_layout_of_lemon_is_read_as_lemon_is(small, tmp_path):
    """Reads ours as the published loader does: by the prefix, into a ViT-S of 12 heads, nothing missing or left."""
    export(small, tmp_path / "lemon.pth.tar", layout="moco_v3")
    content = torch.load(tmp_path / "lemon.pth.tar", weights_only=True)
    assert set(content) == {"epoch", "arch", "state_dict", "optimizer", "scaler"}
    prefix, state = "module.base_encoder.", content["state_dict"]
    online = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix) and "head" not in k.split(".")}
    network = vit_s8_40()
    assert len(online) == 150
    network.load_state_dict(online, strict=True)
    assert {k.split(".")[1] for k in state} == {"base_encoder", "momentum_encoder", "predictor"}
    export(small, tmp_path / "ours.safetensors")
    read = [lm.models.load("lemon", weights=tmp_path / "lemon.pth.tar"), lm.models.load(tmp_path / "ours.safetensors")]
    for key, value in network.state_dict().items():
        assert all(torch.equal(encoder.module.state_dict()[key], value) for encoder in read)
    np.testing.assert_array_equal(*(encoder.encode(crops()) for encoder in read))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": "dinov2", "options": {"n_local": 0, "prototypes": 16}}, "not trained by MoCo v3"),
        ({}, "is a vit_debug"),
        ({"image_px": 48}, "takes crops of 48 px"),
        ({"layer_scale": 0.1}, "has layer scales"),
        ({"mean": (0.5, 0.5, 0.5)}, "statistics that are not LEMON's"),
    ],
)
def test_what_the_layout_of_lemon_cannot_hold_is_refused(checkpoint_of, tmp_path, changes, why):
    with pytest.raises(ValueError, match=rf"cannot hold this encoder: .*{why}.*layout='safetensors'"):
        export(checkpoint_of(debug(**changes)), tmp_path / "x.pth.tar", layout="moco_v3")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*checkpoint\.pt'\. Name the folder of a run"):
        export(tmp_path, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"`path` must end in '\.safetensors'"):
        export(run, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="`precision` must be one of"):
        export(run, tmp_path / "x.safetensors", precision="bf16")
    with pytest.raises(ValueError, match="`layout` must be one of"):
        export(run, tmp_path / "x.safetensors", layout="onnx")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"metrics": {"auc": np.nan}}, "`metrics` must hold finite numbers by name, got {'auc': nan}"),
        ({"metrics": {"auc": "high"}}, "`metrics` must hold finite numbers by name, got {'auc': 'high'}"),
        ({"license": None}, r"`card\.license` must be text, which may be empty, got None"),
        ({"name": 5}, r"`card\.name` must be text"),
    ],
)
def test_what_a_card_cannot_hold_leaves_an_earlier_export_whole(run, tmp_path, changes, match):
    path = tmp_path / "mine.safetensors"
    card = export(run, path)
    with pytest.raises(ValueError, match=match):
        export(run, path, **changes)
    assert lm.models.load(path).card == card


def test_a_card_that_is_no_json_leaves_an_earlier_pair_whole(run, tmp_path):
    path = tmp_path / "mine.safetensors"
    card = export(run, path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_pair(path, {"a": torch.zeros(1)}, dataclasses.replace(card, training={"a": {1}}), schema="s")
    assert lm.models.load(path).card == card


def test_scores_of_numpy_are_written_as_numbers(run, tmp_path):
    export(run, tmp_path / "mine.safetensors", metrics={"a": np.float32(0.5), "b": 1})
    metrics = lm.models.load(tmp_path / "mine.safetensors").card.training["metrics"]
    assert (metrics["a"], metrics["b"]) == (0.5, 1.0)


def test_other_things_than_a_run_are_refused(run, tmp_path):
    for other in (None, 5, SealRun(out=tmp_path, card=None, metrics={}, adapter=tmp_path, expression=tmp_path)):
        with pytest.raises(TypeError, match=f"`run` must be what `lm.train.fit` gave.* got {type(other).__name__}"):
            export(other, tmp_path / "x.safetensors")
    found = torch.load(run.checkpoint, weights_only=True)
    found["seal"] = found.pop("method")
    torch.save(found, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"`run` must be of `lm.train.fit`.*got '.*checkpoint\.pt'.*have written"):
        export(tmp_path, tmp_path / "x.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


class Api:
    """Keeps what is sent to the hub."""

    def __init__(self, folder, refuse=None):
        self.folder, self.refuse, self.made = folder, refuse, []

    def __call__(self, token=None):
        return self

    def create_repo(self, repo, **options):
        if self.refuse:
            raise self.refuse
        self.made.append((repo, options))

    def create_commit(self, repo, operations, commit_message):
        self.folder.mkdir()
        for operation in operations:
            with operation.as_file() as file:
                (self.folder / operation.path_in_repo).write_bytes(file.read())
        return type("Commit", (), {"commit_url": f"https://huggingface.co/{repo}/commit/1"})


def test_what_is_on_the_hub_is_read_as_what_was_sent(run, tmp_path, monkeypatch):
    api = Api(tmp_path / "repo")
    monkeypatch.setattr("huggingface_hub.HfApi", api)
    export(run, tmp_path / "mine.safetensors")
    assert push_to_hub(tmp_path / "mine.safetensors", "lab/mine") == "https://huggingface.co/lab/mine/commit/1"
    assert api.made == [("lab/mine", {"private": True, "exist_ok": True})]
    assert {p.name for p in api.folder.iterdir()} == {"model.safetensors", "model.json", "README.md"}
    there, here = (lm.models.load(p) for p in (api.folder / "model.safetensors", tmp_path / "mine.safetensors"))
    np.testing.assert_array_equal(there.encode(crops()), here.encode(crops()))
    assert there.card == dataclasses.replace(
        here.card, hub="lab/mine", files=("model.safetensors",), url="https://huggingface.co/lab/mine"
    )
    page = (api.folder / "README.md").read_text()
    assert page.startswith("---\nlicense: bsd-3-clause\n")
    for fact in ("CC BY 4.0 (Someone 2020)", here.card.sha256, here.card.training["corpus"]["sha256"], "lab/mine"):
        assert fact in page


def refusal(status):
    answer = SimpleNamespace(status_code=status, headers={}, request=None)
    return errors.HfHubHTTPError("no", response=answer)


@pytest.mark.parametrize(
    ("refuse", "kind", "why"),
    [
        (errors.LocalTokenNotFoundError("x"), PermissionError, "nobody is logged in. Run `hf auth login`"),
        (refusal(403), PermissionError, "Nothing was uploaded to lab/mine: no"),
        (refusal(500), ConnectionError, "Nothing was uploaded to lab/mine: no"),
        (errors.HTTPError("no route"), ConnectionError, "the hub cannot be reached .*no route"),
    ],
)
def test_what_the_hub_refuses_is_said(run, tmp_path, monkeypatch, refuse, kind, why):
    monkeypatch.setattr("huggingface_hub.HfApi", Api(tmp_path / "repo", refuse))
    export(run, tmp_path / "mine.safetensors")
    with pytest.raises(kind, match=why):
        push_to_hub(tmp_path / "mine.safetensors", "lab/mine")


def test_weights_go_to_the_hub_only_with_their_card(run, tmp_path):
    path = tmp_path / "mine.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no weight file at .*lm\.train\.export"):
        push_to_hub(path, "lab/mine")
    export(run, path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"not the weight file of its card 'mine\.json'"):
        push_to_hub(path, "lab/mine")
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="has no card"):
        push_to_hub(path, "lab/mine")


def test_a_page_for_a_card_without_history_has_no_scores():
    assert "Scores" not in readme(lm.models.ModelCard(name="m", dim=2))
