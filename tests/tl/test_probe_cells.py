from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from probes import make, make_typed, snapshot, stored, with_crops

from lemon_sc._core.errors import MissingKeyError
from lemon_sc.analysis.protocol import ProbeProtocol
from lemon_sc.tl._probe import probe


@pytest.mark.parametrize(("groups", "folds"), [("slide", "groups"), (None, "spatial_blocks"), (None, "stratified")])
def test_planted_classes_are_found_and_shuffled_ones_are_not(groups, folds):
    adata = make_typed()
    adata.obs["shuffled"] = np.random.default_rng(0).permutation(adata.obs["type"].astype(str))
    plan = ProbeProtocol(folds=folds if folds == "stratified" else "auto", n_null=9)
    for key in ("type", "shuffled"):
        assert probe(adata, target=key, groups=groups, key_added=key, protocol=plan) is None
    made, blind = stored(adata, "type"), stored(adata, "shuffled")
    assert made["folds"] == folds
    assert made["metrics"].loc[["auc", "balanced_accuracy", "f1_macro"], "mean"].min() > 0.95
    assert made["metrics"]["pvalue"].max() == pytest.approx(1 / 10)
    assert blind["metrics"].loc["auc", "mean"] == pytest.approx(0.5, abs=0.08)
    assert blind["score"] == pytest.approx(1 / 3, abs=0.08)
    assert blind["metrics"].loc["auc", "null_mean"] == pytest.approx(0.5, abs=0.05)
    assert (made["kind"], made["target"], made["target_key"], made["score_metric"]) == (
        "classes",
        "obs",
        "type",
        "balanced_accuracy",
    )


def test_tables_of_classes_agree_with_each_other_and_with_the_predictions():
    adata = make_typed()
    adata.obs.iloc[:7, adata.obs.columns.get_loc("type")] = np.nan
    probe(adata, target="type", groups="slide", predictions="p", protocol=ProbeProtocol(n_null=2))
    made = stored(adata)
    assert made["classes"].tolist() == ["mitosis", "stroma", "tumour"]
    assert (made["n_cells"], made["n_no_label"]) == (593, 7)
    assert np.isnan(adata.obsm["p"][:7]).all()
    predicted = made["classes"][adata.obsm["p"][7:].argmax(axis=1)]
    right = pd.Series(predicted == adata.obs["type"].astype(str).to_numpy()[7:], index=adata.obs_names[7:])
    recall = right.groupby([adata.obs["slide"].iloc[7:], adata.obs["type"].astype(str).iloc[7:]]).mean()
    scores = made["scores"].set_index(["group", "class"])
    np.testing.assert_allclose(scores["recall"], recall.loc[scores.index])
    np.testing.assert_allclose(made["groups"]["balanced_accuracy"], recall.groupby(level=0).mean())
    assert made["score"] == pytest.approx(recall.groupby(level=0).mean().mean())
    np.testing.assert_allclose(made["summary"]["recall"], recall.groupby(level=1).mean())
    assert made["summary"]["n"].sum() == 593
    assert made["metrics"].loc["auc", "mean"] == pytest.approx(made["groups"]["auc"].mean())


def test_classes_missing_in_a_slide_are_counted_and_said(caplog):
    adata = make_typed()
    adata = adata[~((adata.obs["type"] == "mitosis") & (adata.obs["slide"] == "s1"))].copy()
    with caplog.at_level("WARNING", logger="lemon_sc"):
        probe(adata, target="type", groups="slide")
    made = stored(adata)
    assert made["summary"]["n_undefined"].to_dict() == {"mitosis": 1, "stroma": 0, "tumour": 0}
    assert (made["n_undefined"], made["groups"]["n_undefined"].tolist()) == (1, [0, 1, 0, 0])
    assert "in 1 of 12 pairs of fold and class" in caplog.text


def test_positive_class_is_the_one_that_is_scored():
    adata = make_typed()
    probe(adata, target="type", groups="slide", protocol=ProbeProtocol(pos_label="mitosis", n_null=2))
    made = stored(adata)
    one = made["scores"].set_index(["class", "group"]).loc["mitosis"]
    np.testing.assert_allclose(made["groups"]["aupr"], one["aupr"])
    np.testing.assert_allclose(made["groups"]["auc"], one["auc"])


def test_embedding_that_knows_only_the_slide_is_caught():
    """At chance under folds by slide, rewarded by random folds, and given away by both controls there."""
    adata = make(n=1000, slides=20)
    number = adata.obs["slide"].str[1:].astype(int).to_numpy()
    adata.obs["type"] = np.where(number % 2, "tumour", "stroma")
    adata.obsm["X_lemon"] = np.eye(20)[number] + 0.01 * np.random.default_rng(0).standard_normal((1000, 20))
    probe(adata, target="type", groups="slide", protocol=ProbeProtocol(n_null=1))
    made = stored(adata)
    assert made["score"] < 0.65
    assert made["group_identity"] > 0.99
    assert made["group_identity_chance"] == pytest.approx(0.05)
    assert np.isnan(made["score_group_only"])
    probe(adata, target="type", groups="slide", protocol=ProbeProtocol(folds="stratified", n_null=1))
    assert stored(adata)["score"] > 0.99
    assert stored(adata)["score_group_only"] > 0.99
    adata.obsm["X_lemon"] = np.random.default_rng(1).standard_normal((1000, 20))
    probe(adata, target=["A"], groups="slide")
    assert stored(adata)["group_identity"] == pytest.approx(0.05, abs=0.03)


def test_duplicates_across_folds_are_counted_and_said(caplog):
    adata = make()
    adata.obsm["X_lemon"][:5] = adata.obsm["X_lemon"][5:10]  # cell i and i + 5 are of different slides
    with caplog.at_level("WARNING", logger="lemon_sc"):
        probe(adata, target="A", groups="slide")
    assert stored(adata)["n_shared_rows"] == 10
    assert "10 cells share their embedding, bit for bit" in caplog.text


def test_overlapping_crops_across_folds_are_counted_and_said(caplog):
    r = np.random.default_rng(0)
    adata = make()
    adata.obs["half"] = np.where(np.arange(600) < 300, "left", "right")
    adata.obsm["spatial"] = r.permutation(np.arange(0, 30 * 30)[:600, None] * 15 * np.ones(2))
    adata.obsm["spatial"][300:304] = adata.obsm["spatial"][:4] + [9.5, 0]  # windows are 10 um wide
    adata.obsm["spatial"][304] = adata.obsm["spatial"][4] + [0, 10.5]
    adata.obsm["spatial"][300:305, 1] += 1e-3
    near = 8  # the four pairs, each seen from both sides
    with caplog.at_level("WARNING", logger="lemon_sc"):
        probe(with_crops(adata, 0.5), target="A", groups="half")
    made = stored(adata)
    assert (made["n_overlapping"], made["overlap_from"], made["overlap_within"]) == (near, "nucleus_xy", "all cells")
    assert "the crops of 8 of 600 cells overlap with the crop of a cell in another fold" in caplog.text
    with_crops(adata, 0.5, size_px=60)  # 15 um
    probe(adata, target="A", groups="half")
    assert stored(adata)["n_overlapping"] >= near + 2
    # coordinates of different slides do not meet
    adata.uns["spatialdata_attrs"] = {"region": ["left", "right"], "region_key": "half", "instance_key": "half"}
    probe(adata, target="A", groups="half")
    assert (stored(adata)["n_overlapping"], stored(adata)["overlap_within"]) == (0, "adata.obs['half']")


def test_overlap_falls_back_to_coordinates_and_says_when_there_are_none():
    adata = make()
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 100, (600, 2))
    probe(adata, target="A")
    assert stored(adata)["overlap_from"] == "spatial"
    assert stored(adata)["n_overlapping"] > 100
    probe(adata, target="A", groups="slide")
    assert (stored(adata)["n_overlapping"], stored(adata)["overlap_within"]) == (0, "groups")
    del adata.obsm["spatial"]
    probe(adata, target="A", groups="slide")
    assert np.isnan(stored(adata)["n_overlapping"])
    assert stored(adata)["overlap_from"] == "no coordinates"


def test_slides_of_a_patient_are_held_out_together():
    adata = make()
    adata.obs["patient"] = adata.obs["slide"].map({"s0": "p", "s1": "p", "s2": "q", "s3": "r"})
    without = adata[adata.obs["slide"] != "s1"].copy()
    probe(without, target="A", groups="slide", protocol=ProbeProtocol(n_null=1, alpha=1.0))
    probe(adata, target="A", groups="slide", protocol=ProbeProtocol(patient_key="patient", n_null=1, alpha=1.0))
    ours, theirs = (stored(a)["groups"]["pcc"] for a in (adata, without))
    assert ours.index.tolist() == ["s0", "s1", "s2", "s3"]
    assert ours["s0"] == pytest.approx(theirs["s0"], abs=1e-9)  # s1 of the same patient taught it nothing
    assert ours["s2"] != pytest.approx(theirs["s2"], abs=1e-9)


def test_both_kinds_survive_h5ad(tmp_path):
    adata = with_crops(make_typed(), 0.5)
    adata.obs["odd"] = adata.obs["type"].astype(str).replace("mitosis", "a/b")
    probe(adata, target="odd", groups="slide", predictions="p", protocol=ProbeProtocol(n_pcs=4, pos_label="a/b"))
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    made, read = stored(adata), stored(back)
    assert set(made) == set(read)
    for name in ("scores", "summary", "groups", "metrics"):
        pd.testing.assert_frame_equal(
            made[name], read[name], check_dtype=False, check_index_type=False, check_categorical=False
        )
    assert read["protocol"] == made["protocol"]
    np.testing.assert_array_equal(back.obsm["p"], adata.obsm["p"])


BAD_TYPED = [
    ({"target": "EPCAN"}, MissingKeyError, r"not found in `adata.var_names or adata.obs`.*Did you mean 'EPCAM'"),
    ({"target": "both"}, ValueError, r"is a gene and a column of `adata.obs`. Write \['both'\] for the gene"),
    ({"target": "area"}, ValueError, r"`target` must be a column of classes .*got 'area \(float64\)'.*astype"),
    ({"target": "one"}, ValueError, r"at least two classes, found \['s'\]"),
    ({"target": "none"}, ValueError, r"600 cells 600 have an embedding, 600 a group or coordinates, 0 a class"),
    ({"target": "type", "protocol": "hest"}, ValueError, "`protocol` must not set `alpha` or `train_only` for classes"),
    ({"target": "type", "protocol": ProbeProtocol(pos_label="x")}, ValueError, "`pos_label` must be one of"),
    ({"protocol": ProbeProtocol(pos_label="x")}, ValueError, "`pos_label` must be None for genes"),
    ({"protocol": ProbeProtocol(folds="stratified")}, ValueError, '`folds` must be "groups" or "blocks" for genes'),
    ({"protocol": ProbeProtocol(folds="blocks")}, ValueError, "must be None for blocks, which divide one slide"),
    ({"groups": None, "protocol": ProbeProtocol(folds="groups")}, ValueError, "must name a column of adata.obs"),
    ({"groups": None, "protocol": ProbeProtocol(patient_key="one")}, ValueError, "must stand beside `groups=`"),
    ({"protocol": ProbeProtocol(patient_key="patent")}, MissingKeyError, "'patent' not found in `adata.obs`"),
    ({"protocol": ProbeProtocol(patient_key="one")}, ValueError, "at least two patients"),
    ({"target": "A", "protocol": ProbeProtocol(train_only=True)}, ValueError, 'be False unless target="genes"'),
    ({"target": "A", "layer": "negative"}, ValueError, r"must not be negative.*1 genes: \['A'\]"),
    ({"protocol": "hst"}, ValueError, "`protocol` must be one of"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD_TYPED, ids=lambda v: str(v)[:60])
def test_choices_that_cannot_be_say_so_and_change_nothing(arguments, error, match):
    adata = make_typed()
    adata.var_names = ["A", "both", "EPCAM"]
    adata.obs["both"], adata.obs["one"], adata.obs["area"], adata.obs["none"] = (
        "x",
        "s",
        1.5,
        pd.Categorical([None] * 600),
    )
    adata.layers["negative"] = np.full((600, 3), 2.0)
    adata.layers["negative"][4, 0] = -1
    before = snapshot(adata)
    with pytest.raises(error, match=match):
        probe(adata, **{"groups": "slide", "predictions": "oof"} | arguments)
    assert before[:3] == snapshot(adata)[:3]
