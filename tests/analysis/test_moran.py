from __future__ import annotations

import esda
import numpy as np
import pandas as pd
import pytest
from libpysal.weights import WSP
from scipy import sparse, stats

from lemon_sc.analysis import moran


def random_graph(n, *, seed, symmetric=False, weighted=True, normalise=False):
    r = np.random.default_rng(seed)
    w = sparse.random(n, n, density=0.08, random_state=r, format="lil")
    w.setdiag(0)
    w[np.arange(n), (np.arange(n) + 1) % n] = 0.5  # nobody is alone: pysal wants neighbours
    w = sparse.csr_matrix(w)
    w = sparse.csr_matrix(w + w.T) if symmetric else w
    if not weighted:
        w.data[:] = 1
    return moran.row_normalise(w) if normalise else w


def run(w, x, **kwargs):
    return moran.morans_i(w, x, rng=np.random.default_rng(0), **kwargs)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_equals_esda(symmetric, weighted, normalise):
    w = random_graph(80, seed=1, symmetric=symmetric, weighted=weighted, normalise=normalise)
    r = np.random.default_rng(2)
    x = np.column_stack([r.standard_normal(80), r.exponential(size=80) ** 2, w @ r.standard_normal(80)])
    result = run(w, x, two_tailed=True)
    one_sided = run(w, x)
    pysal = WSP(w).to_W(silence_warnings=True)
    for g in range(3):
        expected = esda.Moran(x[:, g], pysal, transformation="R" if normalise else "O", permutations=0)
        assert result.I[g] == pytest.approx(expected.I, abs=1e-9)
        assert result.expected == pytest.approx(expected.EI)
        assert result.var_norm[g] == pytest.approx(expected.VI_norm, rel=1e-8)
        assert result.var_rand[g] == pytest.approx(expected.VI_rand, rel=1e-8)
        assert result.pvalue_norm[g] == pytest.approx(expected.p_norm, rel=1e-5)
        assert result.pvalue_rand[g] == pytest.approx(expected.p_rand, rel=1e-5)
        assert one_sided.pvalue_norm[g] == pytest.approx(stats.norm.sf(expected.z_norm), rel=1e-5)
        assert one_sided.pvalue_rand[g] == pytest.approx(stats.norm.sf(expected.z_rand), rel=1e-5)


def test_chain_of_alternating_signs_is_minus_one():
    n = 20
    w = sparse.diags([np.ones(n - 1)] * 2, [-1, 1], format="csr")
    assert pytest.approx(-1) == run(w, np.array([[(-1.0) ** i] for i in range(n)])).I


def test_two_cliques_of_opposite_sign_are_one():
    clique = np.ones((10, 10)) - np.eye(10)
    w = moran.row_normalise(sparse.csr_matrix(sparse.block_diag([clique, clique])))
    x = np.repeat([[1.0], [-1]], 10, axis=0)
    assert pytest.approx(1, abs=1e-12) == run(w, x).I


def test_noise_has_the_expected_mean_and_the_predicted_variance():
    w = random_graph(60, seed=3, normalise=True)
    x = np.random.default_rng(4).standard_normal((60, 20_000))
    result = run(w, x)
    assert result.I.mean() == pytest.approx(-1 / 59, abs=4 * result.I.std() / np.sqrt(20_000))
    assert result.I.var() == pytest.approx(result.var_norm[0], rel=0.05)
    assert (result.pvalue_norm <= 0.05).mean() == pytest.approx(0.05, abs=0.01)


def test_permutations_have_the_variance_of_randomisation():
    w = random_graph(60, seed=3)
    x = np.random.default_rng(4).exponential(size=(60, 1)) ** 3  # heavy tail: normality would be wrong
    result = run(w, x, n_perms=4000)
    assert result.simulated.var == pytest.approx(result.var_rand, rel=0.1)
    assert result.simulated.mean == pytest.approx(-1 / 59, abs=0.01)
    assert abs(result.var_rand[0] / result.var_norm[0] - 1) > 0.1


@pytest.fixture
def noise():
    """400 variables of noise on a symmetric graph of 6 neighbours in the plane."""
    from sklearn.neighbors import kneighbors_graph

    r = np.random.default_rng(0)
    g = kneighbors_graph(r.uniform(size=(1000, 2)), 6)
    return sparse.csr_matrix(((g + g.T) > 0).astype(np.float64)), r.standard_normal((1000, 400))


def test_permutation_test_of_noise_fires_at_its_level(noise):
    graph, x = noise
    p = run(moran.row_normalise(graph), x, n_perms=199).simulated.pvalue
    low, high = stats.binom.ppf([0.0005, 0.9995], 400, 0.05)
    assert low <= (p <= 0.05).sum() <= high
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_shuffling_graph_rows_only_fires_far_above_its_level(noise):
    """The scheme of squidpy, on the same noise: why it is not ours."""
    sq = pytest.importorskip("squidpy")
    anndata = pytest.importorskip("anndata")
    graph, x = noise[0], noise[1][:, :150]
    adata = anndata.AnnData(x, obsp={"spatial_connectivities": graph})
    table = sq.gr.spatial_autocorr(adata, n_perms=99, seed=0, copy=True, show_progress_bar=False, n_jobs=1)
    assert (table["pval_sim"] <= 0.05).mean() > 0.10
    ours = run(moran.row_normalise(graph), x)
    table = table.loc[adata.var_names]
    np.testing.assert_allclose(table["I"], ours.I, atol=1e-5)
    np.testing.assert_allclose(table["var_norm"], ours.var_norm, rtol=1e-5)
    up = ours.expected < ours.I
    np.testing.assert_allclose(table["pval_norm"][up], ours.pvalue_norm[up], rtol=1e-4)


def test_blocks_and_sparsity_change_nothing(monkeypatch):
    w = random_graph(50, seed=5, normalise=True)
    x = np.random.default_rng(1).poisson(0.5, (50, 11)).astype(np.float32)
    whole = run(w, x, n_perms=20)
    monkeypatch.setattr(moran, "_BLOCK_BYTES", 3 * 8 * 50)
    for other in (x, sparse.csr_matrix(x), sparse.csc_matrix(x)):
        result = run(w, other, n_perms=20)
        np.testing.assert_allclose(result.I, whole.I, rtol=1e-12)
        np.testing.assert_allclose(result.simulated.pvalue, whole.simulated.pvalue)
        np.testing.assert_allclose(result.simulated.var, whole.simulated.var, rtol=1e-9)


def test_small_pvalue_and_both_tails():
    w = moran.row_normalise(sparse.diags([np.ones(29)] * 2, [-1, 1], format="csr"))
    x = np.column_stack([np.arange(30.0), (-1.0) ** np.arange(30)])
    upper, both = run(w, x, n_perms=99), run(w, x, n_perms=99, two_tailed=True)
    assert upper.simulated.pvalue.tolist() == [0.01, 1.0]
    assert both.simulated.pvalue.tolist() == [0.02, 0.02]
    assert (upper.pvalue_norm[1], upper.simulated.pvalue_z[1]) == pytest.approx((1, 1), abs=1e-5)
    assert (both.pvalue_norm < 1e-4).all()


def test_ties_count_as_reached():
    """One cell expresses the gene: on a ring every placement gives the same I, so p must be 1, not rounding."""
    n = 41
    rows = np.arange(n)
    ring = sparse.csr_matrix(np.roll(np.eye(n), 1, axis=0) / 2 + np.roll(np.eye(n), -1, axis=0) / 2)
    result = run(ring, 0.7 * (rows == 0)[:, None], n_perms=99)
    assert result.simulated.pvalue == 1
    assert np.isnan([result.pvalue_rand, result.simulated.pvalue_z]).all()  # there is no spread to compare with


def test_constant_columns_are_nan():
    w = random_graph(50, seed=5, normalise=True)
    x = np.column_stack([np.full(50, 0.1), np.zeros(50), np.arange(50)]).astype(np.float32)
    result = run(w, x, n_perms=9)
    for values in (result.I, result.var_norm, result.var_rand, result.pvalue_norm, result.simulated.pvalue):
        assert np.isnan(values).tolist() == [True, True, False]


def test_benjamini_hochberg_leaves_nan_out():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    got = moran.benjamini_hochberg(p)
    assert np.isnan(got[1])
    np.testing.assert_allclose(got[[0, 2, 3, 4]], multitest.multipletests(p[[0, 2, 3, 4]], method="fdr_bh")[1])
    assert np.isnan(moran.benjamini_hochberg(np.array([np.nan]))).all()


def test_weight_sums_against_the_definition():
    w = random_graph(30, seed=7)
    d = w.toarray()
    expected = d.sum(), 0.5 * ((d + d.T) ** 2).sum(), ((d.sum(0) + d.sum(1)) ** 2).sum()
    assert moran.weight_sums(w) == pytest.approx(expected)


def test_row_normalise_keeps_the_input_and_empty_rows():
    w = sparse.csr_matrix(np.array([[0.0, 2, 6], [0, 0, 0], [1, 0, 0]]))
    assert pd.DataFrame(moran.row_normalise(w).toarray()).to_numpy().tolist() == [[0, 0.25, 0.75], [0] * 3, [1, 0, 0]]
    assert w.data.tolist() == [2, 6, 1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_perms": -1}, "`n_perms` must be an int >= 0"),
        ({"x": np.ones((3, 1))}, "at least 4 cells, got 3"),
        ({"w": sparse.identity(9, format="csr")}, r"must be \(10, 10\).*got \(9, 9\)"),
        ({"w": -sparse.identity(10, format="csr")}, "finite weights >= 0"),
        ({"w": sparse.csr_matrix((10, 10))}, "no edges"),
    ],
)
def test_bad_input(change, match):
    arguments = {"w": sparse.identity(10, format="csr"), "x": np.arange(10.0)[:, None]} | change
    with pytest.raises(ValueError, match=match):
        run(**arguments)
