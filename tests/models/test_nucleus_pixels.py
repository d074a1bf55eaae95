import numpy as np
import pytest
from scipy import stats
from scipy.spatial import ConvexHull
from skimage.measure import perimeter_crofton

from lemon_sc.models.nucleus_pixels import convex_hull, masked_mean, masked_moments, masked_quantiles, perimeter_px


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).gamma(4, 0.1, (40, 40, 40)).astype(np.float32)


def test_masked_statistics_against_scipy(masks, image):
    mean, sd, skew, kurtosis = masked_moments(image, masks)
    low, high = masked_quantiles(image, masks, (0.05, 0.75))
    for i, (values, mask) in enumerate(zip(image, masks, strict=True)):
        inside = values[mask]
        expected = [inside.mean(), inside.std(), stats.skew(inside), stats.kurtosis(inside)]
        np.testing.assert_allclose([mean[i], sd[i], skew[i], kurtosis[i]], expected, rtol=1e-3, atol=1e-4)
        assert low[i] == np.quantile(inside, 0.05, method="lower")
        assert high[i] == np.quantile(inside, 0.75, method="lower")


def test_statistics_of_nothing_are_zero(image):
    empty = np.zeros_like(image, bool)
    assert not masked_mean(image, empty).any()
    assert not np.any(masked_moments(image, empty))


def test_perimeter_as_in_skimage(masks):
    expected = [perimeter_crofton(np.pad(m, 2), directions=4) for m in masks]
    np.testing.assert_allclose(perimeter_px(masks), expected, rtol=1e-6)


def test_hull_against_qhull_and_the_width_of_a_square(masks):
    def corners(mask):
        return np.concatenate([np.argwhere(mask) + shift for shift in ((0, 0), (0, 1), (1, 0), (1, 1))])

    area, _ = convex_hull(masks)
    exact = np.array([ConvexHull(corners(m)).volume for m in masks])
    assert (area <= exact + 1e-9).all()
    np.testing.assert_allclose(area, exact, rtol=0.01)
    square = np.zeros((1, 40, 40), bool)
    square[0, 10:30, 5:25] = True
    area, width = convex_hull(square)
    assert area[0] == 400
    angle = 2 * np.pi * (np.arange(32) + 0.5) / 64
    np.testing.assert_allclose(width[0], 20 * (np.abs(np.cos(angle)) + np.abs(np.sin(angle))))
