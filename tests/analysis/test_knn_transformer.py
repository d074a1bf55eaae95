from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse
from sklearn.base import clone
from sklearn.manifold import Isomap
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline

from lemon_sc.analysis import knn_transformer as module
from lemon_sc.analysis.knn_transformer import KNNTransformer


@pytest.fixture
def embedding():
    r = np.random.default_rng(0)
    x = np.tanh(r.standard_normal((600, 5)) @ r.standard_normal((5, 40))) + 0.1 * r.standard_normal((600, 40))
    return x.astype(np.float32)


def with_neighbors(x, **kwargs):
    adata = ad.AnnData(np.zeros((len(x), 1), np.float32), obsm={"X_lemon": x})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(adata, use_rep="X_lemon", **kwargs)
    return adata


@pytest.mark.parametrize("shift", [0, 100])
def test_scanpy_makes_the_graph_of_its_own_exact_search(embedding, shift):
    """In float64, as scanpy's search rounds distances of float32; ours does not, whatever the input."""
    x = (embedding + np.float32(shift)).astype(np.float32)
    ours = with_neighbors(x, transformer=KNNTransformer(n_neighbors=10))
    theirs = with_neighbors(x.astype(np.float64) - shift, n_neighbors=10)
    assert ours.uns["neighbors"]["params"]["n_neighbors"] == 10
    assert abs(ours.obsp["connectivities"] - theirs.obsp["connectivities"]).max() < 1e-6
    assert ours.obsp["connectivities"].nnz == theirs.obsp["connectivities"].nnz


@pytest.mark.parametrize("n_copies", [0, 30])
def test_matrix_is_that_of_scikit_learn(embedding, n_copies):
    x = np.concatenate([embedding, np.tile(embedding[:1], (n_copies, 1))]).astype(np.float64)
    ours = KNNTransformer(n_neighbors=7).fit_transform(x)
    theirs = KNeighborsTransformer(n_neighbors=7, algorithm="kd_tree").fit_transform(x)
    assert ours.shape == theirs.shape
    index, distance = ours.indices.reshape(len(x), 8), ours.data.reshape(len(x), 8)
    assert (index[:, 0] == np.arange(len(x))).all()
    assert (distance[:, 0] == 0).all()
    np.testing.assert_allclose(distance, theirs.data.reshape(len(x), 8), rtol=1e-12, atol=1e-12)
    if not n_copies:
        assert (index == theirs.indices.reshape(len(x), 8)).all()


def test_new_points_find_their_neighbours_among_the_cells(embedding):
    ours = KNNTransformer(n_neighbors=4).fit(embedding[:500]).transform(embedding[480:])
    theirs = KNeighborsTransformer(n_neighbors=4, algorithm="kd_tree").fit(embedding[:500].astype(np.float64))
    theirs = theirs.transform(embedding[480:].astype(np.float64))
    assert ours.shape == (120, 500)
    np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-12)
    assert (ours.indices == theirs.indices).all()


def test_is_an_estimator_of_scikit_learn(embedding):
    made = clone(KNNTransformer(n_neighbors=9, method="approximate", rng=3))
    assert made.get_params() == {"n_neighbors": 9, "method": "approximate", "device": "auto", "rng": 3}
    ours = make_pipeline(KNNTransformer(n_neighbors=12), Isomap(n_neighbors=12, metric="precomputed"))
    theirs = Isomap(n_neighbors=12)
    x = embedding[:100].astype(np.float64)
    np.testing.assert_allclose(np.abs(ours.fit_transform(x)), np.abs(theirs.fit_transform(x)), rtol=1e-6, atol=1e-9)


@pytest.mark.slow  # pynndescent compiles
def test_approximate_search_finds_nearly_all(embedding, monkeypatch):
    exact = KNNTransformer(n_neighbors=10).fit_transform(embedding).indices.reshape(600, 11)
    approximate = KNNTransformer(n_neighbors=10, method="approximate")
    assert (approximate.fit_transform(embedding).indices.reshape(600, 11) == exact).all()  # few cells: exact
    monkeypatch.setattr(module, "_SMALL", 100)
    first, second = (approximate.fit_transform(embedding) for _ in range(2))
    found = first.indices.reshape(600, 11)
    assert (found[:, 0] == np.arange(600)).all()
    assert all(len(set(row)) == 11 for row in found)
    assert np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]) > 0.97 * 11
    assert (first != second).nnz == 0
    new = approximate.fit(embedding[:500]).transform(embedding[500:]).indices.reshape(100, 11)
    wanted = KNNTransformer(n_neighbors=10).fit(embedding[:500]).transform(embedding[500:]).indices.reshape(100, 11)
    assert np.mean([len(np.intersect1d(a, b)) for a, b in zip(new, wanted, strict=True)]) > 0.97 * 11


def test_self_is_left_out_wherever_it_was_found():
    index = np.array([[0, 2, 1], [0, 1, 2], [0, 1, 3], [3, 0, 2]])
    others, distance = module._without_self(index, index / 10)
    assert others.tolist() == [[2, 1], [0, 2], [0, 1], [0, 2]]
    assert (distance == others / 10).all()
    with pytest.raises(ValueError, match='too few neighbours of 1 cells. Use `method="exact"`'):
        module._without_self(np.array([[0, 1], [1, -1]]), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n_neighbors": 0}, "`n_neighbors` must be an int between 1 and 29 for 30 cells, got 0"),
        ({"n_neighbors": 30}, "between 1 and 29"),
        ({"n_neighbors": True}, "between 1 and 29"),
        ({"method": "exakt"}, "`method` must be one of.*Did you mean 'exact'"),
        ({"device": "gpu"}, "`device` must be"),
    ],
)
def test_bad_parameters(embedding, arguments, match):
    with pytest.raises(ValueError, match=match):
        KNNTransformer(**arguments).fit_transform(embedding[:30])


def test_other_types_are_taken_as_floats(embedding):
    for dtype in (np.float16, np.int16):
        x = (10 * embedding).astype(dtype)
        ours = KNNTransformer(n_neighbors=3).fit_transform(x)
        expected = KNNTransformer(n_neighbors=3).fit_transform(x.astype(np.float64))
        assert (ours != expected).nnz == 0


def test_bad_values(embedding):
    holes = embedding.copy()
    holes[[2, 5], 0] = np.nan
    with pytest.raises(ValueError, match="2 of 600 rows are not.*Leave them out first"):
        KNNTransformer().fit(holes)
    with pytest.raises(TypeError, match="must be a dense array"):
        KNNTransformer().fit(sparse.csr_matrix(embedding))
    with pytest.raises(ValueError, match=r"numeric array \(cells, dimensions\), got <U1"):
        KNNTransformer().fit(np.array([["a"]]))
    with pytest.raises(ValueError, match="must have 40 columns"):
        KNNTransformer().fit(embedding).transform(embedding[:, :3])
    with pytest.raises(ValueError, match="`fit_params` must be empty"):
        KNNTransformer().fit_transform(embedding, weights=1)
