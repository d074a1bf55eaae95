import numpy as np
import pytest
import shapely

from lemon_sc.datasets._outlines import VERTICES, make_outlines, polar_radius


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    n = 40
    area, elongation = rng.uniform(15, 90, n), rng.uniform(1, 3.5, n)
    centre, angle = rng.uniform(0, 100, (n, 2)), rng.uniform(0, np.pi, n)
    shape = rng.normal(0, 0.04, (n, 3)), rng.uniform(0, 6, (n, 3))
    return area, centre, make_outlines(centre, angle, area, elongation, *shape)


def dense(outlines):
    theta = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    radius = outlines.radius(np.broadcast_to(theta, (len(outlines), len(theta))))
    ray = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    return shapely.polygons(outlines.origin[:, None] + radius[..., None] * ray)


def test_area_and_centroid_are_those_asked_for(planted):
    area, centre, outlines = planted
    drawn = dense(outlines)
    np.testing.assert_allclose(shapely.area(drawn), area, rtol=1e-4)
    np.testing.assert_allclose(shapely.get_coordinates(shapely.centroid(drawn)), centre, atol=1e-3)
    np.testing.assert_allclose(outlines.area, area, rtol=1e-4)


def test_polygons_are_valid_closed_and_centred(planted):
    area, centre, outlines = planted
    xy = outlines.polygons()
    drawn = shapely.polygons(xy)
    assert xy.shape == (len(area), VERTICES + 1, 2)
    np.testing.assert_array_equal(xy[:, 0], xy[:, -1])
    assert shapely.is_valid(drawn).all()
    np.testing.assert_allclose(shapely.get_coordinates(shapely.centroid(drawn)), centre, atol=1e-9)
    np.testing.assert_allclose(shapely.area(drawn), area, rtol=0.04)


def test_slope_is_the_logarithmic_derivative():
    a, b = np.array(6.0), np.array(2.5)
    amplitude, phase = np.array([0.05, -0.03, 0.02]), np.array([0.3, 1.0, 2.0])
    theta, h = np.linspace(0, 6, 50), 1e-6

    def radius(t):
        return polar_radius(np.cos(t), np.sin(t), a, b, amplitude, phase)

    expected = (np.log(radius(theta + h)[0]) - np.log(radius(theta - h)[0])) / (2 * h)
    np.testing.assert_allclose(radius(theta)[1], expected, atol=1e-6)


def test_taken_and_moved_outlines_keep_their_form(planted):
    _, centre, outlines = planted
    rows = np.array([3, 1])
    shifted = outlines.take(rows).moved(centre[rows] + 5.0)
    np.testing.assert_allclose(shifted.polygons(), outlines.polygons()[rows] + 5.0)
