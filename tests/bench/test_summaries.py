"""Summaries against numpy and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import permutation_test

import lemon_sc as lm
from lemon_sc.bench.rows import COLUMNS, as_table


def table(scores, **fields):
    """Rows of encoders by their scores in the folds of one task."""
    return as_table([
        dict.fromkeys(COLUMNS, 0) | {
            "task": "midog25", "version": 1, "encoder": name, "dim": 9, "protocol": "slide", "fold": f"f{k}",
            "metric": "auc", "value": value, "n": 10 + k, "kind": "measured", **fields,
        }
        for name, values in scores.items() for k, value in enumerate(values)
    ])  # fmt: skip


SCORES = {"a": [0.5, 0.6, 0.55, 0.7, 0.65], "b": [0.61, 0.72, 0.66, 0.75, 0.8], "c": [0.5, np.nan, 0.5, 0.5, 0.5]}


def test_mean_spread_and_interval():
    made = lm.bench.summary(table(SCORES)).set_index("encoder")
    assert made.loc["a", "mean"] == pytest.approx(np.mean(SCORES["a"]))
    assert made.loc["a", "sd"] == pytest.approx(np.std(SCORES["a"], ddof=1))
    draws = np.random.default_rng(1).choice(SCORES["a"], (20_000, 5)).mean(axis=1)
    np.testing.assert_allclose(made.loc["a", ["low", "high"]].tolist(), np.percentile(draws, [2.5, 97.5]), atol=0.01)
    assert made["n_folds"].tolist() == [5, 5, 4]
    assert made["n"].tolist() == [60, 60, 60]
    assert made.loc["c", "sd"] == 0


def test_intervals_that_the_table_holds_stay_with_their_score():
    """Beside those over folds, which are as without them; another protocol has its own."""
    folded, pooled = table(SCORES), {"fold": "pooled"}
    values = {"": 0.6, "_low": 0.4, "_high": 0.7}
    ends = pd.concat([table({"a": [v]}, metric=f"pooled_auc{end}", **pooled) for end, v in values.items()])
    other = ends.assign(protocol="stratified", value=ends["value"] + 0.1)
    made = lm.bench.summary(pd.concat([folded, ends, other], ignore_index=True))
    pd.testing.assert_frame_equal(made[made["metric"] == "auc"], lm.bench.summary(folded))
    kept = made[made["metric"] != "auc"].set_index("protocol")
    assert kept["metric"].tolist() == ["pooled_auc"] * 2
    np.testing.assert_allclose(kept.loc["slide", ["mean", "low", "high"]].tolist(), [0.6, 0.4, 0.7])
    np.testing.assert_allclose(kept.loc["stratified", ["mean", "low", "high"]].tolist(), [0.7, 0.5, 0.8])


def test_one_fold_has_no_interval_and_scores_over_all_nuclei_do_not_add_them_up():
    made = lm.bench.summary(table({"a": [0.5]})).iloc[0]
    assert np.isnan([made["sd"], made["low"], made["high"]]).all()
    made = lm.bench.summary(table(SCORES, protocol="stain")).iloc[0]
    assert made["n"] == 14


def test_encoders_on_the_same_folds():
    made = lm.bench.compare(table(SCORES), metric="auc", baseline="a").set_index("encoder")
    difference = np.subtract(SCORES["b"], SCORES["a"])
    assert made.loc["b", "difference"] == pytest.approx(difference.mean())
    exact = permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert made.loc["b", "pvalue"] == pytest.approx(exact.pvalue)  # 2 of 32 exchanges
    assert made.loc["b", "low"] > 0
    assert made["n_folds"].to_dict() == {"b": 5, "c": 4}


def test_what_cannot_be_compared_is_named():
    with pytest.raises(ValueError, match="`baseline` must be one of"):
        lm.bench.compare(table(SCORES), metric="auc", baseline="d")
    with pytest.raises(ValueError, match="`metric` must be one of"):
        lm.bench.compare(table(SCORES), metric="aucc", baseline="a")
    with pytest.raises(KeyError, match="'fold' not found in `table`.*Pass what `lm.bench.run` returned"):
        lm.bench.summary(table(SCORES).drop(columns="fold"))
