"""Published scores of decomposition, against what their text says of them."""

import pytest

import lemon_sc as lm
from lemon_sc.bench.decomposition_rows import TASKS


def values(metric):
    rows = lm.bench.decomposition_reference()
    return rows[rows["metric"] == metric].set_index(["task", "model"])["value"]


def test_every_cohort_and_model_has_both_scores_once():
    rows = lm.bench.decomposition_reference()
    assert not rows.duplicated(["task", "model", "metric"]).any()
    assert set(rows["task"]) == set(TASKS)
    assert len(values("l1")) == len(values("cc")) == 8


def test_the_network_has_the_smaller_error_and_at_least_the_correlation_of_the_larger_method():
    l1, cc = values("l1"), values("cc")
    for task in ("her2st_to_stnet", "stnet_to_her2st"):
        assert l1[task, "CONCH + UNI"] < l1[task, "Hist2Cell"]
        assert cc[task, "CONCH + UNI"] >= cc[task, "Hist2Cell"]
    ours = l1.drop("Hist2Cell", level="model")
    assert (ours.min(), ours.max()) == (0.55, 0.60)


def test_costs_are_those_of_the_clock():
    seconds = values("seconds")
    assert seconds["stnet", "network"] == 6 * 60 + 5
    assert seconds["stnet", "Hist2Cell"] == 383 * 60 + 24
    assert seconds["her2st", "network"] == 9 * 60 + 13
    assert seconds["her2st", "Hist2Cell"] == 171 * 60 + 39


def test_a_task_that_is_not_there():
    with pytest.raises(ValueError, match="`task` must be one of"):
        lm.bench.decomposition_reference("her2st_to_her2st")
