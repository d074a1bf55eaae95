"""The whole run: a planted difference, what is missing, what is kept, and the same table on a cluster."""

import logging

import bench_sets
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import lemon_sc as lm
from lemon_sc.bench import catalogue, features, runner
from lemon_sc.bench.rows import COLUMNS

UNTIMED = [name for name in COLUMNS if name != "seconds"]


def blind(crops):
    """The corner of the crop, where there is no nucleus."""
    return crops[:, :3, :3].reshape(len(crops), -1).astype(np.float32)


def blind_encoder(sha256="c" * 64):
    return lm.models.as_encoder(blind, lm.models.ModelCard(name="blind", dim=27, sha256=sha256))


def accuracy(table, **where):
    own = table[table["metric"] == "balanced_accuracy"]
    for name, value in where.items():
        own = own[own[name] == value]
    return own["value"].mean()


@pytest.fixture(scope="module")
def table(plain_sets):
    return lm.bench.run(["brecahad", "amibr"], encoders=["histogram", blind_encoder()], data=plain_sets, device="cpu")


def test_a_planted_difference_is_found_by_who_can_see_it(table):
    assert tuple(table) == COLUMNS
    assert set(table["kind"]) == {"measured"}
    assert table["encoder"].unique().tolist() == ["histogram", "blind"]
    assert table["task"].unique().tolist() == ["brecahad", "amibr"]
    for protocol in ("stratified", "slide"):
        assert accuracy(table, task="brecahad", encoder="histogram", protocol=protocol) == 1
        assert accuracy(table, task="brecahad", encoder="blind", protocol=protocol) < 0.6
    assert accuracy(table, task="amibr", encoder="histogram") == 1
    held = table[(table["task"] == "brecahad") & (table["metric"] == "auc") & (table["protocol"] == "slide")]
    assert held.groupby("encoder")["n"].sum().tolist() == [48, 48]  # of 4 slides, without those at the border
    assert held["fold"].nunique() == 4
    assert table.attrs["skipped"] == []


def test_what_is_not_here_is_left_out_and_said(plain_sets, monkeypatch, caplog):
    few = {name: catalogue.TASKS[name] for name in ("brecahad", "pannuke", "composition")}
    monkeypatch.setattr(runner, "TASKS", few)
    large = lm.models.as_encoder(blind, lm.models.ModelCard(name="large", dim=27, input_px=64))
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        table = lm.bench.run(encoders=["histogram", large], data=plain_sets, protocols="stratified")
    assert set(table["task"]) == {"brecahad"}
    assert set(table["encoder"]) == {"histogram"}
    skipped = {(entry["task"], entry["encoder"]): entry["reason"] for entry in table.attrs["skipped"]}
    assert set(skipped) == {("pannuke", ""), ("brecahad", "large"), ("composition", "")}
    assert "warwick.ac.uk" in skipped["pannuke", ""]
    assert "Lay them out as pannuke/Fold 1" in skipped["pannuke", ""]
    assert "takes crops of 64 px" in skipped["brecahad", "large"]
    assert "pannuke: skipped" in caplog.text


def test_a_task_that_is_asked_for_must_be_here(plain_sets):
    with pytest.raises(lm.bench.MissingDataError, match="No data for 'pannuke'.*warwick.ac.uk.*Lay them out"):
        lm.bench.run("pannuke", encoders="histogram", data=plain_sets)
    with pytest.raises(lm.bench.MissingDataError, match="Task 'brecahad' needs data. Pass `data=`"):
        lm.bench.run("brecahad", encoders="histogram")
    with pytest.raises(ValueError, match="`name` must be one of .*Did you mean 'pannuke'"):
        lm.bench.run("panuke", data=plain_sets)
    with pytest.raises(FileNotFoundError, match="The data folder 'nowhere' does not exist"):
        lm.bench.run("brecahad", data="nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"most": 0}, "`most` must be None or an int >= 1"), ({"protocols": "slides"}, "`protocols` must be one of"),
     ({"rng": -1}, "`rng` must be an int >= 0")],
)  # fmt: skip
def test_bad_options_are_refused(plain_sets, options, message):
    with pytest.raises(ValueError, match=message):
        lm.bench.run("brecahad", encoders="histogram", data=plain_sets, **options)


def test_the_same_call_goes_on_and_gives_the_same_table(plain_sets, tmp_path, monkeypatch):
    call = {"encoders": ["histogram", blind_encoder()], "data": plain_sets, "out": tmp_path / "run"}
    first = lm.bench.run(["brecahad"], protocols="slide", **call)
    files = sorted(p.relative_to(tmp_path) for p in (tmp_path / "run").rglob("*") if p.is_file())

    def forbidden(*_, **__):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(runner.probes, "classification", forbidden)
        patch.setattr(features, "encode", forbidden)
        again = lm.bench.run(["brecahad"], protocols="slide", **call)
    assert_frame_equal(first, again, check_exact=False)
    assert files == sorted(p.relative_to(tmp_path) for p in (tmp_path / "run").rglob("*") if p.is_file())
    lm.bench.run(["brecahad"], protocols="stratified", **call)
    kept = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(kept["protocol"]) == {"slide", "stratified", "control"}
    assert len(kept) == len(kept.drop_duplicates(["encoder", "protocol", "fold", "metric"]))


def test_changed_data_are_measured_anew(tmp_path):
    bench_sets.plain(tmp_path / "data", name="nucls_sample", classes=("sTIL", "tumor_any"), slides=5)
    call = {"encoders": "histogram", "data": tmp_path / "data", "out": tmp_path / "run", "protocols": "stratified"}
    assert accuracy(lm.bench.run("nucls_sample", **call)) == 1
    path = tmp_path / "data" / "nuclei" / "nucls_sample" / "nuclei.csv"
    table = pd.read_csv(path)
    table["type"] = np.random.default_rng(0).permutation(table["type"])
    table.to_csv(path, index=False)
    assert accuracy(lm.bench.run("nucls_sample", **call)) < 0.75


def test_one_failure_leaves_the_others_done(plain_sets, tmp_path, monkeypatch):
    def broken(folder):
        raise ValueError("the archive is damaged")

    broken_task = lm.bench.Task(
        name="broken", version=1, title="", probe="classification", metrics=("auc",), adapter=broken,
        source=catalogue.NONE, protocols=("stratified",),
    )  # fmt: skip
    monkeypatch.setitem(catalogue.TASKS, "broken", broken_task)
    call = {"encoders": "histogram", "data": plain_sets, "out": tmp_path, "protocols": "stratified"}
    with pytest.raises(ValueError, match="the archive is damaged") as caught:
        lm.bench.run(["broken", "brecahad"], **call)
    assert caught.value.__notes__ == ["task 'broken'"]
    assert set(pd.read_csv(tmp_path / "results.csv")["task"]) == {"brecahad"}


def test_seeds_change_folds_and_the_same_seed_does_not(plain_sets):
    call = {"encoders": blind_encoder(), "data": plain_sets, "protocols": "stratified"}
    tables = [lm.bench.run("brecahad", rng=rng, **call)[UNTIMED] for rng in (1, 1, 2, np.random.default_rng(5))]
    assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])
    assert not tables[0].equals(tables[3])


def test_at_most_so_many_nuclei(plain_sets):
    table = lm.bench.run("brecahad", encoders="histogram", data=plain_sets, most=30, protocols="stratified")
    assert table.loc[table["metric"] == "auc", "n"].sum() <= 30


def test_a_cluster_gives_the_same_table(plain_sets, table):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        made = lm.bench.run(
            ["brecahad", "amibr"], encoders=["histogram", blind_encoder()], data=plain_sets, device="cpu"
        )
    assert_frame_equal(made[UNTIMED], table[UNTIMED])


def test_every_task_is_a_whole_declaration():
    for name in lm.bench.tasks():
        task = lm.bench.task(name)
        assert task.name == name
        assert task.title
        assert task.version >= 1
        assert bool(task.adapter) == (task.probe not in {"cost", "composition"})
        if task.probe in {"classification", "expression", "tile", "robustness"}:
            assert task.protocols
    binary = {t for t in lm.bench.tasks() if lm.bench.task(t).pos_label}
    assert {"midog25", "midog25_128", "amibr", "atnorm", "ami_br", "tile_level", "stain_robustness"} <= binary
