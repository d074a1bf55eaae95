import numpy as np
import pytest

from lemon_sc.geometry.windows import PHASES, check_mpp, choose_level, inside, plan_windows, window_side


def test_a_crop_of_40_px_shows_10_um():
    np.testing.assert_allclose(window_side(40, (0.3639, 0.2125), 0.25) * [0.3639, 0.2125], [10, 10])


def test_a_window_that_touches_the_border_is_inside_and_one_beyond_is_not():
    xy = np.array([[20.0, 20.0], [80.0, 30.0], [80.1, 30.0], [50.0, 19.9], [np.nan, 20.0]])
    assert inside(xy, np.array([40.0, 40.0]), (50, 100)).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("mpp", "level"),
    [(0.25, 0), (0.3639, 0), (0.137, 0), (0.125, 1), (0.11, 1), (0.0625, 2), (0.05, 2)],
)
def test_the_coarsest_level_that_is_fine_enough(mpp, level):
    assert choose_level((mpp, mpp), [(1, 1), (2, 2), (4, 4)], 0.25) == level


def test_the_coarser_axis_decides():
    assert choose_level((0.1, 0.2), [(1, 1), (2, 2)], 0.25) == 0


@pytest.mark.parametrize("mpp", [(0.3639, 0.3639), (0.2125, 0.25), (0.06, 0.06)])
def test_crop_centre_is_the_nucleus_and_all_taps_fit(mpp):
    xy = np.random.default_rng(0).uniform(100, 200, (50, 2))
    down = [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]
    w = plan_windows(mpp=mpp, downsamples=down, size_px=40, target_mpp=0.25)
    start, phase = w.place(xy)
    scale, first = np.array(w.scale), np.array(w.base) + phase / PHASES
    middle = (start + first + scale * 19.5) * down[w.level]  # centre of the crop in level-0 px
    np.testing.assert_allclose(middle, xy, atol=0.51 / PHASES * down[w.level][0])
    reach = 2 * np.maximum(scale, 1)
    assert (first - reach >= -0.5).all()
    assert (first + 39 * scale + reach <= np.array(w.taps) + 0.5).all()


@pytest.mark.parametrize(
    "mpp", [(0, 0.25), (-1, 1), (np.nan, 0.2), (np.inf, 1), "0.25 um", (1, 2, 3), None, [[1, 2]] * 2]
)
def test_a_pixel_size_must_be_finite_and_positive(mpp):
    with pytest.raises(ValueError, match="one or two finite numbers > 0"):
        check_mpp(mpp)


@pytest.mark.parametrize("mpp", [0.25, np.float32(0.25), np.array(0.25), (0.25, 0.25), [0.25], np.array([0.25, 0.25])])
def test_a_pixel_size_is_one_number_or_two(mpp):
    assert check_mpp(mpp) == (0.25, 0.25)
