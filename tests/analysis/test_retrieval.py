"""Exact search by cosine against scikit-learn and a sort by brute force."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from lemon_sc.analysis import retrieval as module
from lemon_sc.analysis.enrichment import enrichment
from lemon_sc.analysis.retrieval import ranks, search


@pytest.fixture(params=[None, 50], ids=["one block", "many blocks"])
def blocks(request, monkeypatch):
    """Blocks of 50 rows, that is, many, or all rows in one."""
    if request.param:
        monkeypatch.setattr(module, "BLOCK_BYTES", {"cpu": request.param * 4 * 30})


def brute_force(x, q, k):
    """Cosines by scikit-learn, ordered by a stable sort."""
    score = cosine_similarity(q.astype(np.float64), x.astype(np.float64))
    index = np.argsort(-score, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(score, index, axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.usefixtures("blocks")
def test_hits_are_those_of_a_full_sort(dtype):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(700, 16)) * rng.gamma(1, 5, (700, 1)) + 3).astype(dtype)
    q = rng.normal(size=(7, 16))
    hits, (index, score) = search(x, q, k=60), brute_force(x, q, 60)
    np.testing.assert_array_equal(hits.index_MK, index)
    np.testing.assert_allclose(hits.score_MK, score, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-18, 1e-30, 1e-60])
@pytest.mark.usefixtures("blocks")
def test_short_rows_are_found_like_long_ones(scale):
    rng = np.random.default_rng(8)
    long = rng.normal(size=(200, 16))
    long[7] = 0
    x = long * np.where(np.arange(200) % 3, 1.0, scale)[:, None]
    q = np.concatenate([rng.normal(size=(4, 16)), long[[0, 3, 4]]])
    hits, (index, score) = search(x if scale < 1e-40 else x.astype(np.float32), q, k=60), brute_force(long, q, 60)
    np.testing.assert_array_equal(hits.index_MK, index)
    np.testing.assert_allclose(hits.score_MK, score, atol=1e-6)
    np.testing.assert_array_equal(ranks(x, q, index[:, 20]), 21)


@pytest.mark.usefixtures("blocks")
def test_what_float32_cannot_tell_apart_is_told_apart():
    """More rows than candidates lie closer together than the error of the product."""
    rng = np.random.default_rng(1)
    far = rng.permutation(300)
    x = np.column_stack([np.ones(300), 1e-5 * np.sqrt(1.0 + far), np.zeros(300)])
    hits = search(x, np.array([[1.0, 0.0, 0.0]]), k=5)
    np.testing.assert_array_equal(hits.index_MK[0], np.argsort(far)[:5])


@pytest.mark.usefixtures("blocks")
def test_of_equal_rows_the_lower_come_first():
    x = np.tile(np.random.default_rng(2).normal(size=(1, 8)), (400, 1)).astype(np.float32)
    x[:100] *= -1
    hits = search(x, -x[:3], k=30, own_M=np.array([110, -1, 129]))
    expected = [[*range(100, 110), *range(111, 131)], [*range(100, 130)], [*range(100, 129), 130]]
    np.testing.assert_array_equal(hits.index_MK, expected)


def test_rows_that_may_not_be_found_are_not_and_may_be_nan():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    rows = rng.random(200) < 0.5
    x[~rows] = np.nan
    at = np.flatnonzero(rows)
    hits = search(x, x[at[:4]], k=10, rows_N=rows, own_M=at[:4])
    index, _ = brute_force(x[at], x[at[:4]], 11)
    np.testing.assert_array_equal(hits.index_MK, at[index[:, 1:]])
    everything = search(x, x[at[:1]], k=len(at) - 1, rows_N=rows, own_M=at[:1])
    assert set(everything.index_MK[0]) == set(at[1:])


@pytest.mark.usefixtures("blocks")
def test_ranks_are_places_in_the_full_sort():
    rng = np.random.default_rng(4)
    x = rng.integers(-1, 2, (300, 3)).astype(np.float32)  # few distinct rows, zeros among them: many ties
    q = rng.normal(size=(50, 3))
    target = rng.integers(0, 300, 50)
    score = module._cosine(np.repeat(x[None], 50, axis=0).reshape(-1, 3), np.repeat(q, 300, axis=0)).reshape(50, 300)
    place = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)[np.arange(50), target] + 1
    np.testing.assert_array_equal(ranks(x, q, target), place)


def test_the_device_is_taken_and_the_setting_of_products_put_back(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "choose_device", lambda device, *, work: seen.append((device, work)) or "cpu")
    search(np.ones((4, 2)), np.ones((3, 2)), k=1, device="cuda:7")
    assert seen == [("cuda:7", 24.0)]
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_MD": np.ones((2, 4))}, "`query` must have 3 columns"),
        ({"query_MD": np.zeros((2, 3))}, "2 of 2 queries are zero or not finite"),
        ({"query_MD": np.full((1, 3), np.nan)}, "1 of 1 queries are zero or not finite"),
        ({"k": 0}, "`k` must be an int between 1 and 5"),
        ({"k": 6}, "`k` must be an int between 1 and 5"),
        ({"k": 5, "own_M": np.array([2])}, "between 1 and 4"),
        ({"x_ND": np.full((5, 3), np.nan)}, "must be finite"),
    ],
)
def test_what_cannot_be_searched_is_refused(change, message):
    given = {"x_ND": np.eye(5, 3), "query_MD": np.ones((1, 3)), "k": 2} | change
    with pytest.raises(ValueError, match=message):
        search(given.pop("x_ND"), given.pop("query_MD"), **given)


def test_a_target_that_may_not_be_found_has_no_rank():
    with pytest.raises(ValueError, match="must name rows that can be found"):
        ranks(np.eye(3), np.ones((1, 3)), np.array([1]), rows_N=np.array([True, False, True]))


def test_enrichment_of_what_was_planted_and_of_chance():
    rng = np.random.default_rng(5)
    values = rng.gamma(1, size=(500, 2))
    best = np.argsort(-values[:, 0])[:20]
    found = np.stack([best, rng.choice(500, 20, replace=False)])
    made = enrichment(values, found, n_perms=199, rng=0)
    np.testing.assert_allclose(made.mean_M, [values[best, 0].mean(), values[found[1], 1].mean()])
    np.testing.assert_allclose(made.fold_M, made.mean_M / values.mean(axis=0))
    assert made.pvalue_M[0] == 1 / 200
    assert made.pvalue_M[1] > 0.01
    assert ((made.low_M < values.mean(axis=0)) & (values.mean(axis=0) < made.high_M)).all()
    sd = values.std(axis=0, ddof=1) / np.sqrt(20) * np.sqrt(1 - 20 / 500)  # of a mean without replacement
    np.testing.assert_allclose((made.high_M - made.low_M) / (2 * 1.96), sd, rtol=0.15)


def test_p_values_of_random_finds_are_uniform():
    rng = np.random.default_rng(6)
    values = rng.normal(size=(300, 200)) ** 2
    found = np.stack([rng.choice(300, 10, replace=False) for _ in range(200)])
    p = enrichment(values, found, n_perms=99, rng=1).pvalue_M
    assert abs(p.mean() - 0.505) < 0.07  # sd of the mean of 200 uniform numbers: 0.02; the draws are shared
    assert 0.02 <= (p <= 0.1).mean() <= 0.2


def test_a_quantity_that_is_zero_everywhere_is_not_enriched():
    made = enrichment(np.zeros((30, 1)), np.arange(5)[None], n_perms=9, rng=0)
    assert np.isnan(made.fold_M[0])
    assert made.pvalue_M[0] == 1
    with pytest.raises(ValueError, match="`n_perms` must be an int >= 1"):
        enrichment(np.zeros((30, 1)), np.arange(5)[None], n_perms=0, rng=0)
