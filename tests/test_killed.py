"""The main line, killed again and again at random moments, ends as if it had never been interrupted."""

import time

import kill_me
import numpy as np
import pytest
from children import children

import lemon_sc as lm


def start(slide, folder, out):
    """A child that has opened the slide."""
    context = children()
    ready, told = context.Pipe(duplex=False)
    process = context.Process(target=kill_me.main, args=(slide, folder, out, told))
    process.start()
    assert ready.recv() == "ready"
    return process


def ended(process):
    process.join()
    return process.exitcode


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
    whole = start(tmp_path / "slide.zarr", tmp_path / "whole", tmp_path / "whole.npz")
    began = time.monotonic()
    assert ended(whole) == 0
    took = time.monotonic() - began
    rng, codes = np.random.default_rng(0), []
    for _ in range(4):
        process = start(tmp_path / "slide.zarr", tmp_path / "killed", tmp_path / "killed.npz")
        time.sleep(rng.uniform(0, took / 2))
        process.kill()
        codes.append(ended(process))
    assert any(codes), "none was killed before its end"
    assert ended(start(tmp_path / "slide.zarr", tmp_path / "killed", tmp_path / "killed.npz")) == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == ["crops.zarr", "rows.zarr"]
    with np.load(tmp_path / "killed.npz") as killed, np.load(tmp_path / "whole.npz") as whole:
        for name in whole:
            np.testing.assert_array_equal(killed[name], whole[name])
