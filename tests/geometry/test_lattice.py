import numpy as np
import pytest

from lemon_sc.geometry.lattice import lattice_of


def hexagonal(n=12, step=100.0):
    col, row = np.meshgrid(np.arange(n), np.arange(n))
    return np.column_stack([(col + row % 2 / 2).ravel(), (row * np.sqrt(3) / 2).ravel()]) * step


def turned(xy, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return xy @ np.array([[c, s], [-s, c]])


@pytest.mark.parametrize("step", [0.5, 100.0])
def test_hexagonal_arrays_are_known_however_they_lie(step):
    xy = turned(hexagonal(step=step), 23) + 7
    found = lattice_of(xy + np.random.default_rng(0).normal(0, step / 100, xy.shape))
    assert found.hexagonal
    assert found.step == pytest.approx(step, rel=0.03)
    kept = np.random.default_rng(1).random(len(xy)) > 0.03  # a few were off the tissue
    assert lattice_of(xy[kept]).hexagonal


def test_other_arrangements_are_not_hexagonal():
    rng = np.random.default_rng(0)
    square = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
    assert (lattice_of(square * 8).step, lattice_of(square * 8).hexagonal) == (8, False)
    assert not lattice_of(turned(square, 30) * [1, 1.02]).hexagonal
    assert not lattice_of(rng.random((500, 2))).hexagonal


def test_too_little_says_nothing():
    assert lattice_of(hexagonal()[:6]) is None
    assert lattice_of(np.zeros((20, 2))) is None
