from __future__ import annotations

import numpy as np
import pytest

from lemon_sc.analysis.knn import knn_graph
from lemon_sc.analysis.local_moran import QUADRANTS, local_morans_i
from lemon_sc.analysis.moran import morans_i


@pytest.fixture
def field():
    """A patch of high expression in the corner of noise, and one low cell within the patch."""
    r = np.random.default_rng(0)
    xy = r.uniform(size=(400, 2))
    inside = np.flatnonzero((xy < 0.3).all(axis=1))
    x = r.normal(0, 0.3, 400)
    x[inside] += 3
    odd = inside[np.argmin(np.abs(xy[inside] - 0.15).max(axis=1))]
    x[odd] = -1
    return knn_graph(xy, k=8), x, inside, odd


def test_sums_to_the_global_statistic_and_follows_the_definition(field):
    w, x, *_ = field
    local = local_morans_i(w, x, rng=np.random.default_rng(0))
    assert local.I.sum() == pytest.approx(399 * morans_i(w, x[:, None], rng=np.random.default_rng(0)).I[0])
    z = x - x.mean()
    np.testing.assert_allclose(local.I, 399 * z * (w.toarray() @ z) / (z @ z), rtol=1e-9)


def test_finds_the_patch_and_its_odd_cell(field):
    w, x, inside, odd = field
    local = local_morans_i(w, x, rng=np.random.default_rng(0))
    names = np.array(QUADRANTS)[local.quadrant]
    assert names[odd] == "low-high"
    assert local.I[odd] < 0
    patch = np.setdiff1d(inside, odd)
    assert (names[patch] == "high-high").all()
    assert (local.pvalue[patch] <= 0.01).mean() > 0.9


def test_permutations_agree_with_the_closed_form():
    r = np.random.default_rng(1)
    w, x = knn_graph(r.uniform(size=(300, 2)), k=8), r.standard_normal(300)
    closed = local_morans_i(w, x, rng=r)
    first, second = (local_morans_i(w, x, rng=np.random.default_rng(0), n_perms=999) for _ in range(2))
    assert (first.pvalue == second.pvalue).all()
    assert np.abs(first.pvalue - closed.pvalue).max() < 0.06
    assert first.pvalue.min() == pytest.approx(0.001, abs=0.005)


def test_constant_variable_is_an_error(field):
    with pytest.raises(ValueError, match="constant variable"):
        local_morans_i(field[0], np.full(400, 0.1), rng=np.random.default_rng(0), n_perms=9)
