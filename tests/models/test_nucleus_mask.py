import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb_from_hed
from skimage.filters import threshold_otsu

from lemon_sc.models import bitmask
from lemon_sc.models.nucleus_mask import (
    FALLBACK_RADIUS_PX,
    UNIT,
    central_part,
    find_nucleus,
    histogram,
    optical_density,
    otsu,
    smooth,
    squared_radius,
    stains,
)

AT = np.arange(40) - 19.5


def disc(x, y, radius):
    return (AT[None] - x) ** 2 + (AT[:, None] - y) ** 2 <= radius**2


def haematoxylin(*masks, dark=400, pale=60):
    """One crop: `dark` inside the masks, `pale` outside, in thousandths of OD."""
    return np.where(np.any(masks, axis=0), dark, pale).astype(np.int32)[None]


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_optical_density_of_known_intensities():
    od = optical_density(np.array([[[[255, 127, 0]]]], np.uint8))
    np.testing.assert_allclose(od[0, 0, 0], [0, UNIT * np.log10(2), UNIT * np.log10(256)], atol=0.5)


def test_stains_are_the_least_squares_mixture():
    """skimage's vectors for haematoxylin and eosin; what no mixture explains goes to neither."""
    rgb = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    od = -np.log10((rgb.reshape(-1, 3) + 1.0) / 256)
    vectors = rgb_from_hed[:2] / np.linalg.norm(rgb_from_hed[:2], axis=1, keepdims=True)
    expected = np.linalg.lstsq(vectors.T, od.T)[0] * UNIT
    np.testing.assert_allclose(np.reshape(stains(optical_density(rgb)), (2, -1)), expected, atol=2.5)


@pytest.mark.parametrize("amounts", [(0.5, 0.0), (0.0, 0.4), (0.3, 0.2)])
def test_stains_unmix_what_was_mixed(amounts):
    vectors = rgb_from_hed[:2] / np.linalg.norm(rgb_from_hed[:2], axis=1, keepdims=True)
    rgb = np.round(256 * 10 ** -(np.array(amounts) @ vectors) - 1).astype(np.uint8)
    h, e = stains(optical_density(rgb[None, None, None]))
    np.testing.assert_allclose([h.item(), e.item()], np.array(amounts) * UNIT, atol=12)


@pytest.mark.parametrize("spacing", [1, 2, 4])
def test_smoothing_is_the_binomial_filter(spacing):
    image = np.random.default_rng(0).integers(0, 2000, (3, 40, 40)).astype(np.int32)
    kernel = np.zeros(4 * spacing + 1)
    kernel[::spacing] = np.array([1, 4, 6, 4, 1]) / 16
    expected = image.astype(float)
    for axis in (1, 2):
        expected = ndimage.correlate1d(expected, kernel, axis=axis, mode="nearest")
    np.testing.assert_allclose(smooth(image, spacing=spacing), expected, atol=0.51)


def test_otsu_as_in_skimage():
    rng = np.random.default_rng(0)
    dark = rng.random((20, 40, 40)) < rng.uniform(0.1, 0.9, (20, 1, 1))
    image = np.where(dark, rng.normal(500, 60, dark.shape), rng.normal(150, 50, dark.shape)).astype(np.int32)
    counts = histogram(image)
    assert np.array_equal(counts.sum(axis=1), np.full(20, 1600))
    expected = [threshold_otsu(hist=(c, np.arange(64))) + 1 for c in counts]  # skimage: last bin of the lower class
    assert np.array_equal(otsu(counts), expected)


def test_histogram_bins():
    image = np.full((1, 40, 40), 45, np.int32)
    image[0, 0, :3] = -5, 1279, 5000
    counts = histogram(image)[0]
    assert (counts[0], counts[2], counts[63], counts.sum()) == (1, 1597, 2, 1600)


def test_a_disc_is_found_where_it_is():
    truth = disc(1, -2, 9)
    found = find_nucleus(haematoxylin(truth))
    assert found.found.all()
    assert overlap(found.nucleus[0], truth) > 0.93


def test_a_pale_nucleus_beside_a_dark_neighbour():
    """Otsu's threshold alone would find only the neighbour."""
    h = haematoxylin(disc(0, 0, 8), dark=220)
    h[0][disc(15, 10, 7)] = 900
    assert otsu(histogram(smooth(h)))[0] * 20 > 400
    assert overlap(find_nucleus(h).nucleus[0], disc(0, 0, 8)) > 0.85


def test_a_vesicular_nucleus_is_filled():
    h = haematoxylin(disc(0, 0, 11) & ~disc(0, 0, 7))
    assert overlap(find_nucleus(h).nucleus[0], disc(0, 0, 11)) > 0.9


@pytest.mark.parametrize("angle", np.deg2rad([0, 30, 45, 100, 225]))
@pytest.mark.parametrize("gap", [-2, 0])
def test_touching_neighbours_are_cut_off(angle, gap):
    centre = (16 + gap) * np.array([np.cos(angle), np.sin(angle)])
    own, neighbour = disc(0, 0, 8), disc(*centre, 8)
    found = find_nucleus(haematoxylin(own, neighbour))
    assert overlap(found.nucleus[0], own) > 0.85
    assert overlap(found.nuclear[0], own | neighbour) > 0.9


def test_an_ellipse_is_not_cut():
    ellipse = (AT[None] / 15) ** 2 + (AT[:, None] / 6) ** 2 <= 1
    assert overlap(find_nucleus(haematoxylin(ellipse)).nucleus[0], ellipse) > 0.9


def test_masks_without_background_or_without_anything_end():
    full, empty = np.ones((1, 40, 40), bool), np.zeros((1, 40, 40), bool)
    for mask in (full, empty):
        assert np.array_equal(bitmask.unpack(central_part(bitmask.pack(mask))), mask)


@pytest.mark.parametrize(
    "image",
    [
        haematoxylin(np.zeros((40, 40), bool)),  # blank
        haematoxylin(disc(0, 0, 2)),  # a speck
        haematoxylin(disc(17, 17, 6)),  # only a neighbour
        haematoxylin(disc(0, 0, 9), dark=75),  # hardly darker than its surroundings
    ],
    ids=["blank", "speck", "neighbour", "faint"],
)
def test_where_there_is_no_nucleus_a_disc_stands_in(image):
    result = find_nucleus(image)
    assert not result.found.any()
    assert np.array_equal(result.nucleus[0], disc(0, 0, FALLBACK_RADIUS_PX))


def test_squared_radius_is_exact():
    np.testing.assert_array_equal(squared_radius(40) / 4, AT[None] ** 2 + AT[:, None] ** 2)
