"""`lm.tl.decompose` on planted spots, its record, and everything that can be wrong with a table."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError

TYPES = ["T cells", "B cells", "tumour", "stroma"]
FAST = lm.tl.DecompositionProtocol(widths=(32,), epochs=150, lr=1e-2, dropout=0.0, patience=30)
SIDE = 9


def spots(n_patients=3, seed=0):
    """Patients of one section each: smooth features on a lattice, of which the abundances are a function."""
    rng = np.random.default_rng(seed)
    xy = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2) * 100.0
    near = np.exp(-(((xy[:, None] - xy[None]) / 150.0) ** 2).sum(axis=-1))
    z = np.concatenate([near @ rng.normal(size=(len(xy), 4)) for _ in range(n_patients)])
    z = (z / z.std(axis=0)).astype(np.float32)
    n = len(z)
    obs = pd.DataFrame(
        {"patient": np.repeat([f"P{i}" for i in range(n_patients)], len(xy))}, index=map("s{}".format, range(n))
    )
    adata = ad.AnnData(obs=obs)
    adata.obsm["spatial"] = np.tile(xy, (n_patients, 1))
    adata.obsm["X_lemon"] = z[:, :2]
    adata.obsm["pooled"] = np.hstack([z[:, 2:], rng.normal(size=(n, 2))]).astype(np.float32)
    abundance = np.exp(z) * [1.0, 2.0, 4.0, 1.0]
    columns = [f"q05cell_abundance_w_sf_{name}" for name in TYPES]
    adata.obsm["q05_cell_abundance_w_sf"] = pd.DataFrame(abundance, index=adata.obs_names, columns=columns)
    return adata


@pytest.fixture(scope="module")
def made():
    adata = spots()
    lm.tl.decompose(adata, groups="patient", use_rep=["X_lemon", "pooled"], target="proportion", protocol=FAST)
    return adata


@pytest.fixture
def adata():
    return spots()


def record(adata, key="decomposition"):
    return adata.uns["lemon_sc"]["decompose"][key]


def fast(adata, **change):
    short = lm.tl.DecompositionProtocol(widths=(8,), epochs=2)
    lm.tl.decompose(adata, **{"groups": "patient", "use_rep": "X_lemon", "protocol": short} | change)
    return record(adata)


def test_planted_compositions_are_found_and_scored_by_slide(made):
    guess = made.obsm["decomposition"]
    share = made.obsm["q05_cell_abundance_w_sf"].to_numpy()
    share /= share.sum(axis=1, keepdims=True)
    found = record(made)
    assert list(guess.columns) == TYPES
    assert found["cc"] > 0.85
    assert found["l1"] < found["l1_mean"] / 2
    patient = made.obs["patient"].to_numpy()
    wanted = np.mean([
        pearsonr(guess.iloc[:, 2][patient == p], share[patient == p, 2]).statistic for p in ("P0", "P1", "P2")
    ])  # fmt: skip
    assert found["summary"].loc["tumour", "cc"] == pytest.approx(wanted)
    assert found["l1"] == pytest.approx(np.abs(guess.to_numpy() - share).mean(), rel=1e-5)
    np.testing.assert_allclose(guess.sum(axis=1), 1, atol=1e-5)


def test_colocalisation_is_compared_with_that_of_the_truth(made):
    found = record(made)
    assert found["colocalization_cosine"] > 0.7
    assert found["colocalization_correlation"] > 0.7
    R = found["colocalization"]
    assert list(R.index) == list(R.columns) == TYPES
    np.testing.assert_allclose(R, R.T)
    assert (np.diag(R) > 0.3).all()
    ends = found["intervals"].loc["cc"]
    assert ends["low"] <= found["cc"] <= ends["high"]
    assert ends["n_units"] == 3


def test_shuffled_compositions_cannot_be_predicted(adata):
    table, rng = adata.obsm["q05_cell_abundance_w_sf"], np.random.default_rng(0)
    order = np.concatenate([rng.permutation(81) + 81 * p for p in range(3)])
    adata.obsm["q05_cell_abundance_w_sf"] = table.iloc[order].set_axis(table.index)
    lm.tl.decompose(adata, groups="patient", use_rep=["X_lemon", "pooled"], target="proportion", protocol=FAST)
    assert abs(record(adata)["cc"]) < 0.15


def test_the_result_survives_a_file_and_is_repeatable(made, tmp_path):
    again = made.copy()
    lm.tl.decompose(again, groups="patient", use_rep=["X_lemon", "pooled"], target="proportion", protocol=FAST)
    pd.testing.assert_frame_equal(again.obsm["decomposition"], made.obsm["decomposition"])
    made.write_h5ad(tmp_path / "a.h5ad")
    made.write_zarr(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        np.testing.assert_array_equal(back.obsm["decomposition"].to_numpy(), made.obsm["decomposition"].to_numpy())
        assert record(back)["cc"] == record(made)["cc"]
        assert [step["step"] for step in lm.tl.provenance(back)] == ["decompose"]


def test_abundances_keep_their_scale(adata):
    lm.tl.decompose(adata, groups="patient", use_rep=["X_lemon", "pooled"], protocol=FAST)
    total = adata.obsm["decomposition"].to_numpy().sum(axis=1)
    assert 4 < np.median(total) < 20
    assert record(adata)["target"] == "abundance"


def test_what_cannot_be_used_is_counted(adata, caplog):
    adata.obsm["pooled"][:5] = np.nan
    adata.obs["in_tissue"] = (np.arange(adata.n_obs) >= 12).astype(int)
    adata.obs.loc[adata.obs_names[12:15], "patient"] = np.nan
    adata.obsm["q05_cell_abundance_w_sf"].iloc[100:104] = 0.0
    adata.obsm["q05_cell_abundance_w_sf"].iloc[200:202] = np.nan
    with caplog.at_level(logging.INFO, "lemon_sc"):
        found = fast(adata, use_rep=["X_lemon", "pooled"])
    counts = {name: found[name] for name in found if name.startswith("n_")}
    n = adata.n_obs
    assert counts == {
        "n_spots": n - 15, "n_no_features": 5, "n_no_tissue": 7, "n_no_group": 3, "n_no_truth": 2, "n_zero_truth": 4,
        "n_undefined": 0,
    }  # fmt: skip
    assert "4 rows of obsm['q05_cell_abundance_w_sf'] are all zero" in caplog.text
    assert "'s100'" in caplog.text
    guess = adata.obsm["decomposition"]
    assert guess.isna().all(axis=1).sum() == 15
    assert guess.iloc[100:104].notna().all(axis=None)
    assert found["slides"]["n"].sum() == n - 15 - 6


def test_a_patient_without_compositions_is_predicted(adata):
    adata.obsm["q05_cell_abundance_w_sf"].loc[adata.obs["patient"] == "P2"] = np.nan
    found = fast(adata)
    assert adata.obsm["decomposition"].notna().all(axis=None)
    slides = found["slides"]
    assert slides["group"].tolist() == slides["section"].tolist() == ["P0", "P1", "P2"]
    assert slides["n"].tolist() == [81, 81, 0]
    assert slides[["cc", "l1"]].isna().all(axis=1).tolist() == [False, False, True]
    assert found["l1"] == pytest.approx(slides["l1"].iloc[:2].mean())
    assert found["intervals"].loc["cc", "n_units"] == 2
    assert list(found["groups"].index) == ["P0", "P1", "P2"]


def test_only_types_that_all_cohorts_have_are_predicted(adata, caplog):
    adata.obsm["q05_cell_abundance_w_sf"].iloc[:81, 1] = np.nan
    found = fast(adata, target="proportion")
    assert list(adata.obsm["decomposition"].columns) == ["T cells", "tumour", "stroma"]
    assert list(found["types_left_out"]) == ["B cells"]
    assert "left out: ['B cells']" in caplog.text
    adata.obsm["q05_cell_abundance_w_sf"].iloc[:81, :3] = np.nan
    adata.obsm["q05_cell_abundance_w_sf"].iloc[81:, 3] = np.nan
    with pytest.raises(ValueError, match=r"Fewer than two cell types .*P0: \['stroma'\]; P1: \['T cells', "):
        fast(adata)


def test_sections_of_different_patients_may_have_the_same_name(adata):
    adata.obs["section"] = np.tile(np.repeat(["1", "2"], [40, 41]), 3)
    found = fast(adata, slides="section")
    assert list(found["slides"].index) == [f"P{p}: {s}" for p in range(3) for s in "12"]
    assert list(found["slides"]["section"]) == list("121212")


@pytest.mark.parametrize("name", ["Stereoscope", "rctd_weights", "cell_types"])
def test_tools_are_known_by_the_names_of_their_results(adata, name):
    values = adata.obsm.pop("q05_cell_abundance_w_sf").to_numpy()
    adata.obsm[name] = values / values.sum(axis=1, keepdims=True)
    assert fast(adata, target="proportion")["truth"] == name
    assert list(adata.obsm["decomposition"].columns) == ["type_0", "type_1", "type_2", "type_3"]


def test_means_of_cell2location_stand_back_and_slashes_become_lines(adata):
    adata.obsm["means_cell_abundance_w_sf"] = adata.obsm["q05_cell_abundance_w_sf"] * 2
    adata.obsm["q05_cell_abundance_w_sf"].columns = ["T/NK", *adata.obsm["q05_cell_abundance_w_sf"].columns[1:]]
    assert fast(adata)["truth"] == "q05_cell_abundance_w_sf"
    assert list(adata.obsm["decomposition"].columns) == ["T_NK", *TYPES[1:]]


def test_a_row_that_lacks_a_type_is_left_out_like_one_of_nan(adata):
    table = adata.obsm["q05_cell_abundance_w_sf"]
    adata.obsm["q05_cell_abundance_w_sf"] = table.div(table.sum(axis=1), axis=0)
    adata.obsm["q05_cell_abundance_w_sf"].iloc[[3, 7], 0] = np.nan  # the others do not sum to one
    found = fast(adata, target="proportion")
    assert found["n_no_truth"] == 2
    assert adata.obsm["decomposition"].notna().all(axis=None)


def test_a_spot_without_coordinates_is_said(adata, caplog):
    adata.obsm["spatial"][5] = np.nan
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        found = fast(adata)
    assert "1 of 243 spots have no coordinates" in caplog.text
    assert found["colocalization"].isna().all(axis=None)


def test_sections_that_lie_on_one_another_are_asked_for(adata):
    adata.obs["section"] = adata.obs["patient"]
    adata.obs["patient"] = ["P0"] * 81 + ["P1"] * 162
    with pytest.raises(ValueError, match="Most spots of 'P1' share their place .* as `slides=`"):
        fast(adata)
    assert list(fast(adata, slides="section")["slides"].index) == ["P0", "P1", "P2"]


def test_training_does_not_stop_on_so_many_spots_that_too_few_are_left(adata):
    adata.obs["section"] = adata.obs["patient"]
    adata.obs["patient"] = ["lonely"] + adata.obs["patient"].tolist()[1:81] + ["rest"] * 162
    for rng in range(3):
        found = fast(adata, rng=rng, slides="section")
        assert found["groups"].loc[["P0", "rest"], "stopped_on"].tolist() == ["group lonely"] * 2


def broken(**change):
    def make(adata):
        for name, value in change.items():
            getattr(adata, name.split("__")[0])[name.split("__")[1]] = value(adata)
        return adata

    return make


def shares(adata):
    table = adata.obsm["q05_cell_abundance_w_sf"]
    table = table.div(table.sum(axis=1), axis=0)
    table.iloc[[3, 7]] *= 1.5
    return table


@pytest.mark.parametrize(
    ("change", "how", "says"),
    [
        (
            broken(obsm__q05_cell_abundance_w_sf=shares),
            {"target": "proportion"},
            r"2 of 243 rows .* \['s3 \(1.5\)', 's7",
        ),
        (broken(obsm__X_lemon=lambda a: np.zeros((a.n_obs, 3))), {}, "None of the 3 features varies"),
        (broken(obsm__X_lemon=lambda a: np.full((a.n_obs, 3), np.nan)), {}, r"No spot has all .* 0 obsm\['X_lemon'\]"),
        (broken(obs__patient=lambda a: ["P0"] * a.n_obs), {}, r"at least two patients.* got \['P0'\]"),
        (broken(obs__in_tissue=lambda a: np.zeros(a.n_obs)), {}, "0 tissue"),
        (broken(obsm__q05_cell_abundance_w_sf=lambda a: -a.obsm["pooled"]), {}, "must not be negative"),
        (broken(obsm__q05_cell_abundance_w_sf=lambda a: a.obsm["pooled"][:, :1]), {}, "two or more cell types"),
        (broken(obsm__rctd=lambda a: np.ones((a.n_obs, 2))), {}, "`truth` must say which"),
        (broken(), {"target": "share"}, "`target` must be one of"),
        (broken(), {"use_rep": []}, "`use_rep` must be a key"),
        (broken(), {"use_rep": "rctd", "truth": "rctd"}, "not found"),
        (broken(), {"key_added": "X_lemon"}, "`key_added` must not be the key of an input"),
        (broken(), {"use_rep": "q05_cell_abundance_w_sf"}, "must not hold the composition"),
        (broken(), {"groups": "patients"}, "Did you mean 'patient'"),
        (broken(), {"slides": 3}, "`slides` must be the name of a column"),
        (broken(), {"protocol": "small"}, "`protocol` must be a `lm.tl.DecompositionProtocol`"),
        (broken(obs__in_tissue=lambda a: ["yes"] * a.n_obs), {}, r"must hold 1 for spots on tissue .* got \['yes'\]"),
        (
            broken(
                obs__section=lambda a: a.obs["patient"],
                obs__patient=lambda a: ["P0"] + ["P1"] * (a.n_obs - 1),
            ),
            {"slides": "section"},
            "To predict 'P1', 1 spots of other groups",
        ),
    ],
)
def test_bad_input(adata, change, how, says):
    adata = change(adata)
    with pytest.raises((ValueError, MissingKeyError), match=says):
        fast(adata, **how)
    assert "decomposition" not in adata.obsm
    assert "lemon_sc" not in adata.uns


def test_a_table_without_compositions_says_where_they_belong(adata):
    del adata.obsm["q05_cell_abundance_w_sf"]
    with pytest.raises(MissingKeyError, match="Store a deconvolution there under its tool's name"):
        fast(adata)
