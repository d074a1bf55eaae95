import numpy as np
import pytest

from lemon_sc.datasets._placement import PIXEL_SIZE, place_he

SIDE = 300.0
XY = np.random.default_rng(0).uniform(10, 290, (1000, 2))


def placed(**changes):
    return place_he(XY, SIDE, **({"mpp": 0.3, "rotation": 0.0, "flip": False, "shear": 0.0} | changes))


def test_same_pixel_size_without_turn_is_a_shift_by_whole_pixels():
    affine = placed(mpp=PIXEL_SIZE).affine
    np.testing.assert_array_equal(affine[:2, :2], np.eye(2))
    np.testing.assert_array_equal(affine[:2, 2], np.rint(affine[:2, 2]))


@pytest.mark.parametrize("mpp", [0.137, 0.25, 0.37])
@pytest.mark.parametrize(
    ("rotation", "flip", "shear"), [(0, False, 0), (90, True, 0), (33, False, 0.1), (200, True, -0.2)]
)
def test_pixel_size_and_handedness_are_in_the_determinant(mpp, rotation, flip, shear):
    affine = placed(mpp=mpp, rotation=rotation, flip=flip, shear=shear).affine
    det = np.linalg.det(affine[:2, :2])
    assert PIXEL_SIZE * np.sqrt(abs(det)) == pytest.approx(mpp)
    assert (det < 0) == flip


def test_quarter_turns_are_exact():
    linear = placed(mpp=PIXEL_SIZE, rotation=90.0).affine[:2, :2]
    np.testing.assert_array_equal(linear, [[0, -1], [1, 0]])


@pytest.mark.parametrize("rotation", [0.0, 45.0, 97.0])
def test_image_misses_a_strip_on_its_left_and_nothing_else(rotation):
    affine, (height, width) = placed(rotation=rotation, flip=True, shear=0.02)
    to_he = np.linalg.inv(affine)
    x, y = (XY / PIXEL_SIZE @ to_he[:2, :2].T + to_he[:2, 2]).T
    assert np.mean(x < 0) == pytest.approx(0.045, abs=0.01)
    assert x.max() < width
    assert y.min() > 0
    assert y.max() < height
