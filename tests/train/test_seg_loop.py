"""Runs of segmenters: they learn, go on, and say why they do not."""

import csv
import json

import numpy as np
import pytest
import torch
from seg_fields import write_set

from lemon_sc.models.vit import cell_vit
from lemon_sc.seg.checkpoint import load
from lemon_sc.train import seg_loop, seg_state
from lemon_sc.train.distributed import processes
from lemon_sc.train.seg_build import build_segmenter, freeze_encoder
from lemon_sc.train.seg_data import NucleiFolder, open_nuclei
from lemon_sc.train.seg_loop import segmenter
from lemon_sc.train.seg_recipes import SEG_RECIPES, seg_cellvit, seg_histoplus, seg_small
from lemon_sc.train.seg_valid import validate

CLASSES = ("background", "round", "long")
QUICK = {
    "encoder": "vit_debug", "taps": (1, 2, 3, 4), "width": 2, "size_px": 32, "batch": 2, "epoch_length": 4, "epochs": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("sets") / "drawn", types=True, n=6)


@pytest.fixture(autouse=True)
def known_peak(monkeypatch):
    """Measuring what this machine can multiply takes longer than a run."""
    monkeypatch.setattr(seg_loop, "peak_flops", lambda *_, **__: 1e12)


def opened(folder, **options):
    return open_nuclei([NucleiFolder(path=folder, licence="CC BY 4.0")], **options)


def rows(run):
    with (run.out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_learns_to_find_nuclei(folder, tmp_path):
    """Few steps on six drawn images: the loss falls, and most nuclei come out as they were drawn."""
    data = opened(folder)
    recipe = seg_small(
        **{**QUICK, "width": 4, "size_px": 64, "batch": 4, "epochs": 1, "epoch_length": 240},
        augmentation="none", lr=3e-3, valid_images=2,
    )  # fmt: skip
    run = segmenter(recipe, data=data.split(0.3)[0], valid=data.split(0.3)[1], out=tmp_path, device="cpu")
    table = rows(run)
    assert float(table[-1]["loss"]) < 0.4 * float(table[0]["loss"])
    untrained = validate(build_segmenter(recipe, ()), recipe.card(()), data, most=6)
    assert untrained["pq"] < 0.2
    assert run.metrics["pq"] > 0.6, "images of another slide than those learned from"
    assert run.card.training["metrics"]["pq"] == run.metrics["pq"]
    assert validate(load(run.weights).network, run.card, data, most=6)["pq"] > 0.6


def test_a_run_with_types_writes_what_it_says(folder, tmp_path):
    data = opened(folder, classes=CLASSES)
    run = segmenter(seg_small(**QUICK), data=data, out=tmp_path / "run", device="cpu", log_steps=1)
    assert sorted(p.name for p in run.out.iterdir() if not p.name.startswith(".")) == [
        "checkpoint.pt", "data.json", "events", "metrics.csv", "recipe.json", "segmenter.json", "segmenter.safetensors",
    ]  # fmt: skip
    assert [int(r["step"]) for r in rows(run)] == [1, 2, 3, 4, 5, 6]
    first = {k: float(v) for k, v in rows(run)[0].items()}
    terms = {"np_ft": 1, "np_dice": 1, "hv_mse": 2.5, "hv_msge": 8, "tp_ce": 0.5, "tp_dice": 0.2, "tp_ft": 0.5}
    assert first["loss"] == pytest.approx(sum(w * first[k] for k, w in terms.items()), rel=1e-5)
    found = load(run.weights)
    assert found.card.classes == CLASSES
    assert found.card.training["step"] == 6
    assert found.card.training["data"]["sources"] == [{"name": "drawn", "licence": "CC BY 4.0", "n_images": 6}]
    assert json.loads((run.out / "recipe.json").read_text())["encoder"] == "vit_debug"
    maps = found.maps(np.zeros((1, 32, 32, 3), np.uint8))
    assert maps.types.shape == (1, 32, 32)


def test_a_run_goes_on_to_the_bit(folder, tmp_path, monkeypatch):
    data, recipe = opened(folder, classes=CLASSES), seg_small(**QUICK, drop_path=0.5, frozen_epochs=1)
    whole = segmenter(recipe, data=data, out=tmp_path / "whole", device="cpu")
    calls, made = [], seg_state.seg_step

    def step(*args, **options):
        if len(calls) == 3:
            raise OSError("power cut")
        calls.append(1)
        return made(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(seg_loop, "seg_step", step)
        with pytest.raises(OSError, match="power cut"):
            segmenter(recipe, data=data, out=tmp_path / "cut", device="cpu", save_steps=3)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 3
    again = segmenter(recipe, data=data, out=tmp_path / "cut", device="cpu", save_steps=3)
    first, second = (load(run.weights).network.state_dict() for run in (whole, again))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert [r["loss"] for r in rows(whole)] == [r["loss"] for r in rows(again)]
    finished = segmenter(recipe, data=data, out=tmp_path / "cut", device="cpu")
    assert finished.metrics == again.metrics


def test_a_frozen_encoder_is_still_and_then_learns(folder, tmp_path):
    data, recipe = opened(folder), seg_small(**{**QUICK, "encoder": "conv_r18"})
    start = build_segmenter(recipe, ()).encoder.state_dict()

    def moved(run):
        state = torch.load(run.out / "checkpoint.pt", weights_only=True)["network"]
        return any(not torch.equal(state[f"encoder.{k}"], v) for k, v in start.items())

    def run(epochs, frozen):
        changes = {**QUICK, "encoder": "conv_r18", "epochs": epochs, "frozen_epochs": frozen}
        return segmenter(seg_small(**changes), data=data, out=tmp_path / f"{epochs}{frozen}", device="cpu")

    assert not moved(run(1, 1)), "running statistics of its norms included"
    assert moved(run(2, 1))


def test_freezing_leaves_fixed_parameters_fixed():
    network = build_segmenter(seg_small(**QUICK), ())
    learning = [p for p in network.encoder.parameters() if p.requires_grad]
    for frozen in (True, False):
        freeze_encoder(network, frozen=frozen, learning=learning)
        assert not network.encoder.vit.pos_embed.requires_grad
        assert network.encoder.training != frozen
        assert all(p.requires_grad != frozen for p in learning)
    assert network.np.training


def test_learning_rates_follow_the_schedule():
    slow = seg_cellvit(epoch_length=160)
    assert [slow.lr_at(k) for k in (0, 9, 10, 25)] == pytest.approx([3e-4, 3e-4, 3e-4 * 0.85, 3e-4 * 0.85**2])
    flat = seg_histoplus()
    assert flat.lr_at(0) == flat.lr_at(flat.steps - 1) == 1e-5
    wave = seg_small()
    assert wave.lr_at(0) == 1e-3
    assert wave.lr_at(wave.steps // 2) == pytest.approx(5e-4)
    assert wave.lr_at(wave.steps) == pytest.approx(0)


def test_an_encoder_begins_with_the_weights_of_a_model(tmp_path, monkeypatch):
    from lemon_sc.models import registry
    from lemon_sc.models.cards import ModelCard
    from lemon_sc.models.encoder import Encoder

    vit = cell_vit(dim=32, depth=4, num_heads=2, generator=torch.Generator().manual_seed(9))
    monkeypatch.setattr(registry, "load", lambda _: Encoder(card=ModelCard(name="x", dim=32), module=vit))
    recipe = seg_small(**QUICK, encoder_weights="mine")
    found = build_segmenter(recipe, ()).encoder.vit
    assert torch.equal(found.blocks[3].mlp.fc1.weight, vit.blocks[3].mlp.fc1.weight)
    assert found.pos_embed.shape == (1, 17, 32)
    monkeypatch.setattr(
        registry,
        "load",
        lambda _: Encoder(card=ModelCard(name="x", dim=32), module=cell_vit(dim=32, depth=4, num_heads=4)),
    )
    with pytest.raises(ValueError, match="does not fit vit_debug: it has 4 heads, not 2"):
        build_segmenter(recipe, ())
    monkeypatch.setattr(
        registry,
        "load",
        lambda _: Encoder(card=ModelCard(name="x", dim=32), module=cell_vit(dim=64, depth=4, num_heads=2)),
    )
    with pytest.raises(ValueError, match="does not fit vit_debug: .* tensors differ"):
        build_segmenter(recipe, ())
    monkeypatch.setattr(registry, "load", lambda _: Encoder(card=ModelCard(name="x", dim=3), function=lambda c: c))
    with pytest.raises(ValueError, match="not a vision transformer"):
        build_segmenter(recipe, ())
    with pytest.raises(ValueError, match="`encoder_weights` must be None for conv_r18"):
        build_segmenter(seg_small(encoder_weights="lemon"), ())


def test_runs_that_cannot_be(folder, tmp_path):
    data, recipe = opened(folder), seg_small(**QUICK)
    with pytest.raises(ValueError, match="`data` must be at the recipe's 0.25 um per px, got 0.5"):
        segmenter(recipe, data=opened(folder, mpp=0.5), out=tmp_path)
    with pytest.raises(ValueError, match="6 images are learned from and validated on"):
        segmenter(recipe, data=data, valid=data, out=tmp_path)
    with pytest.raises(ValueError, match="`log_steps` must be an int >= 1"):
        segmenter(recipe, data=data, out=tmp_path, log_steps=0)
    segmenter(seg_small(**{**QUICK, "epochs": 1}), data=data, out=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"of another recipe \(lr: 0.001, now 0.1\)"):
        segmenter(seg_small(**{**QUICK, "epochs": 1}, lr=0.1), data=data, out=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="trained on other data"):
        segmenter(seg_small(**{**QUICK, "epochs": 1}), data=data.split(0.3)[0], out=tmp_path, device="cpu")


def test_a_loss_that_is_not_finite_stops_the_run(folder, tmp_path):
    with pytest.raises(RuntimeError, match="the step was not made. There is no checkpoint yet"):
        segmenter(seg_small(**QUICK, lr=1e30), data=opened(folder), out=tmp_path, device="cpu")


@pytest.mark.parametrize("name", SEG_RECIPES)
def test_recipes_say_what_is_wrong(name):
    made = SEG_RECIPES[name]
    with pytest.raises(KeyError, match="'batches' not found.*Did you mean 'batch'"):
        made(batches=3)
    for changes, match in (
        ({"encoder": "vit"}, "`encoder` must be one of"),
        ({"batch": 0}, "`batch` must be an int >= 1"),
        ({"lr": 0}, "`lr` must be a number > 0"),
        ({"weight_decay": -1}, "`weight_decay`"),
        ({"drop_path": 1}, "`drop_path`"),
        ({"betas": (1, 0)}, "`betas`"),
        ({"schedule": "line"}, "`schedule`"),
        ({"np_loss": "ce"}, "`np_loss`"),
        ({"epoch_length": 2, "batch": 4}, "`batch` must be at most"),
    ):
        with pytest.raises(ValueError, match=match):
            made(**changes)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_named(folder, tmp_path, device):
    with pytest.raises(ValueError, match=f"`device` must.*'{device}'"):
        segmenter(seg_small(**QUICK), data=opened(folder), out=tmp_path / "run", device=device)
    with pytest.raises(ValueError, match=f"`device` must.*'{device}'"), processes(device):
        pass
    assert not (tmp_path / "run").exists()
