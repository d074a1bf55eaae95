"""The pages that are kept in the documentation are those that the kept run gives, and say what they show."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from lemon_sc.bench.report_page import read_results
from lemon_sc.bench.report_pages import pages

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


@pytest.fixture(scope="module")
def results():
    return read_results(FOLDER)


def test_pages_are_those_of_the_kept_run(results):
    written = pages(results)
    assert {path.stem for path in FOLDER.glob("*.md")} == set(written)
    for name, text in written.items():
        assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == text, f"run the report again: {name}.md"


def test_every_figure_is_there_and_read_by_someone(results):
    files = {path.name for path in (FOLDER / "figures").iterdir()}
    assert files == set(results.pictures)
    assert {name.rpartition(".")[0] for name in files} <= set(results.reading)
    assert all((FOLDER / "figures" / name).stat().st_size < 300_000 for name in files)


def test_paragraphs_name_the_run_they_were_written_on(results):
    written = tomllib.loads((FOLDER / "reading.toml").read_text(encoding="utf-8"))
    assert re.fullmatch(r"[0-9a-f]{8}", written["run"])
    assert results.run == json.loads((FOLDER / "run.json").read_text(encoding="utf-8"))["run"]
    assert all(len(text.split()) > 20 for text in written["figures"].values())


def test_main_tasks_are_measured_with_intervals(results):
    rows = results.summary[results.summary["metric"] == "balanced_accuracy"]
    for task in ("amibr", "atnorm", "brecahad", "nucls_sample", "consep"):
        own = rows[(rows["task"] == task) & (rows["protocol"] == "stratified")]
        assert {"morphometry", "random_vit_s8", "pixel_pca", "histogram"} <= set(own["encoder"])
        assert own["low"].le(own["mean"]).all()
        assert own["high"].ge(own["mean"]).all()
