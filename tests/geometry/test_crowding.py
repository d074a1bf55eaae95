import numpy as np
import pytest
from scipy.spatial import cKDTree

from lemon_sc.geometry.crowding import crowding


def test_shares_are_those_of_a_nearest_neighbour_search():
    rng = np.random.default_rng(0)
    xy = rng.uniform([-500, 40], [-420, 160], (300, 2))
    own = rng.permutation(300)[:120]
    at = ((np.arange(20) + 0.5) / 20 - 0.5) * 10
    grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    nearest = cKDTree(xy).query(xy[own][:, None] + grid)[1]
    np.testing.assert_allclose(crowding(xy, own, side=10.0), (nearest != own[:, None]).mean(axis=1))


@pytest.mark.parametrize("distance", [0.25, 3.0, 7.5, 9.75, 10.0, 30.0])
@pytest.mark.parametrize("towards", [(1, 0), (0, -1)])
def test_one_neighbour_takes_what_lies_beyond_the_bisector(distance, towards):
    xy = np.array([[5.0, 7.0], [5.0, 7.0] + distance * np.array(towards)])
    expected = max(5 - distance / 2, 0) / 10
    assert crowding(xy, np.array([0, 1]), side=10.0) == pytest.approx([expected, expected], abs=1 / 40)


def test_a_neighbour_at_the_corner_is_seen_across_grid_cells():
    xy = np.array([[0.0, 0.0], [9.4, 9.4], [-200.0, -200.0]])
    assert crowding(xy, np.array([0]), side=10.0)[0] > 0
    assert crowding(xy * [1, -1], np.array([0]), side=10.0)[0] > 0


def test_alone_absent_and_nan():
    xy = np.array([[0.0, 0.0], [np.nan, 1.0], [1e6, 0.0]])
    np.testing.assert_array_equal(crowding(xy, np.array([0, -1, 1, 2]), side=10.0), [0, np.nan, np.nan, 0])
    assert np.isnan(crowding(np.zeros((0, 2)), np.array([-1]), side=10.0)).all()


def test_order_does_not_matter():
    rng = np.random.default_rng(1)
    xy, order = rng.uniform(0, 60, (200, 2)), rng.permutation(200)
    np.testing.assert_array_equal(
        crowding(xy[order], np.argsort(order), side=10.0), crowding(xy, np.arange(200), side=10.0)
    )
