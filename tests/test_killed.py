"""The main line, killed again and again at random moments, ends as if it had never been interrupted."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lemon_sc as lm

CHILD = Path(__file__).with_name("kill_me.py")


def start(slide, folder, out):
    command = [sys.executable, str(CHILD), str(slide), str(folder), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def content(folder):
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and "/c/" in f.as_posix()
    }


@pytest.mark.timeout(300)
def test_killed_at_random_moments(tmp_path):
    lm.datasets.phantom(n_cells=150).write(tmp_path / "slide.zarr")
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    began = time.monotonic()
    assert start(tmp_path / "slide.zarr", tmp_path / "whole", tmp_path / "whole.npz").wait() == 0
    took = time.monotonic() - began
    rng = np.random.default_rng(0)
    for _ in range(4):
        process = start(tmp_path / "slide.zarr", tmp_path / "killed", tmp_path / "killed.npz")
        time.sleep(rng.uniform(0, took / 2))
        process.kill()
        process.wait()
    assert start(tmp_path / "slide.zarr", tmp_path / "killed", tmp_path / "killed.npz").wait() == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == ["crops.zarr", "rows.zarr"]
    with np.load(tmp_path / "killed.npz") as killed, np.load(tmp_path / "whole.npz") as whole:
        for name in whole:
            np.testing.assert_array_equal(killed[name], whole[name])
