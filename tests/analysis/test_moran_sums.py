from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from lemon_sc.analysis.moran_sums import DenseValues, Pairs, SparseValues


@pytest.fixture
def graph():
    """Directed, weighted, with self-loops, pairs in both directions and cells without neighbours."""
    w = sparse.random(300, 300, 0.03, random_state=np.random.default_rng(0), format="lil")
    w[5] = 0
    w.setdiag(np.where(np.arange(300) % 3, 0, 0.7))
    return sparse.csr_matrix(w)


def definition(w, x):
    z = x - x.mean(axis=0)
    return len(x) / w.sum() * (z * (w.toarray() @ z)).sum(axis=0) / (z * z).sum(axis=0)


def test_pairs_hold_the_symmetric_part(graph):
    pairs = Pairs.of(graph)
    w = graph.toarray()
    upper = sparse.csr_matrix((pairs.weight_E, pairs.other_E, pairs.start_N), shape=w.shape).toarray()
    assert (upper == np.triu(upper)).all()
    np.testing.assert_allclose((upper + upper.T) / 2, (w + w.T) / 2, atol=1e-15)
    np.testing.assert_allclose(pairs.margin_N, w.sum(axis=0) + w.sum(axis=1))
    assert pairs.total == pytest.approx(w.sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("density", [0.02, 0.3])
def test_sparse_and_dense_follow_the_definition(graph, dtype, density):
    r = np.random.default_rng(1)
    x = (r.poisson(3, (300, 40)) * (r.uniform(size=(300, 40)) < density)).astype(dtype)
    x[0] = 1  # no constant column
    pairs = Pairs.of(graph)
    few, many = SparseValues.of(sparse.csc_matrix(x)), DenseValues.of(x)
    for order in (np.arange(300), r.permutation(300)):
        expected = definition(graph, x[order].astype(np.float64))
        np.testing.assert_allclose(few.statistic(pairs, order), expected, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(many.statistic(pairs, order), expected, rtol=1e-10, atol=1e-13)
    z = stats.zscore(x.astype(np.float64))
    np.testing.assert_allclose(few.kurtosis, (z**4).mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(many.kurtosis, (z**4).mean(axis=0), rtol=1e-10)


def test_constant_variables_are_nan_in_both_and_spoil_no_other(graph):
    x = np.column_stack([np.zeros(300), np.full(300, 0.1), np.arange(300) == 7]).astype(np.float32)
    pairs = Pairs.of(graph)
    for values in (SparseValues.of(sparse.csc_matrix(x)), DenseValues.of(x)):
        assert np.isnan(values.statistic(pairs, np.arange(300))).tolist() == [True, True, False]
        assert np.isnan(values.kurtosis).tolist() == [True, True, False]
