"""Points in circles and polygons against plain arithmetic."""

import numpy as np
import shapely

from lemon_sc.geometry.members import in_circles, in_polygons


def test_circles_by_distance():
    rng = np.random.default_rng(0)
    xy, centre, radius = rng.uniform(0, 10, (400, 2)), rng.uniform(0, 10, (30, 2)), rng.uniform(0, 3, 30)
    xy[0] = centre[0] + [radius[0], 0]  # on the border
    inside = in_circles(xy, shapely.points(centre), radius).toarray()
    expected = np.square(xy[None] - centre[:, None]).sum(axis=-1) <= np.square(radius)[:, None] * (1 + 1e-12)
    np.testing.assert_array_equal(inside, expected)
    assert inside[0, 0]
    assert (inside.sum(axis=0) > 1).any()


def test_empty_circles_and_no_points_hold_nothing():
    centres = np.array([shapely.Point(0, 0), shapely.Point()])
    assert in_circles(np.zeros((3, 2)), centres, np.ones(2)).toarray().tolist() == [[1, 1, 1], [0, 0, 0]]
    assert in_circles(np.zeros((0, 2)), centres, np.ones(2)).shape == (2, 0)
    assert in_polygons(np.zeros((0, 2)), np.array([shapely.box(0, 0, 1, 1)])).shape == (1, 0)


def test_units_that_tile_the_plane_hold_each_point_once():
    """Also points on edges and corners that two or four of them share."""
    rng = np.random.default_rng(1)
    edges = np.arange(8.0)
    x, y = (v.ravel() for v in np.meshgrid(edges[:-1], edges[:-1]))
    boxes = rng.permutation(shapely.box(x, y, x + 1, y + 1))
    xy = np.concatenate([rng.uniform(0, 7, (300, 2)), rng.integers(0, 8, (100, 2)), rng.integers(0, 15, (100, 2)) / 2])
    xy = xy[(xy <= 7).all(axis=1)]
    inside = in_polygons(xy, boxes)
    np.testing.assert_array_equal(np.asarray(inside.sum(axis=0)).ravel(), 1)
    low = np.array([b.bounds[:2] for b in boxes])[np.asarray(inside.argmax(axis=0)).ravel()]
    assert ((xy >= low) & (xy <= low + 1)).all()


def test_overlapping_polygons_share_what_lies_inside_both():
    boxes = np.array([shapely.box(0, 0, 2, 2), shapely.box(1, 0, 3, 2), shapely.Polygon()])
    inside = in_polygons(np.array([[1.5, 1], [1, 1], [2, 1], [0.5, 1], [9, 9]]), boxes).toarray()
    np.testing.assert_array_equal(inside, [[1, 1, 0, 1, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
