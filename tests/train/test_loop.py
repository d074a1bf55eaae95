import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import train_runs
from children import children
from train_models import randn, tiny_vit
from train_runs import corpus, norms, pixels, weights

from lemon_sc.train import loop, watch
from lemon_sc.train.build import build_encoder, build_method
from lemon_sc.train.loader import batches, seed_of
from lemon_sc.train.loop import fit
from lemon_sc.train.moco import MoCoV3
from lemon_sc.train.policies import a1
from lemon_sc.train.recipes import Recipe, debug
from lemon_sc.train.sampler import Sampler
from lemon_sc.train.state import begin
from lemon_sc.train.utilisation import flops_per_crop, peak_flops
from lemon_sc.train.views import augment

DINO = {
    "method": "dinov2",
    "options": {"prototypes": 32, "n_local": 1, "hidden": 32},
    "drop_path": 0.2,
    "layer_scale": 1e-2,
    "precision": "bf16",
    "end_weight_decay": 0.4,
    "clip": 3.0,
}

GUIDED = {"method": "guided", "options": {}, "augmentation": "light"}


def cut_after(monkeypatch, step, error=KeyboardInterrupt):
    real = watch.Watch.after_step

    def cut(self, state, rates):
        real(self, state, rates)
        if state.step == step:
            raise error

    monkeypatch.setattr(watch.Watch, "after_step", cut)
    return lambda: monkeypatch.setattr(watch.Watch, "after_step", real)


def table(folder):
    """Rows of the log without what depends on the clock."""
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    keep = [k for k, name in enumerate(rows[0]) if name not in {"seconds", "images_per_s", "utilisation"}]
    return [[row[k] for k in keep] for row in rows]


@pytest.mark.parametrize(
    "changes", [{}, {"options.guide": 0.5}, DINO, GUIDED], ids=["moco_v3", "with guidance", "dinov2", "guided"]
)
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path, monkeypatch, changes):
    """4 steps and 4 more, cut off at the 5th, give to the bit what 8 give."""
    recipe = debug(**changes)
    whole = fit(recipe, corpus=corpus(), out=tmp_path / "whole", log_steps=3)
    restore = cut_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, corpus=corpus(), out=tmp_path / "cut", log_steps=3)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 4
    assert not (tmp_path / "cut" / "encoder.safetensors").exists()
    restore()
    torch.manual_seed(99)  # the state of torch's own generator counts for nothing
    again = fit(recipe, corpus=corpus(), out=tmp_path / "cut", log_steps=3)
    first, second = weights(whole), weights(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert table(tmp_path / "whole") == table(tmp_path / "cut")
    assert not all(torch.equal(value, first[key]) for key, value in build_method(recipe).state_dict().items())


def test_a_finished_run_is_not_made_again(tmp_path, monkeypatch):
    first = fit(debug(), corpus=corpus(), out=tmp_path / "r")
    before = (tmp_path / "r" / "metrics.csv").read_bytes()
    monkeypatch.setattr(loop, "train", None)
    second = fit(debug(), corpus=corpus(), out=tmp_path / "r")
    assert first == second
    assert (tmp_path / "r" / "metrics.csv").read_bytes() == before


def test_two_processes_are_one(tmp_path, monkeypatch):
    """This process is one of the two."""
    other = children().Process(target=train_runs.one_of_two, args=(1, tmp_path / "store", tmp_path))
    other.start()
    with monkeypatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
            patch.setenv(name, value)  # `one_of_two` sets them, and here they are to go again
        train_runs.one_of_two(0, tmp_path / "store", tmp_path)
    other.join()
    assert other.exitcode == 0
    for name, recipe in train_runs.SHARED.items():
        one = fit(recipe, corpus=corpus(), out=tmp_path / f"one {name}", log_steps=1)
        alone = weights(one)
        two = torch.load(tmp_path / f"two {name}" / "checkpoint.pt", weights_only=True)["method"]
        assert alone.keys() == two.keys()
        begun = begin(recipe, corpus(), torch.device("cpu")).method.state_dict()
        moved = torch.sqrt(sum((alone[k].float() - begun[k].float()).square().sum() for k in alone))
        apart = torch.sqrt(sum((alone[k].float() - two[k].float()).square().sum() for k in alone))
        assert apart < 1e-3 * moved, name
        for mine, theirs in zip(table(tmp_path / f"one {name}")[1:], table(tmp_path / f"two {name}")[1:], strict=True):
            np.testing.assert_allclose([float(v or 0) for v in mine], [float(v or 0) for v in theirs], rtol=2e-3)

    head, rows = norms(), randn(8, 6).requires_grad_()  # torch's own norms, on all rows at once
    out = head(rows)
    (out * torch.arange(32).reshape(8, 4).sin()).sum().backward()
    parts = [torch.load(tmp_path / f"norm{k}.pt", weights_only=True) for k in (0, 1)]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), out)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), rows.grad, rtol=1e-3, atol=1e-5)
    assert parts[0][2].keys() == head.state_dict().keys()
    for key, value in head.state_dict().items():
        torch.testing.assert_close(parts[1][2][key], value)


def test_it_learns(tmp_path):
    """The loss falls below that of chance, 4 T ln N, and a probe of a planted colour is made when it is due."""
    rng = np.random.default_rng(0)
    crops = pixels(400, rng)
    labels = (crops[:, 10:50, 10:50].mean((1, 2)) @ [1, -1, 0] > 0).astype(int)
    np.savez(tmp_path / "probe.npz", crops=crops[:200], labels=labels[:200])
    recipe = debug(batch=64, epochs=10, epoch_length=384, base_lr=4e-3, augmentation="a0", warmup_epochs=1)
    run = fit(recipe, corpus=corpus(400), out=tmp_path / "r", probe=tmp_path / "probe.npz", log_steps=5, probe_epochs=9)
    assert run.metrics["loss"] < 0.95 * 4 * 0.2 * np.log(64)
    probes = [float(v) for v in np.array(table(tmp_path / "r"))[1:, table(tmp_path / "r")[0].index("probe")] if v]
    assert len(probes) == 3  # before the first step, after epoch 9, at the end
    assert run.metrics["probe"] == pytest.approx(probes[-1])


def test_what_is_written(tmp_path):
    from safetensors.torch import load_file

    made = corpus()
    run = fit(debug(), corpus=made, out=tmp_path / "r")
    files = {p.name for p in run.out.iterdir()}
    assert files == {
        "recipe.json", "corpus.json", "metrics.csv", "checkpoint.pt", "events", "encoder.safetensors", "encoder.json",
    }  # fmt: skip
    assert Recipe.from_dict(json.loads((run.out / "recipe.json").read_text())) == debug()
    record = json.loads((run.out / "corpus.json").read_text())
    assert record["sources"] == made.manifest["sources"]
    found = torch.load(run.checkpoint, weights_only=True)
    assert found["corpus"] == record
    encoder = build_encoder(debug())
    encoder.load_state_dict(load_file(run.weights))
    method = build_method(debug())
    method.load_state_dict(found["method"])
    x = randn(2, 3, 40, 40)
    expected = method.eval().base_encoder.forward_features(x)[:, 0]
    torch.testing.assert_close(encoder.eval()(x), expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_the_step(tmp_path, monkeypatch, number):
    real = watch.Watch.after_step

    def signalled(self, state, rates):
        real(self, state, rates)
        if state.step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    monkeypatch.setattr(watch.Watch, "after_step", signalled)
    with pytest.raises(KeyboardInterrupt):
        fit(debug(), corpus=corpus(), out=tmp_path / "r")
    assert torch.load(tmp_path / "r" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert signal.getsignal(number) is before


def test_a_run_in_a_thread_takes_no_signals(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(debug(epochs=1), corpus=corpus(), out=tmp_path / "r")))
    thread.start()
    thread.join()
    assert found[0].checkpoint.is_file()


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(tmp_path, monkeypatch):
    real = MoCoV3.forward

    def failing(self, views, progress):
        loss, metrics = real(self, views, progress)
        return loss * (float("nan") if progress.step == 6 else 1), metrics

    monkeypatch.setattr(MoCoV3, "forward", failing)
    with pytest.raises(RuntimeError, match=r"At step 6 the loss is nan .* The last checkpoint is .*checkpoint.pt'"):
        fit(debug(), corpus=corpus(), out=tmp_path / "r", save_steps=2)
    found = torch.load(tmp_path / "r" / "checkpoint.pt", weights_only=True)
    assert found["step"] == 6
    assert all(v.isfinite().all() for v in found["method"].values() if v.is_floating_point())
    monkeypatch.setattr(MoCoV3, "forward", lambda s, v, p: (real(s, v, p)[0] * float("inf"), {}))
    with pytest.raises(RuntimeError, match="There is no checkpoint yet"):
        fit(debug(), corpus=corpus(), out=tmp_path / "s")


def test_gradients_are_clipped(tmp_path):
    """With AdamW a clip that acts alike in all steps changes little; that of the log is the norm before it."""
    free = fit(debug(epochs=1), corpus=corpus(), out=tmp_path / "a", log_steps=1)
    clipped = fit(debug(epochs=1, clip=1e-3), corpus=corpus(), out=tmp_path / "b", log_steps=1)
    norms_of = [[float(r[4]) for r in table(tmp_path / name)[1:2]] for name in "ab"]
    assert norms_of[0] == norms_of[1]
    assert norms_of[0][0] > 1
    moments = [torch.load(r.checkpoint, weights_only=True)["optimizer"]["state"][0]["exp_avg"] for r in (free, clipped)]
    assert moments[1].norm() < 1e-3 < moments[0].norm()


def test_another_recipe_or_corpus_is_refused(tmp_path, monkeypatch):
    cut_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        fit(debug(), corpus=corpus(), out=tmp_path / "r")
    with pytest.raises(
        ValueError, match=r"another recipe: `seed` was 0 and is 1. Go on with the same recipe, or begin"
    ):
        fit(debug(seed=1), corpus=corpus(), out=tmp_path / "r")
    with pytest.raises(ValueError, match=r"another corpus \(96 crops of \['s'\]\), this one has 100"):
        fit(debug(), corpus=corpus(100, seed=1), out=tmp_path / "r")
    (tmp_path / "r" / "checkpoint.pt").write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"checkpoint.pt' cannot be read: it is damaged, or no checkpoint"):
        fit(debug(), corpus=corpus(), out=tmp_path / "r")
    torch.save({"schema": "other/1"}, tmp_path / "r" / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"is no checkpoint of lemon_sc \('other/1'"):
        fit(debug(), corpus=corpus(), out=tmp_path / "r")


def test_a_disk_that_is_full_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    def full(content, file):
        file.write(b"a part")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    cut_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        fit(debug(), corpus=corpus(), out=tmp_path / "r")
    before = (tmp_path / "r" / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"checkpoint.pt' cannot be written .* The one that was there is as it was"):
        fit(debug(), corpus=corpus(), out=tmp_path / "r", save_steps=1)
    assert (tmp_path / "r" / "checkpoint.pt").read_bytes() == before
    assert not [p for p in (tmp_path / "r").iterdir() if p.name.startswith(".")]


def test_what_a_run_cannot_begin_with_is_said_and_nothing_is_written(tmp_path):
    crops = corpus().crops
    bad = [
        (
            ValueError,
            "`batch` must be at most the number of crops, 96, got 128",
            debug(batch=128, epoch_length=128),
            {},
        ),
        (
            ValueError,
            "have a side of 57 px or more, so that no corner is empty",
            debug(),
            {"crops": crops[:, 4:-4, 4:-4]},
        ),
        (ValueError, "have a side of 40 px, or more by an even number", debug(), {"crops": crops[:, 1:, 1:]}),
        (
            ValueError,
            r"Crops must be uint8, 0 to 255, got float64 .* that holds NaN",
            debug(),
            {"crops": crops * np.nan},
        ),
        (ValueError, r"Crops must have the shape \(n, S, S, 3\)", debug(), {"crops": crops[:, 1:]}),
    ]
    for kind, message, recipe, changes in bad:
        with pytest.raises(kind, match=message):
            fit(recipe, corpus=corpus(**changes), out=tmp_path / "r")
    with pytest.raises(FileNotFoundError, match="No corpus at"):
        fit(debug(), corpus=tmp_path / "none", out=tmp_path / "r")
    for name in ("log_steps", "save_steps", "probe_epochs"):
        with pytest.raises(ValueError, match=f"`{name}` must be an int >= 1, got 0"):
            fit(debug(), corpus=corpus(), out=tmp_path / "r", **{name: 0})
    assert not (tmp_path / "r").exists()


def test_one_slide_is_warned_of(tmp_path, caplog):
    one = corpus()
    one.manifest["slides"] = one.manifest["slides"][:1]
    fit(debug(epochs=1), corpus=one, out=tmp_path / "r")
    assert "a single slide" in caplog.text


def test_a_run_with_mixtures_of_stains(tmp_path):
    run = fit(debug(epochs=1, augmentation="a1+gmm1"), corpus=corpus(), out=tmp_path / "r")
    assert np.isfinite(run.metrics["loss"])


def test_views_follow_from_seed_and_step_alone():
    """The same as drawn at once for all processes: each has its rows, and a restart changes nothing."""
    made, recipes = corpus(), [a1(), a1()]

    def views(step, **more):
        sampler = Sampler(96, epoch_length=64, batch=16, seed=3, **more)
        sampler.load_state_dict(sampler.state_at(step))
        stream = batches(made, sampler, recipes, steps=range(step, 8), device=torch.device("cpu"))
        return [next(stream).views(recipes, torch.device("cpu")) for _ in range(2)]

    whole, later = views(3), views(4)
    torch.testing.assert_close(whole[1], later[0], rtol=0, atol=0)
    halves = [views(3, rank=k, world=2)[0][1] for k in (0, 1)]
    torch.testing.assert_close(torch.cat(halves), whole[0][1], rtol=0, atol=0)
    index = Sampler(96, epoch_length=64, batch=16, seed=3).indices(0)[48:]
    generator = torch.Generator().manual_seed(seed_of(3, 3, 1))
    by_hand = augment(torch.from_numpy(made.crops[index]), recipes[1], generator=generator, view=1)
    torch.testing.assert_close(whole[0][1], by_hand, rtol=0, atol=0)


def test_operations_of_a_step_are_counted():
    """A ViT by its formula: 26 tokens, 4 forward passes, 2 backward ones at twice the cost; heads likewise."""
    dim, depth, tokens, hidden, out = 32, 2, 26, 64, 32
    method = MoCoV3(tiny_vit(dim, depth), hidden=hidden, out=out)
    found = flops_per_crop(method, [a1(), a1()], device=torch.device("cpu"))
    blocks = depth * (tokens * 12 * dim**2 + 2 * tokens**2 * dim)
    patches = 25 * 3 * 64 * dim  # frozen: without a backward pass
    projector = dim * hidden + hidden**2 + hidden * out
    predictor = 2 * out * hidden
    expected = 2 * (8 * (blocks + projector) + 4 * patches + 6 * predictor)
    assert found == pytest.approx(expected, rel=0.02)
    assert peak_flops(torch.device("cpu"), dtype=torch.float32) > 1e8


def test_training_loads_nothing_of_scverse():
    """The namespace loads without torch, views and methods with torch and numpy alone."""
    code = """
import sys
SCVERSE = "anndata dask geopandas pandas scanpy sklearn spatialdata squidpy xarray zarr".split()
def loaded(*names):
    return sorted({*SCVERSE, *names} & set(sys.modules))
import lemon_sc.train
print(loaded("torch"))
import torch
from lemon_sc.train.policies import a1
from lemon_sc.train.views import augment
crops = torch.zeros(2, 60, 60, 3, dtype=torch.uint8)
assert len(augment(crops, a1(gray_p=0.2), generator=torch.Generator().manual_seed(0))) == 2
print(loaded("scipy", "torchvision"))
assert {lemon_sc.train.MoCoV3, lemon_sc.train.DINOv2, lemon_sc.train.Progress}
print(loaded("scipy"))
import lemon_sc.train.loop, lemon_sc.train.command, lemon_sc.train.__init__
print(loaded())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["[]"] * 4, done.stdout + done.stderr
