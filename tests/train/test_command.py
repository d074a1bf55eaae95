import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lemon_sc import cli
from lemon_sc.train import state
from lemon_sc.train.command import main, settings
from lemon_sc.train.corpus import build_corpus
from lemon_sc.train.corpus_reader import export_corpus
from lemon_sc.train.corpus_sources import FolderSource


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = ["image,x,y"]
    for k in range(2):
        Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(folder / "images" / f"{k}.png")
        lines += [f"{k},{x},{y}" for x, y in rng.integers(40, 160, (40, 2))]
    (folder / "xy.csv").write_text("\n".join(lines))
    source = FolderSource(name="s", licence="CC0", images=folder / "images", mpp=0.25, centroids=folder / "xy.csv")
    build_corpus([source], folder / "c.zarr")
    export_corpus(folder / "c.zarr", folder / "plain")
    return folder / "c.zarr"


def test_settings_are_literals_or_texts():
    found = settings(
        ["epochs=3", "lr=1e-3", "clip=None", "augmentation=a1+gmm10", "mean=(.5,.5,.5)", "options.spread=kde"]
    )
    assert found == {
        "epochs": 3, "lr": 1e-3, "clip": None, "augmentation": "a1+gmm10", "mean": (0.5, 0.5, 0.5),
        "options.spread": "kde",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"takes FIELD=VALUE.*got 'epochs'"):
        settings(["epochs"])
    with pytest.raises(ValueError, match="names 'seed' twice"):
        settings(["seed=1", "seed=2"])


def test_a_run_from_the_command_line(store, tmp_path, capsys):
    command = ["debug", "--corpus", str(store), "--out", str(tmp_path / "r"), "--device", "cpu"]
    assert cli.main(["train", *command, "--set", "epochs=1", "--set", "options.hidden=8"]) == 0
    assert (tmp_path / "r" / "encoder.safetensors").is_file()
    assert main([*command, "--set", "epochs=1"]) == 1
    assert "`options` was {'hidden': 8, 'out': 32} and is {'hidden': 64, 'out': 32}" in capsys.readouterr().err
    assert main([*command, "--set", "epohcs=1"]) == 1
    assert "Did you mean 'epochs'?" in capsys.readouterr().err


def test_a_truncated_shard_stops_a_run(store, tmp_path, capsys):
    import shutil

    shutil.copytree(store, tmp_path / "c.zarr")
    shard = tmp_path / "c.zarr" / "crops" / "c" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert main(["debug", "--corpus", str(tmp_path / "c.zarr"), "--out", str(tmp_path / "r")]) == 1
    assert "is not what was written: it is missing, cut off or altered" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_torchrun_shares_the_batches(store, tmp_path):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = ["-m", "lemon_sc.train", "debug", "--corpus", str(store.parent / "plain"), "--out", str(tmp_path / "r")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = subprocess.run([*start, *run, "--set", "epochs=1"], capture_output=True, text=True, env=env, check=False)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "r" / "encoder.safetensors").is_file()


def test_a_batch_that_does_not_divide_among_the_processes_is_refused(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(state, "rank_and_world", lambda: (1, 2))
    command = ["debug", "--corpus", str(store.parent / "plain"), "--out", str(tmp_path / "r"), "--device", "cpu"]
    assert main([*command, "--set", "batch=15"]) == 1
    assert "`batch` must be a multiple of the number of ranks, 2, got 15. 14 or 16 would do." in capsys.readouterr().err
