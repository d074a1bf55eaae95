"""Tutorials run, and each notebook is its script, executed."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from children import children, run_script

HOME = Path(__file__).parents[1] / "tutorials"
SCRIPTS = sorted(HOME.glob("[0-9]*.py"))


def notebook_of(script):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_the_script_runs(script, tmp_path):
    folder, printed = tmp_path / "here", tmp_path / "printed"
    folder.mkdir()
    environment = {"LEMON_SC_TUTORIAL_CELLS": "300", "MPLBACKEND": "Agg"}
    process = children().Process(target=run_script, args=(str(script), folder, printed, environment))
    process.start()
    process.join()
    text = printed.read_text(encoding="utf-8", errors="replace")
    assert process.exitcode == 0, text[-4000:]
    assert "same embedding: True" in text
    assert not list(folder.iterdir()), "a tutorial leaves no files behind"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_is_the_script(script):
    wanted = [(c.cell_type, c.source) for c in jupytext.read(script).cells]
    assert [(c.cell_type, c.source) for c in notebook_of(script).cells] == wanted, "run `python tutorials/build.py`"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_was_executed(script):
    code = [c for c in notebook_of(script).cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1)), "run `python tutorials/build.py`"
    outputs = [output for c in code for output in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    images = [o for o in outputs if any(m.startswith("image/") for m in o.get("data", {}))]
    assert len(images) == sum("pl." in c.source or ".imshow(" in c.source for c in code)
    assert script.with_suffix(".ipynb").stat().st_size < 3_000_000


def test_there_are_tutorials():
    assert SCRIPTS
