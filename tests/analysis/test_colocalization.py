"""Bivariate Moran's R against esda and against loops."""

import numpy as np
import pytest
from esda.moran import Moran_BV
from libpysal.weights import WSP
from scipy import sparse

from lemon_sc.analysis.colocalization import agreement, bivariate_morans, lattice_neighbours


def grid(side, *, step=200.0):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) * step


def hexagons(rows, columns):
    r, c = np.divmod(np.arange(rows * columns), columns)
    return np.column_stack([c + 0.5 * (r % 2), r * np.sqrt(3) / 2])


@pytest.mark.parametrize(("xy", "inside"), [(grid(7), 8), (hexagons(7, 7), 6)])
def test_neighbours_are_those_of_the_lattice(xy, inside):
    xy = xy + np.random.default_rng(0).normal(0, 0.02 * np.ptp(xy) / 7, xy.shape)
    w = lattice_neighbours(xy)
    assert (w != w.T).nnz == 0
    assert w.diagonal().sum() == 0
    assert np.asarray(w.sum(axis=1)).ravel()[3 * 7 + 3] == inside


def test_r_is_that_of_esda():
    x = np.random.default_rng(1).gamma(1.0, size=(49, 3))
    w = lattice_neighbours(grid(7))
    rows = sparse.diags(1 / np.asarray(w.sum(axis=1)).ravel()) @ w  # esda normalises rows; their sum is N as well
    made = bivariate_morans(rows, x)
    weights = WSP(sparse.csr_matrix(w)).to_W(silence_warnings=True)
    for a in range(3):
        for b in range(3):
            assert made[a, b] == pytest.approx(Moran_BV(x[:, a], x[:, b], weights, permutations=0).I)


def test_r_is_that_of_a_loop_with_weights_of_any_scale():
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(12, 3)), rng.random((12, 12))
    scaled = w * 12 / w.sum()
    z = x - x.mean(axis=0)
    for scale in (1.0, 37.0):
        made = bivariate_morans(sparse.csr_matrix(scale * w), x)
        for a in range(3):
            for b in range(3):
                top = sum(scaled[i, j] * z[i, a] * z[j, b] for i in range(12) for j in range(12))
                assert made[a, b] == pytest.approx(top / np.sqrt((z[:, a] ** 2).sum() * (z[:, b] ** 2).sum()))


def test_types_side_by_side_go_together_and_types_apart_do_not():
    xy = grid(10)
    left = (xy[:, 0] < 1000).astype(float)
    made = bivariate_morans(lattice_neighbours(xy), np.stack([left, 3 * left + 1, 1 - left, np.ones(100)], axis=1))
    assert made[0, 1] > 0.7
    assert made[0, 1] == pytest.approx(made[0, 0])
    assert made[0, 2] == pytest.approx(-made[0, 0])
    assert np.isnan(made[3]).all()


def test_agreement_leaves_out_the_diagonal_and_what_is_unknown():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 5, 5))
    made = agreement(a, b)
    off = [(np.delete(a[i], i), np.delete(b[i], i)) for i in range(5)]
    assert made.cosine == pytest.approx(np.mean([u @ v / np.sqrt((u @ u) * (v @ v)) for u, v in off]))
    assert made.correlation == pytest.approx(np.mean([np.corrcoef(u, v)[0, 1] for u, v in off]))
    changed = a + np.diag(np.full(5, 100.0))
    assert agreement(changed, b) == made
    a[:, 4] = a[4] = np.nan
    part = agreement(a, b)
    assert part.n_undefined == 1
    assert part.cosine == pytest.approx(agreement(a[:4, :4], b[:4, :4]).cosine)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: lattice_neighbours(np.zeros((2, 2))), "at least three spots"),
        (lambda: lattice_neighbours(np.zeros((5, 2))), "different places"),
        (lambda: bivariate_morans(sparse.csr_matrix((4, 4)), np.zeros((4, 2))), "some above 0"),
        (lambda: bivariate_morans(sparse.eye(3).tocsr(), np.zeros((4, 2))), r"shape \(4, 4\)"),
        (lambda: agreement(np.zeros((3, 3)), np.zeros((4, 4))), "same cell types"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()
