import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bench_runs import ENCODERS, classes, whole

import lemon_sc as lm
from lemon_sc.bench.report_page import read_results, run_id, scored
from lemon_sc.bench.report_pages import pages
from lemon_sc.bench.rows import COLUMNS

READING = """
run = "{run}"
[figures]
mitosis = "Ours is ahead."
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of a report of a planted run, and its first page."""
    out = tmp_path_factory.mktemp("report")
    (out / "reading.toml").write_text(READING.format(run=run_id(whole())))
    before = plt.get_fignums()
    first = lm.bench.report(whole(), out=out)
    assert plt.get_fignums() == before
    return out, first


def text_of(out, page):
    return (out / f"{page}.md").read_text(encoding="utf-8")


def test_the_pages(written):
    out, first = written
    assert first == out / "index.md"
    named = re.search(r"\{toctree\}.*?\n\n(.*?)\n```", text_of(out, "index"), re.DOTALL).group(1).split()
    assert {*named, "index"} == {path.stem for path in out.glob("*.md")}
    assert named == [
        "mitosis", "nuclei", "tiles", "robustness", "expression", "moran", "cost", "training", "further",
    ]  # fmt: skip


def test_figures_stand_on_their_pages_and_are_small(written):
    out, _ = written
    shown = [name for page in out.glob("*.md") for name in re.findall(r"\(figures/(.*?)\)", page.read_text("utf-8"))]
    assert sorted(shown) == sorted(path.name for path in (out / "figures").iterdir())
    assert set(shown) == {f"{name}.png" for name in ("mitosis", "nuclei", "robustness", "moran", "cost", "training")}
    assert all(path.stat().st_size < 300_000 for path in (out / "figures").iterdir())


def test_measured_values_come_with_intervals_and_published_ones_apart(written):
    text = text_of(written[0], "mitosis")
    assert "| ours | 0.720 [0.70" in text
    measured, published = text.split("## Published")
    assert "LEMON s/8" not in measured
    assert "ours" not in published
    assert "siblings of MIDOG25" in published
    assert "| LEMON s/8 | 0.746 (0.015) |" in published


def test_scores_on_the_original_stains_are_not_mixed_with_those_under_a_shift(written):
    text = text_of(written[0], "robustness")
    shift, original = (
        text.split(head)[1].split("| ours | ")[1] for head in ("tested on restained", "on the originals")
    )
    assert shift.startswith("0.600 ")
    assert original.startswith("0.900 ")


def test_a_paragraph_says_if_it_was_written_on_another_run(written, tmp_path):
    out, _ = written
    assert "**Reading.** Ours is ahead.\n" in text_of(out, "mitosis")
    (tmp_path / "reading.toml").write_text(READING.format(run="0123abcd"))
    lm.bench.report(pd.DataFrame([*classes("amibr")], columns=list(COLUMNS)), out=tmp_path)
    assert "Ours is ahead. (Written of run `0123abcd`, not of this one.)" in text_of(tmp_path, "mitosis")


def test_what_was_left_out_is_told_without_a_place_on_this_machine(written):
    text = text_of(written[0], "index")
    assert "no data here; published at example.org" in text
    assert not any("/somewhere" in path.read_text("utf-8") for path in written[0].glob("*.*") if path.suffix != ".gz")


def test_tasks_of_a_users_own_have_a_page(written):
    assert "(`of_my_own`), blocks of the slide held out; 500 items, 5 folds" in text_of(written[0], "further")


def test_pages_follow_from_what_is_kept(written):
    out, _ = written
    for name, text in pages(read_results(out)).items():
        assert text == text_of(out, name)
    assert json.loads((out / "run.json").read_text())["run"] == run_id(whole())
    kept = pd.read_csv(out / "run.csv.gz", dtype={"fold": str}, keep_default_na=False)
    assert list(kept.columns) == list(COLUMNS)
    assert len(kept) == len(whole())


def test_the_id_of_a_run_knows_scores_and_not_times():
    table = whole()
    same = table.sample(frac=1, random_state=0).assign(seconds=9.0)
    assert run_id(same) == run_id(table)
    timed = table["metric"] == "nuclei_per_second"
    assert run_id(table.assign(value=table["value"].mask(timed, 1.0))) == run_id(table)
    assert run_id(table.assign(value=table["value"] + 0.01)) != run_id(table)


def test_a_summary_keeps_every_mean():
    found = scored(whole()).set_index(["task", "encoder", "protocol", "metric"])["mean"]
    for name, mean in ENCODERS.items():
        assert found["amibr", name, "slide", "balanced_accuracy"] == pytest.approx(mean)
    assert np.isfinite(found).all()


def test_a_table_that_is_none(tmp_path):
    with pytest.raises(KeyError, match="'fold' not found in `table`.*Pass what `lm.bench.run` returned"):
        lm.bench.report(whole().drop(columns="fold"), out=tmp_path / "no")
    with pytest.raises(ValueError, match="`table` must have rows"):
        lm.bench.report(whole()[:0], out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
