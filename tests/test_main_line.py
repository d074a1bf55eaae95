"""The main line, from disk to numbers, against what was planted."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import lemon_sc as lm
from lemon_sc.report import analyse
from lemon_sc.truth import PLANTED, against_truth, planted_genes


@pytest.fixture(scope="module")
def analysed():
    """A phantom after the main line."""
    sdata = lm.datasets.phantom(n_cells=2000, rng=1)
    analyse(sdata, target=planted_genes(sdata["table"]))
    return sdata


def pcc_of(adata, kind):
    genes = adata.var_names[adata.var["truth"] == kind]
    return adata.uns["lemon_sc"]["probe"]["probe"]["summary"].loc[genes, "pcc"]


def test_geometry_is_the_planted_one(analysed):
    adata = analysed["table"]
    record, made = adata.uns["lemon_sc"]["nuclei"], adata.uns["lemon_sc"]["phantom"]
    assert np.mean(record["mpp"]) == pytest.approx(made["mpp"], rel=0.01)
    assert record["mirrored"]
    ok = (adata.obs["nucleus_qc"] == "ok").to_numpy()
    assert np.abs(adata.obsm["nucleus_xy"] - adata.obsm["truth_xy"])[ok].max() < 0.1
    assert (adata.obs["nucleus_qc"] == "no_nucleus").sum() == adata.obs["truth_area_um2"].isna().sum()
    assert set(adata.obs["nucleus_qc"]) >= {"ok", "border", "outside_image", "no_nucleus"}


def test_a_gene_that_follows_morphology_is_predicted_and_noise_is_not(analysed):
    adata = analysed["table"]
    assert pcc_of(adata, "morphology").loc[["AREA1", "CHROM1"]].min() > 0.5
    noise = pcc_of(adata, "noise")
    assert abs(noise.median()) < 0.05
    assert abs(noise["NOISE1"]) < 0.05
    n = int((adata.obs["nucleus_qc"] == "ok").sum())
    assert noise.abs().max() < 4 / np.sqrt(n)
    order = pcc_of(adata, "morphology").loc[["AREA1", "AREA2", "AREA3", "AREA4"]]
    assert order.is_monotonic_decreasing, "planted strength .95, .85, .70, .50"


def test_morans_i_finds_what_follows_morphology_and_fires_at_its_rate_on_noise(analysed):
    adata = analysed["table"]
    moran, kind = adata.uns["moranI"], adata.var["truth"]
    for pval in ("pval_norm", "pval_sim"):
        assert (moran.loc[kind.index[kind == "marker"], pval] < 0.05).all()
        assert (moran.loc[kind.index[kind == "morphology"], pval] < 0.05).all()
        assert (moran.loc[kind.index[kind == "noise"], pval] < 0.05).sum() <= 3  # 15 genes at 5 %: 4 or more in 0.5 %


def test_the_embedding_knows_the_types(analysed):
    """Nearest neighbours by morphology alone are of the same type far more often than by chance."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    adata = analysed["table"]
    ok = (adata.obs["nucleus_qc"] == "ok").to_numpy()
    z = StandardScaler().fit_transform(adata.obsm["X_lemon"][ok])
    kind = adata.obs["truth_type"].to_numpy()[ok]
    half = np.arange(len(z)) % 2 == 0
    score = KNeighborsClassifier(15).fit(z[half], kind[half]).score(z[~half], kind[~half])
    assert pd.Series(kind).value_counts(normalize=True).max() < 0.45, "what always naming the commonest type scores"
    assert score > 0.8


def test_the_annotated_object_round_trips(analysed, tmp_path):
    analysed.write(tmp_path / "s.zarr")
    analysed["table"].write_h5ad(tmp_path / "t.h5ad")
    before = analysed["table"]
    for after in (sd.read_zarr(tmp_path / "s.zarr")["table"], ad.read_h5ad(tmp_path / "t.h5ad")):
        np.testing.assert_array_equal(after.obsm["X_lemon"], before.obsm["X_lemon"])
        pd.testing.assert_frame_equal(after.uns["moranI"], before.uns["moranI"], check_index_type=False)
        for name in ("scores", "summary"):
            old = before.uns["lemon_sc"]["probe"]["probe"][name]
            new = after.uns["lemon_sc"]["probe"]["probe"][name]
            options = {"check_categorical": False, "check_dtype": False, "check_index_type": False}
            pd.testing.assert_frame_equal(new, old, **options)


def test_the_truth_table_holds_what_the_demo_claims(analysed):
    found = against_truth(analysed["table"]).set_index("quantity")["found"]
    assert found["nucleus centre, largest error in px"] < 0.1
    assert found["nuclear area, rank correlation with the true area"] > 0.9
    assert sum(k.startswith("probe") for k in found.index) == len(PLANTED)


@pytest.mark.parametrize("ids", ["string", "int"])
def test_from_files_as_from_memory(tmp_path, ids):
    """Written as a Xenium folder with OME-TIFF and alignment, read back, and cut: the same crops."""
    from spatialdata_io import xenium

    sdata = lm.datasets.phantom(n_cells=150, ids=ids)
    lm.pp.extract_nuclei(sdata, store="memory")
    lm.datasets.write_phantom(sdata, path=tmp_path / "outs")
    again = xenium(tmp_path / "outs")
    lm.pp.extract_nuclei(again, store="memory")
    old, new = sdata["table"], again["table"]
    at = pd.Index(old.obs["cell_id"].astype(str)).get_indexer(new.obs["cell_id"].astype(str))
    assert (at >= 0).all()
    assert new.obs["nucleus_qc"].tolist() == old.obs["nucleus_qc"].iloc[at].tolist()
    # outlines are stored as float32, which moves a centre by less than a phase of 1/512 px
    off = np.abs(new.obsm["nuclei"].astype(int) - old.obsm["nuclei"][at])
    assert off.max() <= 2
    assert (off > 0).mean() < 0.05
