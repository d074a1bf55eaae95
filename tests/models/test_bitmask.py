import numpy as np
import pytest
from scipy import ndimage

from lemon_sc.models import bitmask

CROSS = ndimage.generate_binary_structure(2, 1)
SQUARE = ndimage.generate_binary_structure(2, 2)


@pytest.fixture(params=[40, 7, 63])
def masks(request):
    rng = np.random.default_rng(request.param)
    size = request.param
    noise = ndimage.gaussian_filter(rng.standard_normal((30, size, size)), (0, 1.5, 1.5))
    stack = noise > np.linspace(-0.3, 0.3, 30)[:, None, None]
    return np.concatenate([stack, np.zeros((1, size, size), bool), np.ones((1, size, size), bool)])


def each(function, masks):
    return np.stack([function(m) for m in masks])


def test_packing_round_trips(masks):
    words = bitmask.pack(masks)
    assert words.shape == (masks.shape[1], len(masks))
    assert np.array_equal(bitmask.unpack(words), masks)
    assert np.array_equal(bitmask.unpack(bitmask.invert(words)), ~masks)


@pytest.mark.parametrize("corners", [False, True])
def test_growing_and_shrinking_as_in_scipy(masks, corners):
    shape = SQUARE if corners else CROSS
    words = bitmask.pack(masks)
    grown = bitmask.unpack(bitmask.dilate(words, corners=corners))
    shrunk = bitmask.unpack(bitmask.erode(words, corners=corners))
    assert np.array_equal(grown, each(lambda m: ndimage.binary_dilation(m, shape), masks))
    assert np.array_equal(shrunk, each(lambda m: ndimage.binary_erosion(m, shape, border_value=1), masks))


@pytest.mark.parametrize("corners", [False, True])
def test_reconstruction_as_in_scipy(masks, corners):
    seeds = masks & (np.random.default_rng(0).random(masks.shape) < 0.01)
    shape = SQUARE if corners else CROSS
    expected = np.stack([ndimage.binary_propagation(s, shape, mask=m) for s, m in zip(seeds, masks, strict=True)])
    got = bitmask.grow_within(bitmask.pack(seeds), bitmask.pack(masks), corners=corners)
    assert np.array_equal(bitmask.unpack(got), expected)


def test_holes_as_in_scipy(masks):
    got = bitmask.unpack(bitmask.fill_holes(bitmask.pack(masks)))
    assert np.array_equal(got, each(lambda m: ndimage.binary_fill_holes(m, SQUARE), masks))


def test_euler_number_counts_parts_less_holes(masks):
    def parts_less_holes(mask):
        background = np.pad(~mask, 1, constant_values=True)
        return ndimage.label(mask, CROSS)[1] - (ndimage.label(background, SQUARE)[1] - 1)

    assert np.array_equal(bitmask.euler(bitmask.pack(masks)), each(parts_less_holes, masks))
