"""Runs that begin with weights that are there, and views of several sizes."""

import json
import os
import shutil
import signal

import pytest
import torch
from train_runs import corpus, weights

from lemon_sc.train import loop
from lemon_sc.train.build import augmentations, begin_with, build_encoder, build_method
from lemon_sc.train.loop import fit
from lemon_sc.train.policies import wide
from lemon_sc.train.recipes import debug
from lemon_sc.train.state import begin
from lemon_sc.train.views import draw

GUIDED = {"method": "guided", "options": {}, "augmentation": "wide", "epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights that a run has left."""
    return fit(debug(seed=3, epochs=1), corpus=corpus(), out=tmp_path_factory.mktemp("first") / "run").weights


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", ["moco_v3", "dinov2", "guided"])
def test_student_and_teacher_begin_with_the_weights_that_are_named(trained, method):
    options = {"prototypes": 32, "n_local": 1, "hidden": 32} if method == "dinov2" else {}
    if method == "moco_v3":
        options = dict(debug().options)
    plain = {"method": method, "options": options, "augmentation": "light" if method == "guided" else "a1"}
    recipe = debug(init=str(trained), **plain)
    encoder = build_encoder(recipe)
    begin_with(encoder, recipe)
    first = encoder.state_dict()
    assert not same(first, build_encoder(recipe).state_dict())
    state = begin(recipe, corpus(), torch.device("cpu"))
    assert same(state.method.encoder_state_dict(), first)
    for student, teacher in state.method._student_and_teacher():
        assert same(student.state_dict(), teacher.state_dict())
    assert not same(state.method.encoder_state_dict(), build_method(recipe).encoder_state_dict())


def test_a_run_goes_on_from_another_and_says_so(trained, tmp_path):
    recipe = debug(init=str(trained), **GUIDED)
    run = fit(recipe, corpus=corpus(), out=tmp_path / "run")
    assert json.loads((run.out / "recipe.json").read_text())["init"] == str(trained)
    first, card = (json.loads(path.with_suffix(".json").read_text()) for path in (trained, run.weights))
    assert card["training"]["recipe"]["init"] == trained.name, "a path would say nothing elsewhere"
    assert card["training"]["began_with"] == {"name": first["name"], "sha256": first["sha256"]}
    assert first["training"]["began_with"] is None
    other = fit(debug(**GUIDED), corpus=corpus(), out=tmp_path / "other")
    assert torch.load(run.checkpoint, weights_only=True)["step"] == other.recipe.steps
    assert run.metrics["loss"] != other.metrics["loss"]


def test_a_run_goes_on_without_the_weights_that_it_began_with(trained, tmp_path, monkeypatch):
    """They may be gone, or others may have taken their place: what is on the card is what the run began with."""
    first = tmp_path / "first.safetensors"
    for suffix in (".safetensors", ".json"):
        shutil.copy(trained.with_suffix(suffix), first.with_suffix(suffix))
    recipe = debug(init=str(first), **GUIDED)
    whole = fit(recipe, corpus=corpus(), out=tmp_path / "whole")
    out, step = tmp_path / "run", loop.make_step

    def cut_off(state, *args, **kwargs):
        made = step(state, *args, **kwargs)
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return made

    monkeypatch.setattr(loop, "make_step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, corpus=corpus(), out=out)
    monkeypatch.setattr(loop, "make_step", step)
    first.unlink()
    again = fit(recipe, corpus=corpus(), out=out)
    assert same(weights(again), weights(whole))
    cards = [json.loads(run.weights.with_suffix(".json").read_text())["training"] for run in (again, whole)]
    assert cards[0]["began_with"] == cards[1]["began_with"] is not None


def test_weights_of_another_normalisation_are_refused(trained, tmp_path):
    other = debug(init=str(trained), mean=(0.5, 0.5, 0.5), **GUIDED)
    with pytest.raises(ValueError, match=r"was trained on crops with mean \(0\.56.*Set `mean` and `std` of the recipe"):
        fit(other, corpus=corpus(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_are_refused(trained, tmp_path):
    wrong = debug(init=str(trained), encoder="vit_ti8", **GUIDED)
    with pytest.raises(ValueError, match=r"`init` '.*' does not fit vit_ti8: \d+ tensors differ, .*Name the weights"):
        fit(wrong, corpus=corpus(), out=tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fit(debug(init=str(tmp_path / "nowhere.safetensors"), **GUIDED), corpus=corpus(), out=tmp_path / "run")
    with pytest.raises(ValueError, match="`init` 'morphometry' is a .*, not a vision transformer"):
        fit(debug(init="morphometry", **GUIDED), corpus=corpus(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wide_views_are_boxes_of_34_to_48_px_at_any_place():
    (policy,) = augmentations(debug(**GUIDED), corpus())
    assert (policy.frame_px, policy.out_px) == (48, 40)
    drawn = draw(4000, wide(), generator=torch.Generator().manual_seed(0))
    top, left, height, width = drawn.box.T
    area = (height * width).sqrt()
    assert area.min() > 33
    assert area.max() <= 48
    assert area.min() < 35
    assert area.max() > 46, "larger and smaller than a nucleus is"
    for start, side in ((top, height), (left, width)):
        assert start.min() == 0
        assert (start + side).max() == 48
    assert drawn.sigma.count_nonzero() / 4000 == pytest.approx(0.2, abs=0.03)
