"""Measurements against planted truths and scores computed otherwise."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm
from lemon_sc.bench import probes
from lemon_sc.bench.features import Features
from lemon_sc.bench.kinds import Labelled
from lemon_sc.bench.rows import COLUMNS, as_table, merged

N = 400


def labelled(n=N, slides=8, **more):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "image": [f"i{k % slides}" for k in range(n)], "x": rng.random(n) * 4000, "y": rng.random(n) * 4000,
        "slide": [f"s{k % slides}" for k in range(n)], "patient": [f"p{k % slides // 2}" for k in range(n)],
        "label": rng.choice(["AMF", "NMF"], n, p=[0.2, 0.8]),
    })  # fmt: skip
    mpp = {f"i{k}": (0.25, 0.25) for k in range(slides)}
    return Labelled(nuclei=table, open=None, mpp=mpp, **more)


def embedding(found, signal, seed=1):
    """Ten features of noise, one of which tells the class."""
    z = np.random.default_rng(seed).standard_normal((len(found.nuclei), 10)).astype(np.float32)
    z[:, 3] += signal * (found.nuclei["label"] == "AMF")
    return Features(rows=np.arange(len(z)), z=z)


def table_of(kind, found, made, task="midog25", encoder="e", **more):
    task = lm.bench.task(task)
    options = {"seed": 0, **more}
    if kind is not probes.morans_i:
        options.setdefault("protocols", task.protocols)
    return as_table(kind(task, found, made, encoder, **options))


def values(table, protocol, metric):
    return table[(table["protocol"] == protocol) & (table["metric"] == metric)]["value"].to_numpy()


def test_classes_are_scored_as_scikit_learn_scores_them():
    found = labelled()
    made = embedding(found, 2.0)
    table = table_of(probes.classification, found, made)
    assert tuple(table) == COLUMNS
    y, accuracy, precision = found.nuclei["label"].to_numpy(), [], []
    codes = np.empty(N, int)
    split = StratifiedKFold(5, shuffle=True, random_state=int(np.random.default_rng(0).integers(2**31)))
    for f, (train, test) in enumerate(split.split(y, y)):
        codes[test] = f
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, tol=1e-9)).fit(
            made.z[train], y[train]
        )
        accuracy.append(balanced_accuracy_score(y[test], model.predict(made.z[test])))
        precision.append(average_precision_score(y[test] == "NMF", model.predict_proba(made.z[test])[:, 1]))
    np.testing.assert_allclose(values(table, "stratified", "balanced_accuracy"), accuracy, atol=1e-6)
    np.testing.assert_allclose(values(table, "stratified", "aupr"), precision, atol=1e-4)
    own = table[(table["protocol"] == "stratified") & (table["metric"] == "auc")]
    assert own["n"].tolist() == np.bincount(codes).tolist()
    assert (own["n"] + own["n_train"]).eq(N).all()
    assert own["fold"].tolist() == [f"fold_{f}" for f in range(5)]


def test_noise_scores_at_chance_and_so_do_shuffled_labels():
    found = labelled(2000)
    table = table_of(probes.classification, found, embedding(found, 0.0))
    for protocol in ("stratified", "slide"):
        assert values(table, protocol, "balanced_accuracy").mean() == pytest.approx(0.5, abs=0.02)
        assert values(table, protocol, "auc").mean() == pytest.approx(0.5, abs=0.05)
    told = table_of(probes.classification, found, embedding(found, 4.0))
    assert values(told, "slide", "balanced_accuracy").mean() > 0.9
    assert values(told, "slide", "null_auc").mean() == pytest.approx(0.5, abs=0.05)


def test_scores_of_all_folds_together_come_with_intervals_from_drawing_patients():
    """Half of the patients are told by the embedding, the others not: eight patients say little, 800 nuclei much."""
    found = labelled(800, slides=16)
    told = found.nuclei["patient"].isin(["p0", "p2", "p4", "p6"])
    made = embedding(found, 0.0)
    made.z[:, 3] = np.where(told, 6.0, 0.0) * np.where(found.nuclei["label"] == "AMF", 1, -1)
    table = table_of(probes.classification, found, made, protocols=("slide",))
    value, low, high = (values(table, "slide", f"pooled_auc{end}").item() for end in ("", "_low", "_high"))
    assert low < value < high
    assert value == pytest.approx(values(table, "slide", "auc").mean(), abs=0.08)
    assert values(table, "slide", "pooled_units").item() == 8
    alone = replace(found, nuclei=found.nuclei.drop(columns="patient"))
    assert values(table_of(probes.classification, alone, made, protocols=("slide",)), "slide", "pooled_units") == 16
    alone.nuclei["slide"] = "s0"
    single = table_of(probes.classification, alone, made, protocols=("stratified",))
    assert values(single, "stratified", "pooled_units").item() == 800
    narrow = values(single, "stratified", "pooled_auc_high") - values(single, "stratified", "pooled_auc_low")
    assert narrow.item() < 0.6 * (high - low)


def test_an_embedding_that_knows_only_the_slide_is_found_out():
    """Its class is that of the slide: random folds reward it, folds of slides do not, and the control says why."""
    found = labelled(1200, slides=12)
    slide = found.nuclei["slide"].str[1:].astype(int).to_numpy()
    found.nuclei["label"] = np.where(np.random.default_rng(3).permutation(12)[slide] % 2, "AMF", "NMF")
    z = np.eye(12)[slide] + 0.01 * np.random.default_rng(0).standard_normal((1200, 12))
    table = table_of(probes.classification, found, Features(rows=np.arange(1200), z=z.astype(np.float32)))
    assert values(table, "stratified", "balanced_accuracy").mean() > 0.99
    assert values(table, "slide", "balanced_accuracy").mean() < 0.7
    assert values(table, "control", "slide_identity").item() > 0.99
    assert values(table, "control", "slide_identity_chance").item() == pytest.approx(1 / 12)


def test_duplicates_and_overlapping_windows_across_folds_are_counted():
    found = labelled()
    found.nuclei["x"] = found.nuclei["y"] = np.arange(N) * 1000.0
    made = embedding(found, 1.0)
    clean = table_of(probes.classification, found, made)
    assert values(clean, "stratified", "n_shared_rows").item() == 0
    assert values(clean, "stratified", "n_overlapping").item() == 0
    made.z[8:16] = made.z[0:8]
    found.nuclei.loc[8:15, ["x", "y"]] = found.nuclei.loc[0:7, ["x", "y"]].to_numpy() + 30.0
    planted = table_of(probes.classification, found, made)
    assert 2 <= values(planted, "stratified", "n_shared_rows").item() <= 16
    assert (
        values(planted, "stratified", "n_overlapping").item() == values(planted, "stratified", "n_shared_rows").item()
    )
    assert values(planted, "slide", "n_overlapping").item() == 0  # rows k and k + 8 are of one slide


def genes(found, z, noise=0.5):
    """Counts: gene 0 follows the embedding, gene 1 is noise, gene 2 is constant in the first slide."""
    rng = np.random.default_rng(5)
    slide = found.nuclei["slide"].to_numpy()
    x = np.stack([
        rng.poisson(np.exp(2 + z[:, 3] * 0.8 + noise * rng.standard_normal(len(z)))),
        rng.poisson(9, len(z)),
        np.where(slide == "s0", 3, rng.poisson(3, len(z))),
    ], axis=1)  # fmt: skip
    return replace(found, expression=x.astype(np.float32), genes=("follows", "noise", "constant"))


def test_expression_is_scored_within_slides_and_undefined_genes_are_counted():
    found = labelled(800)
    made = embedding(found, 0.0)
    table = table_of(probes.expression, genes(found, made.z), made, task="hest_lung")
    assert values(table, "slide", "n_undefined").tolist() == [1] + [0] * 7
    assert (values(table, "slide", "pcc") > 0.15).all()
    assert np.abs(values(table, "slide", "null_pcc")).max() < 0.15
    own = table[(table["protocol"] == "patient") & (table["metric"] == "pcc")]
    assert own["n_train"].tolist() == [600] * 8  # two slides of a patient leave together
    assert own["fold"].tolist() == [f"s{k}" for k in range(8)]
    assert len(values(table, "slide", "pcc_pooled")) == 1


def test_pooled_correlation_is_inflated_by_what_tells_slides_apart():
    """A feature that is the slide's mean says nothing within a slide."""
    found = labelled(800)
    slide = found.nuclei["slide"].str[1:].astype(int).to_numpy()
    z = (np.random.default_rng(0).standard_normal((800, 4)) + slide[:, None] * [5, 0, 0, 0]).astype(np.float32)
    counts = np.random.default_rng(1).poisson(10 + 20 * slide + 4 * z[:, 1].clip(-2, 2)).astype(np.float32)[:, None]
    table = table_of(
        probes.expression, replace(found, expression=counts, genes=("g",)), Features(rows=np.arange(800), z=z),
        task="hest_lung", protocols=("slide",),
    )  # fmt: skip
    assert values(table, "slide", "pcc").mean() < 0.5
    assert values(table, "slide", "pcc_pooled").item() > 0.8


def test_windows_of_an_item_are_averaged():
    found = labelled(40)
    found.nuclei["item"] = np.arange(40) // 4
    rows = np.array([0, 1, 2, 3, 9, 10, 39])
    z = np.arange(7, dtype=np.float32)[:, None]
    items, mean, table = probes.by_item(found, Features(rows=rows, z=z))
    assert items.tolist() == [0, 2, 9]
    assert mean[:, 0].tolist() == [1.5, 4.5, 6.0]
    assert table.index.tolist() == [0, 9, 39]


def test_markers_that_follow_the_embedding_are_smooth_over_it():
    found = labelled(300, slides=1)
    z = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    counts = np.stack([np.exp(2 + 2 * z[:, 0]), np.random.default_rng(1).poisson(20, 300), np.full(300, 200.0)], axis=1)
    found = replace(found, expression=counts.astype(np.float32), genes=("EPCAM", "CD3E", "other"))
    table = table_of(probes.morans_i, found, Features(rows=np.arange(300), z=z), task="xenium_markers")
    at = table.set_index(["fold", "metric"])["value"]
    assert at["EPCAM", "I"] > 0.5
    assert abs(pearsonr(z[:, 0], counts[:, 1])[0]) < 0.2
    assert at["EPCAM", "pval_sim"] <= 0.01
    assert sorted(set(table["fold"])) == ["CD3E", "EPCAM"]
    with pytest.raises(ValueError, match="None of the markers"):
        table_of(
            probes.morans_i, replace(found, genes=("a", "b", "c")), Features(rows=np.arange(300), z=z),
            task="xenium_markers",
        )  # fmt: skip


def test_new_rows_replace_old_ones_of_the_same_kind_and_no_others():
    keys = [
        ("a", 1, "e", "slide", "f0", "auc"),
        ("a", 1, "e", "stratified", "f0", "auc"),
        ("b", 1, "e", "slide", "f0", "auc"),
    ]
    names = ["task", "version", "encoder", "protocol", "fold", "metric"]

    def rows(keys, value):
        return as_table([dict(zip(names, key, strict=True)) | {"value": value} for key in keys])

    made = merged(rows(keys[:2], 0.1), rows(keys[1:], 0.9))
    assert made["value"].tolist() == [0.1, 0.9, 0.9]
    assert merged(as_table([]), rows(keys, 0.5))["value"].tolist() == [0.5] * 3
