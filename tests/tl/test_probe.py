from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from probes import make, snapshot, stored
from scipy import sparse
from spatialdata.models import TableModel

from lemon_sc._core.errors import MissingKeyError
from lemon_sc.analysis.protocol import ProbeProtocol
from lemon_sc.tl._probe import probe


@pytest.mark.parametrize("groups", ["slide", None])
def test_planted_gene_is_found_and_noise_is_not(groups):
    adata = make(n=2000)
    assert probe(adata, target=["A", "B"], groups=groups) is None
    summary = stored(adata)["summary"]
    assert summary.loc["A", "pcc"] == pytest.approx(0.8, abs=0.03)
    assert summary.loc["A", "pcc_pooled"] == pytest.approx(0.8, abs=0.03)
    assert summary.loc["A", "pvalue"] == pytest.approx(1 / 21)
    assert abs(summary.loc["B", "pcc"]) < 0.05
    assert abs(summary["null_mean"]).max() < 0.03
    assert summary["null_sd"].to_numpy() == pytest.approx(1 / np.sqrt(2000), rel=0.6)
    assert stored(adata)["folds"] == ("groups" if groups else "spatial_blocks")
    assert stored(adata)["transform"] == "none"


def test_slide_leak_is_not_rewarded():
    """An embedding that knows only the slide must score at chance."""
    adata = make(n=1000, slides=10)
    slide = adata.obs["slide"].astype("category").cat.codes.to_numpy()
    noise = 0.01 * np.random.default_rng(0).standard_normal((1000, 10))
    adata.obsm["X_lemon"] = np.eye(10)[slide] + noise
    probe(adata, target=["A", "C"], groups="slide")
    assert stored(adata)["summary"]["pcc"].abs().max() < 0.1
    # The same embedding with folds that split slides reads gene C, which follows the slide, almost fully.
    adata.obs["random"] = np.arange(1000) // 10 % 5
    probe(adata, target="C", groups="random", key_added="leak")
    assert stored(adata, "leak")["summary"].loc["C", "pcc"] > 0.9


def test_result_does_not_depend_on_the_order_of_cells():
    adata = make()
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    for groups in ("slide", None):
        for data in (adata, shuffled):
            probe(data, target=["A", "B"], groups=groups, predictions="oof")
        np.testing.assert_allclose(
            stored(adata)["scores"]["pcc"], stored(shuffled)["scores"]["pcc"], rtol=1e-6, atol=1e-9
        )
        back = shuffled[adata.obs_names]
        np.testing.assert_allclose(adata.obsm["oof"], back.obsm["oof"], rtol=1e-4, atol=1e-6)


def test_scores_follow_from_the_predictions_and_name_their_protocol():
    adata = make()
    probe(
        adata,
        target=["A", "B"],
        groups="slide",
        predictions="oof",
        protocol=ProbeProtocol(n_null=4),
        rng=7,
        key_added="p.1",
    )
    made = stored(adata, "p.1")
    scores = made["scores"].set_index(["group", "gene"])
    for name, rows in adata.obs.groupby("slide").indices.items():
        for g, gene in enumerate(made["genes"]):
            expected = np.corrcoef(adata.X[rows, g], adata.obsm["oof"][rows, g])[0, 1]
            assert scores.loc[(name, gene), "pcc"] == pytest.approx(expected, abs=1e-5)
            assert scores.loc[(name, gene), "n"] == 150
    by_gene = scores["pcc"].groupby("gene").mean()
    np.testing.assert_allclose(made["summary"]["pcc"], by_gene[["A", "B"]])
    assert made["score"] == pytest.approx(scores["pcc"].mean())
    assert made["groups"].index.tolist() == ["s0", "s1", "s2", "s3"]
    assert {k: made[k] for k in ("use_rep", "layer", "groups_key", "rng", "n_null", "n_cells", "target")} == {
        "use_rep": "X_lemon",
        "layer": "X",
        "groups_key": "slide",
        "rng": 7,
        "n_null": 4,
        "n_cells": 600,
        "target": "list",
    }
    assert adata.obsm["oof"].dtype == np.float32


def test_same_seed_same_result():
    tables = []
    for rng in (3, 3, np.random.default_rng(3), 4):
        adata = make()
        probe(adata, target="A", rng=rng)
        tables.append(stored(adata)["scores"])
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])
    assert not tables[0].equals(tables[3])


@pytest.mark.parametrize("as_matrix", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_counts_are_logged_dense_or_sparse(as_matrix):
    adata = make()
    counts = np.random.default_rng(0).poisson(np.exp(adata.X[:, :2] + 1)).astype(np.float32)
    plain = make()[:, :2].copy()
    plain.X = np.log1p(counts)
    adata.layers["counts"] = as_matrix(np.column_stack([counts, counts[:, 0]]))
    probe(adata, target=["A", "B"], layer="counts", groups="slide")
    probe(plain, target=["A", "B"], groups="slide")
    assert (stored(adata)["transform"], stored(plain)["transform"]) == ("log1p", "none")
    assert stored(adata)["layer"] == "counts"
    np.testing.assert_allclose(stored(adata)["scores"]["pcc"], stored(plain)["scores"]["pcc"], atol=1e-5)


def test_top_genes_leave_controls_out():
    r = np.random.default_rng(0)
    rate = np.linspace(0.5, 5, 80)
    names = [f"G{i:02d}" for i in range(78)] + ["BLANK_0001", "odd_one"]
    adata = make()
    wide = ad.AnnData(sparse.csr_matrix(r.poisson(rate, (600, 80)).astype(np.float32)), obs=adata.obs, obsm=adata.obsm)
    wide.var_names = names
    wide.var["feature_types"] = ["Gene Expression"] * 79 + ["Negative Control Codeword"]
    probe(wide, protocol=ProbeProtocol(n_null=1))
    genes = stored(wide)["genes"]
    assert len(genes) == 50
    assert not set(genes) & {"BLANK_0001", "odd_one"}
    assert genes[0] in names[70:78]
    # Ranks within slides: a gene that is everything in one slide and nothing elsewhere does not lead.
    wide.obs["slide"] = adata.obs["slide"].to_numpy()
    wide.X = wide.X.toarray()
    wide.X[:, 0] = np.where(wide.obs["slide"] == "s0", 1000, 0)
    probe(wide, groups="slide", protocol=ProbeProtocol(n_null=1))
    assert "G00" not in stored(wide)["genes"]
    assert stored(wide)["target"] == "genes"


def test_cells_without_embedding_or_group_are_left_out_and_counted(caplog):
    adata = make()
    part = adata[30:].copy()
    adata.obsm["X_lemon"][:20, 3] = np.nan
    adata.obs["slide"] = adata.obs["slide"].astype("category")
    adata.obs.iloc[10:30, 0] = np.nan
    with caplog.at_level("INFO", logger="lemon_sc"):
        probe(adata, target=["A", "B"], groups="slide", predictions="oof")
    probe(part, target=["A", "B"], groups="slide")
    made = stored(adata)
    assert (made["n_cells"], made["n_no_embedding"], made["n_no_group"]) == (570, 20, 10)
    assert "left out: 20 without embedding, 10 without group" in caplog.text
    np.testing.assert_allclose(made["scores"]["pcc"], stored(part)["scores"]["pcc"], atol=1e-7)
    assert np.isnan(adata.obsm["oof"][:30]).all()
    assert np.isfinite(adata.obsm["oof"][30:]).all()


def test_cells_without_coordinates_are_left_out_of_blocks():
    adata = make()
    adata.obsm["spatial"][5] = np.nan
    probe(adata, target="A")
    assert (stored(adata)["n_cells"], stored(adata)["n_no_group"]) == (599, 1)
    assert stored(adata)["block_side"] == pytest.approx(200, rel=0.02)


def test_constant_genes_are_nan_and_counted():
    adata = make()
    adata.X = adata.X.astype(np.float32)
    adata.X[:, 1] = 0.1
    probe(adata, groups="slide")
    made = stored(adata)
    assert np.isnan(made["summary"].loc["B", ["pcc", "pvalue", "pcc_pooled"]].to_numpy(dtype=float)).all()
    assert made["summary"]["n_undefined"].to_dict() == {"A": 0, "B": 4, "C": 0}
    assert (made["n_undefined"], made["groups"]["n_undefined"].tolist()) == (4, [1] * 4)
    assert np.isfinite(made["score"])


def test_all_is_undefined_without_a_crash():
    adata = make()
    adata.X[:] = 1.0
    probe(adata, groups="slide", protocol=ProbeProtocol(n_null=0))
    assert np.isnan(stored(adata)["score"])
    assert stored(adata)["n_undefined"] == 12


def test_survives_h5ad_and_spatialdata(tmp_path):
    adata = make()
    adata.X[:, 1] = 1.0
    adata.obs["region"] = pd.Categorical(["r"] * adata.n_obs)
    adata.obs["cell"] = np.arange(adata.n_obs)
    probe(adata, target=["A", "B"], groups="slide", predictions="oof")
    probe(adata, target="A", rng=np.random.default_rng(0), key_added="one.gene", protocol=ProbeProtocol(n_null=0))
    adata.write_h5ad(tmp_path / "a.h5ad")
    table = TableModel.parse(adata.copy(), region="r", region_key="region", instance_key="cell")
    sd.SpatialData(tables={"table": table}).write(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), sd.read_zarr(tmp_path / "a.zarr")["table"]):
        for key in ("probe", "one.gene"):
            made, read = stored(adata, key), stored(back, key)
            assert set(made) == set(read)
            for name in ("scores", "summary", "groups"):
                pd.testing.assert_frame_equal(
                    made[name], read[name], check_dtype=False, check_index_type=False, check_categorical=False
                )
            assert list(read["genes"]) == list(made["genes"])
            assert read["rng"] == made["rng"]
        np.testing.assert_array_equal(back.obsm["oof"], adata.obsm["oof"])


def test_named_protocol_of_hest():
    adata = make()
    probe(adata, target=["A", "B"], groups="slide", protocol="hest")
    made = stored(adata)
    assert made["groups"]["alpha"].tolist() == [100 / (16 * 2)] * 4
    assert made["groups"]["n_features"].tolist() == [16] * 4
    assert made["alpha_choice"] == "hest"
    assert made["protocol"] == {
        "folds": "auto",
        "patient_key": "none",
        "alpha": "hest",
        "c": 1.0,
        "n_pcs": 256,
        "train_only": False,
        "pos_label": "none",
        "n_null": 20,
        "buffer": 0.0,
    }


def test_genes_chosen_in_training_cells_do_not_know_the_held_out_slide():
    r = np.random.default_rng(0)
    adata = make()
    counts = r.poisson(np.linspace(0.5, 5, 80), (600, 80)).astype(np.float32)
    counts[adata.obs["slide"] == "s0", 0] = 500  # enough to enter by the ranks of four slides, not of the other three
    counts[adata.obs["slide"] == "s0", 1:30] = 0
    counts[:, 30:] += 1
    wide = ad.AnnData(counts, obs=adata.obs, obsm=adata.obsm)
    wide.var_names = [f"G{i:02d}" for i in range(80)]
    probe(wide, groups="slide", protocol=ProbeProtocol(train_only=True, n_null=1))
    made = stored(wide)
    of_fold = made["scores"].groupby("group")["gene"].agg(set)
    assert {len(genes) for genes in of_fold} == {50}
    for held_out, genes in of_fold.items():
        rest = wide[wide.obs["slide"] != held_out]
        rank = sum(pd.Series(-rest[rows].X.mean(axis=0)).rank() for rows in rest.obs.groupby("slide").indices.values())
        expected = set(wide.var_names[np.lexsort((wide.var_names, rank.to_numpy()))[:50]])
        assert genes == expected
    assert (made["summary"]["n_folds"] >= 1).all()
    assert made["n_undefined"] == 0
    assert made["scores"]["pcc"].notna().all()


BAD = [
    ({"use_rep": "X_lemn"}, MissingKeyError, r"Did you mean 'X_lemon'\? Run `lm.tl.embed` first"),
    ({"target": ["A", "EPCAN"]}, MissingKeyError, r"'EPCAN' not found in `adata.var_names`.*Did you mean 'EPCAM'"),
    ({"target": ["A", "A"]}, ValueError, "name each gene once"),
    ({"target": []}, ValueError, "non-empty"),
    ({"target": None}, ValueError, '`target` must be "genes", a gene, a list of genes, or a column .* got None'),
    ({"target": 3}, ValueError, "`target` must be .* got 3"),
    ({"target": ["A", None]}, ValueError, r"`target` must be .* got \['A', None\]"),
    ({"target": {"A"}}, ValueError, "`target` must be .* a list of genes"),  # a set has no order
    ({"groups": 3}, ValueError, "`groups` must be the name of a column of `adata.obs`, got 3"),
    ({"groups": ["slide"]}, ValueError, r"`groups` must be the name of a column of `adata.obs`, got \['slide'\]"),
    ({"groups": "slid"}, MissingKeyError, r"not found in `adata.obs`.*Did you mean 'slide'"),
    ({"groups": "one"}, ValueError, "at least two groups"),
    ({"groups": "id"}, ValueError, "is this column an identifier"),
    ({"layer": "count"}, MissingKeyError, r"not found in `adata.layers`.*Did you mean 'counts'"),
    ({"key_added": "a/b"}, ValueError, "`key_added` must hold only letters"),
    ({"predictions": "a b"}, ValueError, "`predictions` must hold only letters"),
    ({"predictions": "X_lemon"}, ValueError, "`predictions` must not be the key of an input"),
    ({"use_rep": "gone"}, ValueError, r"No row of `adata.obsm\['gone'\]` \(600, 4\) is free of NaN"),
    ({"rng": -1}, ValueError, "`rng` must be an int >= 0"),
    ({"layer": "text"}, ValueError, r"Expression must be numbers, got object in adata.layers\['text'\]"),
    ({"layer": "holes"}, ValueError, r"Expression must be finite.*1 genes: \['B'\]"),
    ({"layer": "sparse_holes"}, ValueError, r"Expression must be finite.*1 genes: \['B'\]"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input_says_so_and_changes_nothing(arguments, error, match):
    adata = make()
    adata.var_names = ["A", "B", "EPCAM"]
    adata.obs["one"], adata.obs["id"] = "s", adata.obs_names
    adata.obsm["gone"] = np.full((600, 4), np.nan)
    adata.layers["counts"] = np.ones((600, 3))
    adata.layers["text"] = adata.X.astype(object)
    adata.layers["holes"] = adata.X.copy()
    adata.layers["holes"][3, 1] = np.nan
    adata.layers["sparse_holes"] = sparse.csr_matrix(adata.layers["holes"])
    before = snapshot(adata)
    with pytest.raises(error, match=match):
        probe(adata, **{"groups": "slide", "predictions": "oof"} | arguments)
    after = snapshot(adata)
    assert before[:3] == after[:3]
    assert (before[3] == after[3]).all()


def test_panels_that_do_not_intersect():
    a, b = make(), make(seed=1)
    b.var_names = ["D", "E", "F"]
    inner = ad.concat([a, b], join="inner", index_unique="-")
    with pytest.raises(ValueError, match="None of the 0 features is a gene.*panels of all slides intersect"):
        probe(inner, groups="slide")
    outer = ad.concat([a, b], join="outer", index_unique="-", fill_value=np.nan)
    with pytest.raises(ValueError, match=r"finite, found NaN or infinite values in 6 genes.*concat\(join='inner'\)"):
        probe(outer, groups="slide")


@pytest.mark.parametrize("n", [1, 2, 4])
def test_too_few_cells_for_blocks(n):
    with pytest.raises(ValueError, match="need cells at different places, got 1 cells|5 folds need at least 5 blocks"):
        probe(make(n=n), target="A")


def test_too_few_cells_for_a_correlation_are_counted():
    adata = make(n=80)
    adata = adata[(adata.obs["slide"] != "s3") | (np.arange(80) < 8)].copy()  # two cells are left of the last slide
    probe(adata, target=["A", "B"], groups="slide", protocol=ProbeProtocol(n_null=0))
    assert stored(adata)["groups"]["n_undefined"].tolist() == [0, 0, 0, 2]
    assert stored(adata)["n_undefined"] == 2


def test_names_with_slashes_are_read_and_kept(tmp_path):
    adata = make()
    adata.var_names = ["A/x", "B", "C"]
    adata.obs["sl/ide"] = ["a/b " + s for s in adata.obs["slide"]]
    del adata.obs["slide"]
    adata.obsm["X/y"] = adata.obsm["X_lemon"]
    probe(adata, target=["A/x", "B"], groups="sl/ide", use_rep="X/y")
    plain = make()
    probe(plain, target=["A", "B"], groups="slide")
    np.testing.assert_allclose(stored(adata)["scores"]["pcc"], stored(plain)["scores"]["pcc"])
    assert list(stored(adata)["genes"]) == ["A/x", "B"]
    only = ad.AnnData(obs=pd.DataFrame(index=adata.obs_names), uns=adata.uns)
    only.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["lemon_sc"]["probe"]["probe"]["summary"].index.tolist() == ["A/x", "B"]


def test_one_slide_needs_coordinates():
    adata = make()
    xy = adata.obsm.pop("spatial")
    with pytest.raises(MissingKeyError, match=r"'spatial' not found in `adata.obsm`.*Pass `groups=`"):
        probe(adata)
    adata.obsm["spatial"] = xy[:, :1]
    with pytest.raises(ValueError, match=r"x and y in two columns, got shape \(600, 1\)"):
        probe(adata)


def test_names_must_be_unique_and_x_filled():
    adata = make()
    adata.var_names = ["A", "A", "B"]
    with pytest.raises(ValueError, match="var_names_make_unique"):
        probe(adata, target="A")
    empty = ad.AnnData(obs=adata.obs, var=pd.DataFrame(index=["A"]), obsm=adata.obsm)
    with pytest.raises(ValueError, match="`adata.X` is empty"):
        probe(empty, target="A")
