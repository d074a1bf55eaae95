import numpy as np
import pytest

import lemon_sc as lm
from lemon_sc.bench.reference_rows import COLUMNS, NOTES, TABLES

# values per table, and the sums of means and standard deviations, added up from the printed tables
SUMS = {
    "1": (55, 19.616, 1.028),
    "2": (25, 9.668, 0.481),
    "6": (8, 5.697, 0.066),
    "7": (9, 5.220, 0.0),
    "9": (35, 27.037, 0.0),
    "10": (55, 43.423, 0.0),
    "11": (55, 43.665, 0.0),
    "12": (55, 38.403, 0.0),
    "text": (10, 298.718, 0.0),
}
NAMES = ["imagenet_r18", "imagenet_r50", "dinov2_s", "dinov2_b", "dinov2_l", "dinov2_g"]
NAMES += ["uni", "virchow2", "hoptimus0", "volta", "lemon"]


def value(table, task, encoder, metric, column="mean"):
    rows = lm.bench.reference(table)
    met = (rows["task"] == task) & (rows["encoder"] == encoder) & (rows["metric"] == metric)
    (found,) = rows.loc[met, column]
    return found


@pytest.mark.parametrize("table", TABLES)
def test_counts_and_sums(table):
    rows = lm.bench.reference(table)
    n, means, sds = SUMS[table]
    assert len(rows) == n
    assert rows["mean"].sum() == pytest.approx(means, abs=1e-9)
    assert rows["sd"].sum() == pytest.approx(sds, abs=1e-9)


def test_all_tables_together():
    rows = lm.bench.reference()
    assert tuple(rows.columns) == COLUMNS
    assert len(rows) == sum(n for n, _, _ in SUMS.values()) == 307
    assert set(rows["table"]) == set(TABLES)
    assert set(rows["kind"]) == {"reference"}
    assert not rows.duplicated(["table", "task", "encoder", "protocol", "metric"]).any()
    shares = rows[rows["metric"].isin(["auc", "aupr", "balanced_accuracy", "f1_macro", "f1_weighted", "pcc"])]
    assert shares["mean"].between(0, 1).all()


@pytest.mark.parametrize(
    ("table", "task", "encoder", "metric", "mean", "sd"),
    [
        (1, "midog25", "lemon", "balanced_accuracy", 0.746, 0.015),
        (1, "nucls_super", "virchow2", "balanced_accuracy", 0.754, 0.007),
        (1, "hest_breast", "dinov2_g", "pcc", 0.164, 0.025),
        (1, "hest_lung", "imagenet_r18", "pcc", 0.083, 0.021),
        (2, "hest_bowel", "lemon (a1+gmm1)", "pcc", 0.164, 0.019),
        (2, "nucls_super", "lemon (a1)", "balanced_accuracy", 0.784, 0.003),
        (6, "midog25", "lemon (DINOv2 without local crops)", "balanced_accuracy", 0.673, 0.012),
        (7, "stain_robustness_midog25", "hoptimus0", "cosine", 0.138, np.nan),
        (9, "midog25_128", "virchow2 (centre tokens)", "auc", 0.850, np.nan),
        (9, "midog25_128", "lemon", "f1_weighted", 0.905, np.nan),
        (10, "nucls_super", "lemon", "auc", 0.932, np.nan),
        (11, "midog25", "volta", "f1_macro", 0.742, np.nan),
        (12, "pannuke", "hoptimus0", "balanced_accuracy", 0.648, np.nan),
        (12, "pannuke", "imagenet_r50", "f1_weighted", 0.663, np.nan),
        ("text", "cost", "hoptimus0", "gmacs", 295.9, np.nan),
    ],
)
def test_values_as_printed(table, task, encoder, metric, mean, sd):
    assert value(table, task, encoder, metric) == mean
    assert value(table, task, encoder, metric, "sd") == pytest.approx(sd, nan_ok=True)


def test_tables_agree_where_they_print_the_same_thing():
    apart = {
        (table, name): abs(value(table, task, name, "balanced_accuracy") - value("1", task, name, "balanced_accuracy"))
        for table, task in (("10", "nucls_super"), ("11", "midog25"))
        for name in NAMES
    }
    beyond_rounding = {key: gap for key, gap in apart.items() if gap > 0.0011}
    assert sorted(name for _, name in beyond_rounding) == ["dinov2_l", "lemon", "uni", "virchow2"]
    assert {table for table, _ in beyond_rounding} == {"11"}
    assert max(apart.values()) < 0.0051
    rows = lm.bench.reference(11)
    noted = rows[(rows["metric"] == "balanced_accuracy") & (rows["note"] != "")]
    assert sorted(noted["encoder"]) == sorted(name for _, name in beyond_rounding)


def test_the_same_run_in_several_tables():
    for task in ("midog25", "nucls_super", "hest_bowel", "hest_breast", "hest_lung"):
        metric = "pcc" if task.startswith("hest") else "balanced_accuracy"
        for column in ("mean", "sd"):
            assert value(2, task, "lemon (a1+gray)", metric, column) == value(1, task, "lemon", metric, column)
    for task in ("midog25", "nucls_super"):
        assert value(6, task, "lemon (MoCo v3)", "balanced_accuracy") == value(1, task, "lemon", "balanced_accuracy")


def test_robustness_is_of_standardised_embeddings():
    """Vectors of mean square 1 with cosine c lie sqrt(2 (1 - c)) apart, which the printed pairs nearly obey."""
    for name in ("lemon", "volta", "hoptimus0"):
        cosine = value(7, "stain_robustness_midog25", name, "cosine")
        assert value(7, "stain_robustness_midog25", name, "rmse") == pytest.approx(np.sqrt(2 * (1 - cosine)), rel=0.05)


def test_costs_as_printed_are_those_of_our_count():
    assert lm.models.macs("lemon") / 1e9 == pytest.approx(value("text", "cost", "lemon", "gmacs"), abs=0.06)
    assert lm.models.macs("hoptimus0") / 1e9 == pytest.approx(value("text", "cost", "hoptimus0", "gmacs"), abs=0.15)


def test_encoders_are_named_as_models_are():
    known = {card.name.removesuffix("_nucls") for card in lm.models.available()}
    assert {name.split(" (")[0] for name in lm.bench.reference()["encoder"]} <= known


def test_notes_stand_where_the_paper_contradicts_itself():
    rows = lm.bench.reference()
    for where, text in NOTES:
        met = rows[[*where]].eq(list(where.values())).all(axis=1)
        assert met.any(), where
        assert rows.loc[met, "note"].str.contains(text, regex=False).all()
    assert ".773" in value(1, "nucls_super", "lemon", "balanced_accuracy", "note")
    assert ".748" in value(1, "midog25", "lemon", "balanced_accuracy", "note")
    assert ".005" in value(1, "midog25", "imagenet_r50", "balanced_accuracy", "note")
    assert ".648" in value(12, "pannuke", "lemon", "balanced_accuracy", "note")
    assert ".164" in value(1, "hest_breast", "lemon", "pcc", "note")
    assert ".147" in value(1, "hest_lung", "lemon", "pcc", "note")


def test_a_table_that_there_is_not():
    with pytest.raises(ValueError, match=r"`table` must be one of \['1', '2', .*'text'\], got '3'"):
        lm.bench.reference(3)
