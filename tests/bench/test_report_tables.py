import numpy as np
import pandas as pd
import pytest
from bench_runs import classes, rows

import lemon_sc as lm
from lemon_sc.bench import report_tables
from lemon_sc.bench.report_page import scored
from lemon_sc.bench.report_words import PAGES, encoder_label, metric_label, short_label
from lemon_sc.bench.rows import COLUMNS


def cells(text):
    """Rows of a table in Markdown, without its rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def score(encoder, mean, *, metric="auc", low=np.nan, high=np.nan, n_folds=1):
    return {"encoder": encoder, "metric": metric, "mean": mean, "low": low, "high": high, "n_folds": n_folds}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.74649, "0.746"), (-0.0312, "-0.031"), (295.8, "295.8"), (22000.4, "22,000"), (np.nan, "–")],
)
def test_numbers(value, text):
    assert report_tables.number(value) == text


def test_the_best_encoder_is_first_whichever_way_is_better():
    rows = pd.DataFrame([score("a", 0.2), score("b", 0.9), score("c", np.nan)])
    assert report_tables.in_order(rows, "auc") == ["b", "a", "c"]
    assert report_tables.in_order(rows.assign(metric="rmse"), "rmse") == ["a", "b", "c"]


def test_a_measured_table_states_intervals_where_there_are_some():
    rows = pd.DataFrame([score("a", 0.2, low=0.1, high=0.31, n_folds=5), score("b", 0.9)])
    assert cells(report_tables.score_table(rows, ["auc"])) == [
        ["measured", "AUC"],
        ["b", "0.900"],
        ["a", "0.200 [0.100, 0.310]"],
    ]


def test_measured_and_published_values_of_the_same_data_stand_in_blocks_of_their_own():
    table = pd.DataFrame([*classes("midog25")], columns=list(COLUMNS))
    text = report_tables.published_part(
        lm.bench.reference(), scored(table), task="midog25", table="11", metrics=("balanced_accuracy", "auc")
    )
    found = cells(text)
    assert found[0] == ["measured here, then published", "balanced accuracy", "AUC"]
    assert [row[0] for row in found[1:4]] == ["**ours**, measured", "**morphometry**, measured"] + [
        "**untrained ViT-S/8**, measured"
    ]
    assert [row[0] for row in found[4:6]] == ["LEMON s/8", "VOLTA R18"]  # .741, .726
    assert len(found) == 1 + 3 + 11
    assert found[4][1:] == ["0.741", "0.911"]
    assert "Table 1 prints .746" in text
    # of other folds, or other data: apart
    other = table.assign(protocol="slide")
    alone = report_tables.published_part(
        lm.bench.reference(), scored(other), task="midog25", table="11", metrics=("balanced_accuracy",)
    )
    assert len(cells(alone)) == 1 + 11


def test_controls_are_told_beneath_the_table_and_not_in_it():
    table = pd.DataFrame([*classes("amibr", protocols=("stratified",))], columns=list(COLUMNS))
    text = report_tables.measured_part(scored(table), "amibr", ("balanced_accuracy", "auc"))
    assert [row[0] for row in cells(text)] == ["measured", "ours", "morphometry", "untrained ViT-S/8"]
    assert "balanced accuracy, labels shuffled 0.500." in text
    assert "naming the slide from the embedding (balanced accuracy) 0.250." in text
    assert "share px" not in text  # none do
    leaking = table.assign(value=table["value"].mask(table["metric"] == "n_overlapping", 7.0))
    text = report_tables.measured_part(scored(leaking), "amibr", ("balanced_accuracy",))
    assert "nuclei that share px with one on the other side 7" in text


def test_scores_over_all_folds_stand_beneath_with_what_was_drawn():
    table = [*classes("amibr", protocols=("stratified",))]
    before = report_tables.measured_part(scored(pd.DataFrame(table)), "amibr", ("balanced_accuracy",))
    for encoder, value in (("ours", 0.7), ("morphometry", 0.75)):
        more = {"_low": value - 0.2, "": value, "_high": value + 0.1}
        for end, at in more.items():
            table += rows("amibr", encoder, "stratified", f"pooled_auc{end}", {"pooled": at})
            table += rows("amibr", encoder, "stratified", f"pooled_balanced_accuracy{end}", {"pooled": at + 0.01})
        table += rows("amibr", encoder, "stratified", "pooled_units", {"pooled": 12})
    text = report_tables.measured_part(scored(pd.DataFrame(table)), "amibr", ("balanced_accuracy",))
    assert cells(text)[-3:] == [
        ["measured, all folds together; intervals from drawing 12 slides or patients", "balanced accuracy"],
        ["morphometry", "0.760 [0.560, 0.860]"],
        ["ours", "0.710 [0.510, 0.810]"],
    ]
    assert cells(text)[:-3] == cells(before)
    assert "pooled" not in text


def test_a_task_that_was_not_run_has_no_table():
    table = pd.DataFrame([*classes("amibr")], columns=list(COLUMNS))
    assert report_tables.measured_part(scored(table), "consep", ("auc",)) == ""


def test_names():
    assert encoder_label("uni (centre tokens)") == "UNI l/16 (centre tokens)"
    assert encoder_label("uni:centre_128") == "UNI l/16, centre tokens of 128 px"
    assert encoder_label("lemon (DINOv2)") == "LEMON s/8 (DINOv2)"
    assert encoder_label("my_own") == "my_own"
    assert metric_label("null_auc") == "AUC, labels shuffled"
    assert metric_label("my_score") == "my score"
    assert short_label("amibr") == "AMi-Br, held-out slides"
    assert short_label("of_my_own") == "of_my_own"


def test_pages_name_tasks_and_published_values_that_there_are():
    known = {*lm.bench.tasks()}
    published = set(zip(lm.bench.reference()["task"], lm.bench.reference()["table"], strict=True))
    for page in PAGES:
        assert set(page.tasks) <= known
        assert set(page.published) <= published
    listed = [task for page in PAGES for task in page.tasks]
    assert sorted(listed) == sorted(known)  # every task has one page


def test_every_published_value_has_a_page():
    rows = lm.bench.reference()
    shown = {place for page in PAGES for place in page.published}
    left = {(t, k) for t, k in zip(rows["task"], rows["table"], strict=True)} - shown
    assert left == set()
