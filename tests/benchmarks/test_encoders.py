"""The comparison of encoders: its protocol, and that it finds a planted difference."""

import sys

import numpy as np
import pandas as pd
import pytest

import lemon_sc as lm
from lemon_sc.train.corpus_reader import Corpus

encoders = pytest.importorskip("encoders")


def crops(n=7):
    return np.random.default_rng(0).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(0)
    manifest = {"slides": [{"name": "a/1", "organ": "x"}, {"name": "a/2", "organ": "x"}], "sources": []}
    own = Corpus(
        crops=rng.integers(0, 256, (32, 60, 60, 3), dtype=np.uint8),
        slide=np.repeat(np.arange(2, dtype=np.int32), 16),
        manifest=manifest,
    )
    recipe = lm.train.debug(epochs=1, epoch_length=16, warmup_epochs=0.5)
    return lm.train.fit(recipe, corpus=own, out=tmp_path_factory.mktemp("runs") / "mine", device="cpu")


@pytest.mark.parametrize("groups", ["none", "slide"])
def test_planted_colours_are_found_in_all_cases_that_are_held_out(planted, run, tmp_path, monkeypatch, capsys, groups):
    out = tmp_path / "r" / "encoders.csv"
    monkeypatch.setenv("LEMON_SC_DATA", str(planted))
    options = ["--tasks", "brecahad", "atnorm"] if groups == "slide" else ["--tasks", "brecahad"]
    given = [*options, "--weights", str(run.out), "--groups", groups, "--out", str(out), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["encoders.py", *given])
    encoders.main()
    found = pd.read_csv(out)
    assert found["encoder"].unique().tolist() == ["histogram", "pixel_pca", "random_vit_s8", "morphometry", "mine"]
    assert found.groupby("encoder")["metric"].apply(set).map(len).eq(5).all()
    at = found.set_index(["encoder", "metric"])
    assert at.loc[("histogram", "balanced_accuracy"), "mean"] > 0.95
    assert at.loc["mine", "dim"].eq(32).all()
    assert found["n"].unique().tolist() == [2 * 32]  # of 42 a case, without 10 tubules
    assert found["folds"].unique().tolist() == ["slide" if groups == "slide" else "stratified"]
    text = capsys.readouterr().out
    assert "brecahad: 64 of 66 nuclei" in text
    assert ("atnorm: left out, its slides are not known" in text) == (groups == "slide")


def test_new_results_replace_old_ones_of_the_same_kind_and_no_others():
    old = [("a", "slide", "1.0", "e", 0.1), ("a", "stratified", "1.0", "e", 0.2), ("a", "slide", "1.0", "f", 0.3)]
    new = [("a", "slide", "1.0", "e", 0.9), ("b", "slide", "1.0", "e", 0.8), ("a", "slide", "inner", "f", 0.7)]
    columns = ["task", "folds", "c", "encoder", "mean"]
    old, new = (pd.DataFrame(rows, columns=columns).assign(metric="auc") for rows in (old, new))
    made = encoders.merged(old, new)
    assert made["mean"].tolist() == [0.2, 0.3, 0.9, 0.8, 0.7]


def test_the_folder_and_the_checkpoint_of_a_run_are_the_same_encoder(run):
    images = crops()
    a, b = (encoders.read(path).encode(images) for path in (run.out, run.checkpoint))
    np.testing.assert_array_equal(a, b)
    assert encoders.read(run.checkpoint).card.name == "mine"


def test_penalty_and_draws_of_the_folds(planted, run, tmp_path, monkeypatch):
    out = tmp_path / "encoders.csv"
    monkeypatch.setenv("LEMON_SC_DATA", str(planted))
    for given in (["--c", "inner"], ["--draws", "2"]):
        common = ["--tasks", "brecahad", "--alone", "--weights", str(run.out), "--out", str(out), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["encoders.py", *common, *given])
        encoders.main()
    found = pd.read_csv(out, dtype={"c": str})
    assert found.groupby("c", sort=False)["draws"].unique().map(list).to_dict() == {"inner": [1], "1.0": [2]}
    assert found["metric"].value_counts().eq(2).all()
