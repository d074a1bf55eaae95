"""Runs of SEAL: they learn what can be seen and nothing else, go on to the bit, and say why they do not."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import sparse
from seal_units import GENES, KINDS, tiny_encoder, tiny_recipe, units
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm
from lemon_sc.metrics.correlation import pearson
from lemon_sc.models.gene_panel import log_normalised
from lemon_sc.train import seal, seal_loop, seal_published, seal_small
from lemon_sc.train.seal_batches import policy_of, seal_batches
from lemon_sc.train.seal_data import prepare_pairs
from lemon_sc.train.seal_recipe import SealRecipe


@pytest.fixture(autouse=True)
def known_peak(monkeypatch):
    """Measuring what this machine can multiply takes longer than a run."""
    monkeypatch.setattr(seal_loop, "peak_flops", lambda *_, **__: 1e12)


def rows(run):
    with (run.out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def scores(encoder, train, test):
    """PCC of a ridge regression on another patient, by kind of gene."""
    x, z = (encoder.encode(p.crops) for p in (train, test))
    y, truth = (log_normalised(p.counts).toarray() for p in (train, test))
    made = make_pipeline(StandardScaler(), RidgeCV(alphas=10.0 ** np.arange(-1, 5))).fit(x, y).predict(z)
    pcc = pearson(truth, made)
    return {kind: pcc[at].mean() for kind, at in KINDS.items()}


def median_rank(run, encoder, test):
    """Of the own crop among all, by the cosine to the expression; 0 is the first."""
    query = lm.models.load_expression(run.expression).encode_expression(test.counts, test.genes)
    image = encoder.encode(test.crops)
    score = (query / np.linalg.norm(query, axis=1)[:, None]) @ (image / np.linalg.norm(image, axis=1)[:, None]).T
    return np.median((score > np.diag(score)[:, None]).sum(axis=1))


def test_genes_guide_the_encoder_to_what_can_be_seen(tmp_path):
    """Radius and darkness of a disc are in eight genes, and six are noise; tested on another patient."""
    train, test, base = units(400, seed=0), units(200, seed=1, name="b"), tiny_encoder()
    recipe = seal_small(
        n_genes=15, hidden=(64, 32), decoder_width=32, batch=64, omics_epochs=8, epochs=16, lr=1e-2, blocks=2,
        augmentation="none",
    )  # fmt: skip
    before = scores(base, train, test)
    after, rank = {}, {}
    for what, data in {"true": train, "shuffled": train.shuffled(rng=0)}.items():
        run = seal(recipe, data=data, model=base, out=tmp_path / what, device="cpu", log_steps=100, save_steps=1000)
        adapted = lm.models.with_adapter(base, run.adapter)
        after[what], rank[what] = scores(adapted, train, test), median_rank(run, adapted, test)
    gain = {what: np.mean([found[kind] - before[kind] for kind in ("size", "dark")]) for what, found in after.items()}
    assert gain["true"] > 0.07
    assert abs(gain["shuffled"]) < 0.045
    assert abs(after["true"]["noise"]) < 0.1, "six genes, 200 units: one standard error is 0.03"
    assert rank["true"] < 60, "of 200; 100 by chance"
    assert 75 < rank["shuffled"] < 125


def test_a_run_writes_what_it_says_and_validates(tmp_path):
    data, other = units(), units(20, seed=1, name="b")
    run = seal(tiny_recipe(kl=True), data=data, valid=other, model=tiny_encoder(), out=tmp_path / "run", log_steps=1)
    assert sorted(p.name for p in run.out.iterdir() if not p.name.startswith(".")) == [
        "adapter.json", "adapter.safetensors", "checkpoint.pt", "data.json", "events", "expression.json",
        "expression.safetensors", "metrics.csv", "recipe.json",
    ]  # fmt: skip
    table = rows(run)
    assert [int(r["step"]) for r in table] == [*range(1, 10)]
    assert [r["contrast"] != "" for r in table] == [False] * 3 + [True] * 6, "expression alone comes first"
    assert [r["pcc"] != "" for r in table] == [False] * 5 + [True, False, False, True]
    last = {k: float(v) for k, v in table[-1].items() if v}
    assert last["loss"] == pytest.approx(last["contrast"] + last["omics"] + last["vision"] + last["kl"], rel=1e-5)
    assert 0 <= last["recall_10"] <= 1
    assert float(table[2]["lr"]) == pytest.approx(1e-3 * (1 + np.cos(np.pi * 2 / 3)) / 2)
    assert float(table[3]["lr"]) == pytest.approx(1e-3)
    assert run.metrics["pcc"] == last["pcc"]
    found = json.loads((run.out / "data.json").read_text())
    assert found["sources"][0]["patients"] == ["a"]
    assert found["sources"][0]["licence"] == "CC0-1.0"
    assert found["n_units"] == 24


def test_nothing_changes_at_the_first_step_and_only_adapters_later(tmp_path):
    base, data = tiny_encoder(), units()
    before = {k: v.clone() for k, v in base.module.state_dict().items()}
    run = seal(tiny_recipe(lr=1e-12, weight_decay=0.0), data=data, model=base, out=tmp_path / "still", device="cpu")
    np.testing.assert_allclose(lm.models.with_adapter(base, run.adapter).encode(data.crops), base.encode(data.crops),
                               atol=1e-6)  # fmt: skip
    run = seal(tiny_recipe(lr=1e-2), data=data, model=base, out=tmp_path / "moved", device="cpu")
    assert all(torch.equal(v, before[k]) for k, v in base.module.state_dict().items()), "the encoder is not touched"
    after = lm.models.with_adapter(base, run.adapter).module.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {f"blocks.1.{part}.weight" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}


def test_a_run_goes_on_to_the_bit(tmp_path, monkeypatch):
    xy_um, recipe = np.random.default_rng(0).uniform(0, 30, (24, 2)), tiny_recipe()
    data = units(touching_um=5.0, xy_um=xy_um)
    whole = seal(recipe, data=data, model=tiny_encoder(), out=tmp_path / "whole", device="cpu", log_steps=2)
    for stop in (2, 5):  # while expression alone is learned, and later
        calls, made = [], seal_loop.seal_step

        def step(*args, calls=calls, made=made, stop=stop, **options):
            if len(calls) == stop:
                raise OSError("power cut")
            calls.append(1)
            return made(*args, **options)

        options = {"data": data, "model": tiny_encoder(), "out": tmp_path / f"cut{stop}", "device": "cpu"}
        with monkeypatch.context() as patch:
            patch.setattr(seal_loop, "seal_step", step)
            with pytest.raises(OSError, match="power cut"):
                seal(recipe, **options, log_steps=2, save_steps=1)
        again = seal(recipe, **options, log_steps=2)
        for name in ("adapter.safetensors", "expression.safetensors"):
            first, second = (load_file(run.out / name) for run in (whole, again))
            assert all(torch.equal(first[k], second[k]) for k in first)
        assert again.card.adapted_sha256 == whole.card.adapted_sha256
        assert [r["loss"] for r in rows(whole)] == [r["loss"] for r in rows(again)]
        assert seal(recipe, **options).metrics == again.metrics, "a finished run is not made again"


def test_what_a_folder_holds_is_not_mixed(tmp_path):
    data, options = units(), {"out": tmp_path, "device": "cpu"}
    seal(tiny_recipe(epochs=1), data=data, model=tiny_encoder(), **options)
    for match, changes in {
        r"another recipe \(lr: 0.001, now 0.1\)": {"recipe": tiny_recipe(epochs=1, lr=0.1)},
        r"something else \(other: sources\)": {"data": data.shuffled()},
        r"something else \(other: network_sha256\)": {"model": tiny_encoder(seed=2)},
    }.items():
        given = {"recipe": tiny_recipe(epochs=1), "data": data, "model": tiny_encoder()} | changes
        with pytest.raises(ValueError, match=match):
            seal(given.pop("recipe"), **given, **options)


def test_a_batch_holds_a_unit_once_and_knows_who_touches_whom():
    """Three crops of each unit, on a row of a lattice."""
    data = units(30)
    unit = np.repeat(np.arange(10), 3)
    array = np.stack([np.zeros(30), unit], axis=1)
    counts = sparse.csr_matrix(data.counts)[np.repeat(np.arange(0, 30, 3), 3)]
    several = dataclasses.replace(data, counts=counts, unit=unit, array=array, lattice="square", slide="one")
    ready = prepare_pairs([several], n_genes=15, smoothed=True)
    recipe = tiny_recipe(epoch_length=10, batch=5, omics_epochs=0)
    policy = policy_of(recipe, tiny_encoder().card)
    seen = set()
    for batch in seal_batches(ready, recipe, policy, steps=range(40)):
        at = [int((data.crops == crop.numpy()).all(axis=(1, 2, 3)).argmax()) for crop in batch.crops]
        place = unit[at]
        assert len(set(place)) == 5
        np.testing.assert_array_equal(batch.apart, np.abs(place[:, None] - place) <= 1)
        seen |= set(at)
    assert len(seen) == 30, "all crops of a unit come in turn"
    ends = log_normalised(several.counts).toarray()
    raw = several.counts[[0, 3]].toarray()
    names = [several.genes.index(g) for g in ready.panel.genes]
    expected = log_normalised(sparse.csr_matrix(raw.mean(axis=0)[None])).toarray()[0, names]
    np.testing.assert_allclose(ready.values[0].toarray()[0], expected, rtol=1e-5)
    unsmoothed = prepare_pairs([several], n_genes=15, smoothed=False, panel=ready.panel)
    np.testing.assert_allclose(unsmoothed.values.toarray(), ends[:, names], rtol=1e-5)


def test_sets_of_other_genes_are_learned_from_together(tmp_path, caplog):
    first = units()
    second = units(seed=1, name="b")
    counts = sparse.csr_matrix(second.counts)[:, 4:]
    counts[0] = 0
    second = dataclasses.replace(second, counts=counts, genes=second.genes[4:])
    with caplog.at_level("INFO"):
        ready = prepare_pairs([first, second], n_genes=15, smoothed=True)
    assert "1 of 24 units of 'b' have no counts and are left out" in caplog.text
    assert ready.n_units == 47
    lacks = np.isin(ready.panel.genes, [g.upper() for g in GENES[:4]])
    np.testing.assert_array_equal(ready.present, [[True] * len(lacks), (~lacks).tolist()])
    values = log_normalised(first.counts).toarray()[:, first.genes.index("SIZE0")]
    at = ready.panel.genes.index("SIZE0")
    assert ready.panel.mean[at] == pytest.approx(values.mean(), rel=1e-5), "over the units that have the gene"
    assert ready.panel.sd[at] == pytest.approx(values.std(), rel=1e-4)
    run = seal(tiny_recipe(), data=[first, second], model=tiny_encoder(), out=tmp_path, device="cpu")
    assert np.isfinite(run.metrics["loss"])


BAD = {
    "one patient": ({"valid": units(seed=3)}, r"Patients \['a'\] are learned from and validated on.*one patient only"),
    "no network": ({"model": "morphometry"}, "`model` must have a network that can learn.*vision transformer"),
    "small crops": ({"data": units(crops=np.zeros((24, 20, 20, 3), np.uint8))}, "`crops` must be 24 px per side"),
    "few units": ({"data": units(6)}, "`batch` must be at most the number of units, 6"),
    "no device": ({"device": "gpu"}, '`device` must be "auto", "cpu", "cuda", "cuda:N" or "mps", got \'gpu\''),
    "no such GPU": ({"device": "cuda:99"}, "`device` must be present on this machine, got 'cuda:99'"),
    "no data": ({"data": []}, "`data` holds no pairs"),
    "other genes": ({"valid": units(name="b", genes=[f"ENSG{k}" for k in range(15)])}, "None of the panel's 15 genes"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_run_refuses(case, tmp_path):
    changes, match = BAD[case]
    with pytest.raises(ValueError, match=match):
        seal(tiny_recipe(), **({"data": units(), "model": tiny_encoder(), "out": tmp_path} | changes))
    assert not any(tmp_path.iterdir()), "nothing is begun"


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(RuntimeError, match="At step .*the step was not made. There is no checkpoint yet.*lower `lr`"):
        seal(tiny_recipe(omics_lr=1e30), data=units(), model=tiny_encoder(), out=tmp_path, device="cpu")


def test_recipes_are_published_and_checked():
    made = seal_published()
    assert (made.n_genes, made.hidden, made.rank, made.alpha, made.dropout) == (2000, (1024, 512), 8, 8.0, 0.15)
    assert (made.batch, made.epochs, made.lr, made.weight_decay, made.seed) == (384, 10, 1e-4, 0.2, 42)
    with pytest.raises(KeyError, match="'ranks' not found in `fields of a SEAL recipe`.*Did you mean 'rank'"):
        seal_published(ranks=4)
    for changes, match in {
        ("rank", 0): "`rank` must be an int >= 1",
        ("dropout", 1.0): "`dropout` must be below 1",
        ("temperature", 0.0): "`temperature` must be a number > 0",
        ("weights", (1.0, 1.0)): "a width or more, and three",
        ("augmentation", "harder"): "`augmentation` must be one of.*Did you mean 'hard'",
        ("reconstruction", "mae"): "must be one of",
    }.items():
        with pytest.raises(ValueError, match=match):
            SealRecipe(name="r", **dict([changes]))


def test_other_things_than_a_recipe_and_pairs(tmp_path):
    with pytest.raises(TypeError, match="`recipe` must be a SealRecipe, got str.*seal_small"):
        seal("small", data=units(), out=tmp_path)
    with pytest.raises(TypeError, match="`data` must be `lm.train.Pairs`, one or a list, got ndarray.*pairs_of"):
        seal(tiny_recipe(), data=np.zeros(3), out=tmp_path)
    with pytest.raises(TypeError, match="`valid` must be .* got dict"):
        seal(tiny_recipe(), data=units(), valid=[units(), {}], out=tmp_path)
    assert not any(tmp_path.iterdir())
    assert len(repr(units())) < 100
