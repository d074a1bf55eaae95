from __future__ import annotations

import esda
import numpy as np
import pandas as pd
import pytest
import torch
from libpysal.weights import WSP
from scipy import sparse, stats

from lemon_sc.analysis import moran, moran_sums


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


def mixed(n=50):
    """Counts of genes from rare to common, and a variable far from zero: some are taken sparse, some dense."""
    r = np.random.default_rng(1)
    x = r.poisson(np.linspace(0.02, 1.5, 11), (n, 11)).astype(np.float64)
    return np.column_stack([x, 1e4 + r.standard_normal(n), np.zeros(n)])


@pytest.mark.parametrize("share", [0, 0.25, 1])
@pytest.mark.parametrize("as_values", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_blocks_and_sparsity_change_nothing(monkeypatch, share, as_values):
    w, x = random_graph(50, seed=5, normalise=True), mixed()[:, :11].astype(np.float32)
    whole = run(w, x, n_perms=20)
    monkeypatch.setattr(moran, "_BLOCK_BYTES", 3 * 8 * 50)
    monkeypatch.setattr(moran, "_ROWS", 7)
    monkeypatch.setattr(moran, "_SPARSE", share)
    result = run(w, as_values(x), n_perms=20)
    np.testing.assert_allclose(result.I, whole.I, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(result.var_rand, whole.var_rand, rtol=1e-9)
    np.testing.assert_array_equal(result.simulated.pvalue, whole.simulated.pvalue)
    np.testing.assert_allclose(result.simulated.var, whole.simulated.var, rtol=1e-9)


def test_permutations_are_relabellings_by_the_stated_stream():
    """Against the definition, with dense matrices, for every permutation."""
    w, x = random_graph(50, seed=5), mixed()
    result = run(w, x, n_perms=30).simulated
    z = x - x.mean(axis=0)
    permuted = []
    for seed in np.random.default_rng(0).integers(2**63, size=30):
        p = np.random.default_rng(seed).permutation(50)
        permuted.append(50 / w.sum() * (z[p] * (w.toarray() @ z[p])).sum(axis=0)[:12] / (z * z).sum(axis=0)[:12])
    observed = 50 / w.sum() * (z * (w.toarray() @ z)).sum(axis=0)[:12] / (z * z).sum(axis=0)[:12]
    np.testing.assert_allclose(result.mean[:12], np.mean(permuted, axis=0), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(result.var[:12], np.var(permuted, axis=0), rtol=1e-8)
    np.testing.assert_allclose(result.pvalue[:12], (1 + (permuted >= observed - 1e-12).sum(axis=0)) / 31)
    assert np.isnan(result.pvalue[12])


def test_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(moran_sums, "_PART", 70)
    w, x = random_graph(2000, seed=5, normalise=True), sparse.random(2000, 9, 0.1, random_state=0, format="csr")
    both = np.column_stack([x.toarray(), np.random.default_rng(0).standard_normal((2000, 3))])
    before = torch.get_num_threads()
    try:
        results = []
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            results.append(run(w, both, n_perms=9))
    finally:
        torch.set_num_threads(before)
    for name in ("I", "pvalue_rand"):
        np.testing.assert_array_equal(getattr(results[0], name), getattr(results[1], name))
    np.testing.assert_array_equal(results[0].simulated.var, results[1].simulated.var)


def test_a_sparse_matrix_may_hold_entries_twice_and_in_any_order():
    w, x = random_graph(50, seed=5, normalise=True), sparse.csr_matrix(mixed()[:, :6])
    rows = np.repeat(np.arange(50), np.diff(x.indptr))
    order = np.random.default_rng(0).permutation(2 * x.nnz)
    twice = sparse.coo_matrix(
        (np.tile(x.data / 2, 2)[order], (np.tile(rows, 2)[order], np.tile(x.indices, 2)[order])), shape=x.shape
    )
    unsummed = sparse.csr_matrix(x.shape)
    unsummed.data, unsummed.indices = np.repeat(x.data / 2, 2), np.repeat(x.indices, 2)
    unsummed.indptr = 2 * x.indptr
    expected = run(w, x)
    for other in (twice, unsummed):
        result = run(w, other)
        np.testing.assert_allclose(result.I, expected.I, rtol=1e-12)
        np.testing.assert_allclose(result.var_rand, expected.var_rand, rtol=1e-12)
    assert unsummed.nnz == 2 * x.nnz  # the input stays as it was


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float16])
def test_types_that_overflow(dtype):
    w, x = random_graph(400, seed=5, normalise=True), np.random.default_rng(0).uniform(size=(400, 3)) < [0.1, 0.5, 0.9]
    expected = run(w, x.astype(np.float64), n_perms=9)
    result = run(w, x.astype(dtype), n_perms=9)
    np.testing.assert_allclose(result.I, expected.I, rtol=1e-12)
    np.testing.assert_array_equal(result.simulated.pvalue, expected.simulated.pvalue)


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
        ({"n_perms": -1}, "`n_perms` must be an int >= 0, got -1"),
        ({"n_perms": 2.5}, "`n_perms` must be an int >= 0, got 2.5"),
        ({"n_perms": True}, "`n_perms` must be an int >= 0, got True"),
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
