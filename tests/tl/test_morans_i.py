from __future__ import annotations

import anndata as ad
import esda
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from libpysal.weights import WSP
from scipy import sparse, stats
from sklearn.neighbors import kneighbors_graph
from spatialdata.models import TableModel

from lemon_sc._core.errors import MissingKeyError
from lemon_sc.analysis.moran import row_normalise
from lemon_sc.tl._morans_i import local_morans_i, morans_i


def make(n=300, n_noise=0):
    """`marker` follows the embedding, `place` follows the position, `constant` nothing."""
    r = np.random.default_rng(0)
    embedding, xy = r.standard_normal((n, 8)), r.uniform(0, 100, (n, 2))
    x = np.column_stack(
        [
            embedding[:, 0] + 0.5 * r.standard_normal(n),
            np.sin(xy[:, 0] / 10),
            np.full(n, 0.1),
            r.standard_normal(n),
            *r.standard_normal((n_noise, n)),
        ]
    )
    adata = ad.AnnData(x.astype(np.float32), obsm={"X_lemon": embedding.astype(np.float32), "spatial": xy})
    adata.obs_names = [f"c{i}" for i in range(n)]
    adata.var_names = ["marker", "place", "constant", "NegControlProbe_1", *(f"noise{i}" for i in range(n_noise))]
    g = kneighbors_graph(xy, 6)
    adata.obsp["spatial_connectivities"] = sparse.csr_matrix(((g + g.T) > 0).astype(float))
    adata.obsp["spatial_distances"] = kneighbors_graph(xy, 6, mode="distance")
    return adata


def record(adata, key="moranI"):
    return adata.uns["lemon_sc"]["moranI"][key]


def test_each_graph_finds_its_gene_and_controls_are_left_out():
    adata = make()
    assert morans_i(adata, n_perms=99) is None
    morans_i(adata, connectivity_key="spatial_connectivities", key_added="place")
    on_manifold, in_space = adata.uns["moranI"], adata.uns["place"]
    assert set(on_manifold.index) == {"marker", "place", "constant"}
    assert on_manifold.index[0] == "marker"
    assert on_manifold.loc["marker", "pval_sim"] == 0.01
    assert on_manifold.loc["marker", "pval_norm"] < 1e-6 < 0.01 < on_manifold.loc["place", "pval_norm"]
    assert in_space.index[0] == "place"
    assert in_space.loc["place", "I"] > 0.8
    assert in_space.index[-1] == "constant"
    assert (record(adata)["use_rep"], record(adata)["n_neighbors"], record(adata)["n_constant"]) == ("X_lemon", 15, 1)
    assert record(adata, "place")["connectivity_key"] == "spatial_connectivities"


def test_noise_genes_fire_at_the_nominal_rate():
    adata = make(n_noise=400)
    morans_i(adata, n_perms=99)
    noise = adata.uns["moranI"].filter(like="noise", axis=0)
    low, high = stats.binom.ppf([0.0005, 0.9995], 400, 0.05)
    for column in ("pval_sim", "pval_norm", "pval_rand"):
        assert low <= (noise[column] <= 0.05).sum() <= high


def test_columns_and_values_are_those_of_squidpy_on_its_graph():
    sq = pytest.importorskip("squidpy")
    adata = make()
    genes = ["marker", "place"]
    morans_i(adata, connectivity_key="spatial_connectivities", genes=genes, n_perms=19)
    ours = adata.uns["moranI"]
    theirs = sq.gr.spatial_autocorr(adata, genes=genes, n_perms=19, copy=True, show_progress_bar=False, n_jobs=1)
    assert [c for c in ours if "rand" not in c] == list(theirs)
    assert list(ours.index) == list(theirs.index)
    np.testing.assert_allclose(ours["I"], theirs["I"], atol=1e-5)
    np.testing.assert_allclose(ours["var_norm"], theirs["var_norm"], rtol=1e-5)


def test_scanpy_counts_the_cell_itself_takes_columns_as_they_are_and_weighs_edges():
    """What docs say of the graphs of scanpy and of `use_rep`, and where the two meet."""
    sc = pytest.importorskip("scanpy")
    adata = make()
    z = adata.obsm["X_lemon"] = adata.obsm["X_lemon"] * np.arange(1, 9, dtype=np.float32)
    adata.obsm["X_z"] = (z - z.mean(axis=0)) / z.std(axis=0)
    morans_i(adata, use_rep="X_lemon", genes="marker", key_added="ours")
    for rep in ("X_lemon", "X_z"):
        for n in (15, 16):
            sc.pp.neighbors(adata, use_rep=rep, n_neighbors=n, key_added="g")
            nearest = adata.obsp["g_distances"] > 0
            assert set(np.diff(nearest.indptr)) == {n - 1}
            adata.obsp[f"{rep}_{n}"] = nearest.astype(float)
    both_ways = adata.obsp["g_connectivities"]
    assert (both_ways != both_ways.T).nnz == 0
    assert len(np.unique(both_ways.data)) > 100
    found = {}
    for graph in ("X_z_16", "X_z_15", "X_lemon_16", "g_connectivities"):
        morans_i(adata, connectivity_key=graph, genes="marker", key_added="theirs")
        found[graph] = adata.uns["theirs"].loc["marker", "I"]
    ours = adata.uns["ours"].loc["marker", "I"]
    assert found.pop("X_z_16") == pytest.approx(ours, abs=1e-9)
    assert all(abs(other - ours) > 1e-5 for other in found.values()), found


def test_stored_graph_is_row_normalised_without_diagonal_and_kept_as_it_was():
    adata = make()
    graph = adata.obsp["spatial_connectivities"].copy()
    graph.setdiag(3)
    adata.obsp["lemon_connectivities"] = graph.copy()
    morans_i(adata, connectivity_key="lemon_connectivities", genes="marker", two_tailed=True)
    expected = esda.Moran(
        adata[:, "marker"].X.ravel().astype(float),
        WSP(row_normalise(make().obsp["spatial_connectivities"])).to_W(silence_warnings=True),
        transformation="O",
        permutations=0,
    )
    row = adata.uns["moranI"].loc["marker"]
    assert row["I"] == pytest.approx(expected.I, abs=1e-6)
    assert row["pval_norm"] == pytest.approx(expected.p_norm, rel=1e-4)
    assert row["pval_rand"] == pytest.approx(expected.p_rand, rel=1e-4)
    assert record(adata)["n_self_edges_ignored"] == 300
    assert (adata.obsp["lemon_connectivities"] != graph).nnz == 0


@pytest.mark.parametrize("as_matrix", [sparse.csr_matrix, sparse.csc_matrix])
def test_sparse_layer_equals_dense(as_matrix):
    adata = make()
    adata.layers["sparse"] = as_matrix(adata.X)
    morans_i(adata, n_perms=9)
    morans_i(adata, n_perms=9, layer="sparse", key_added="other")
    pd.testing.assert_frame_equal(adata.uns["moranI"], adata.uns["other"])
    assert record(adata, "other")["layer"] == "sparse"


def test_cells_without_embedding_are_left_out_and_counted():
    adata = make()
    part = adata[10:].copy()
    adata.obsm["X_lemon"][:10, 0] = np.nan
    for data in (adata, part):
        morans_i(data, n_perms=9)
    pd.testing.assert_frame_equal(adata.uns["moranI"], part.uns["moranI"])
    assert (record(adata)["n_cells"], record(adata)["n_left_out"]) == (290, 10)


def test_fdr_counts_defined_genes_only():
    adata = make(n_noise=20)
    morans_i(adata, n_perms=19)
    table = adata.uns["moranI"]
    assert table.loc["constant"].isna().all()
    rest = table.drop("constant")
    for p in ("pval_norm", "pval_rand", "pval_sim", "pval_z_sim"):
        np.testing.assert_allclose(rest[f"{p}_fdr_bh"], stats.false_discovery_control(rest[p]))


def test_local_columns_sum_to_the_global_value():
    adata = make()
    adata.obsm["X_lemon"][:10] = np.nan
    morans_i(adata, genes="marker")
    assert local_morans_i(adata, gene="marker") is None
    local = adata.obs["local_moranI_marker"]
    assert local.iloc[:10].isna().all()
    assert local.sum() == pytest.approx(289 * adata.uns["moranI"].loc["marker", "I"], rel=1e-5)
    assert adata.obs["local_moranI_marker_quadrant"].iloc[:10].isna().all()
    high = adata[10:].X[:, 0] > adata[10:].X[:, 0].mean()
    assert (adata.obs["local_moranI_marker_quadrant"].iloc[10:].str.startswith("high") == high).all()
    assert adata.obs["local_moranI_marker_pval"].iloc[10:].between(0, 0.5).all()
    made = adata.uns["lemon_sc"]["local_moranI"]["local_moranI_marker"]
    assert (made["gene"], made["n_left_out"], made["n_perms"]) == ("marker", 10, 0)


def test_survives_h5ad_and_spatialdata(tmp_path):
    adata = make()
    adata.obs["region"] = pd.Categorical(["r"] * adata.n_obs)
    adata.obs["cell"] = np.arange(adata.n_obs)
    morans_i(adata, n_perms=9)
    morans_i(adata, connectivity_key="spatial_connectivities", key_added="space.I", rng=np.random.default_rng(0))
    local_morans_i(adata, gene="marker")
    adata.write_h5ad(tmp_path / "a.h5ad")
    table = TableModel.parse(adata.copy(), region="r", region_key="region", instance_key="cell")
    sd.SpatialData(tables={"table": table}).write(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), sd.read_zarr(tmp_path / "a.zarr")["table"]):
        for key in ("moranI", "space.I"):
            pd.testing.assert_frame_equal(back.uns[key], adata.uns[key], check_index_type=False)
            assert record(back, key) == record(adata, key)
        assert list(back.obs["local_moranI_marker_quadrant"]) == list(adata.obs["local_moranI_marker_quadrant"])


BAD = [
    ({"use_rep": "X_lemn"}, MissingKeyError, r"not found in `adata.obsm`.*Did you mean 'X_lemon'"),
    ({"use_rep": "X_lemon", "connectivity_key": "spatial_connectivities"}, ValueError, "not both"),
    ({"connectivity_key": "spatial_conectivities"}, MissingKeyError, r"`adata.obsp`.*Did you mean 'spatial_conn"),
    ({"connectivity_key": "spatial_distances"}, ValueError, "similarities.*Did you mean 'spatial_connectivities'"),
    ({"connectivity_key": "negative"}, ValueError, "finite weights >= 0"),
    ({"connectivity_key": "empty"}, ValueError, "no edges"),
    ({"genes": "markr"}, MissingKeyError, r"`adata.var_names`.*Did you mean 'marker'"),
    ({"layer": "nope"}, MissingKeyError, "`adata.layers`"),
    ({"layer": "holes"}, ValueError, "Expression must be finite"),
    ({"use_rep": "gone"}, ValueError, r"No row of `adata.obsm\['gone'\]`"),
    ({"use_rep": "few"}, ValueError, "15 nearest neighbours needs more than 15 cells, but only 10 have an embedding"),
    ({"use_rep": "same"}, ValueError, "the same for all 300 cells"),
    ({"n_perms": 0}, ValueError, "`n_perms` must be None or an int >= 1, got 0"),
    ({"n_perms": 2.5}, ValueError, "`n_perms` must be None or an int >= 1, got 2.5"),
    ({"n_perms": True}, ValueError, "`n_perms` must be None or an int >= 1, got True"),
    ({"key_added": "a/b"}, ValueError, "`key_added` must hold only"),
    ({"rng": 0.5}, ValueError, "`rng` must be an int"),
]


def spoilt():
    adata = make()
    adata.obsp["negative"] = -adata.obsp["spatial_connectivities"]
    adata.obsp["empty"] = sparse.csr_matrix((300, 300))
    adata.obsm["gone"] = np.full((300, 2), np.nan)
    adata.obsm["same"] = np.ones((300, 2))
    adata.obsm["few"] = np.where(np.arange(300)[:, None] < 10, adata.obsm["spatial"], np.nan)
    adata.layers["holes"] = adata.X.copy()
    adata.layers["holes"][3, 1] = np.inf
    return adata


@pytest.mark.parametrize(("arguments", "error", "match"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input_says_so_and_changes_nothing(arguments, error, match):
    adata = spoilt()
    with pytest.raises(error, match=match):
        morans_i(adata, **arguments)
    assert not adata.uns


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"gene": "markr"}, MissingKeyError, "Did you mean 'marker'"),
        ({"gene": "constant"}, ValueError, "constant variable"),
        ({"gene": "A/B"}, ValueError, "`key_added` must hold only.*local_moranI_A/B"),
        ({"gene": "marker", "n_perms": 0}, ValueError, "`n_perms` must be None or an int >= 1"),
        ({"gene": "marker", "connectivity_key": "spatial_distances"}, ValueError, "similarities"),
        ({"gene": "marker", "connectivity_key": "empty"}, ValueError, "no edges"),
    ],
)
def test_bad_input_of_local(arguments, error, match):
    adata = spoilt()
    with pytest.raises(error, match=match):
        local_morans_i(adata, **arguments)
    assert not adata.uns
    assert adata.obs.empty
