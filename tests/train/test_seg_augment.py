"""What happens to a tile happens to its instance map."""

import dataclasses

import numpy as np
import pytest
from seg_fields import draw

from lemon_sc.seg.targets import hv_maps
from lemon_sc.train.seg_augment import AUGMENTATIONS, NONE, augment_tile, cut_tile

PAINTED = np.array([(230, 180, 210), (90, 60, 140)], np.uint8)


@pytest.fixture
def tile():
    """Without noise, the image says everywhere whether there is a nucleus."""
    _, labels = draw(np.random.default_rng(0))
    labels = labels.astype(np.int32)
    return PAINTED[(labels > 0).astype(int)], labels


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("field", ["turn", "flip", "crop", "elastic"])
def test_image_and_labels_move_together(tile, field):
    pixels, labels = tile
    policy = dataclasses.replace(NONE, **{field: 1.0})
    for seed in range(4):
        image, moved = augment_tile(pixels, labels, policy, rng=rng(seed))
        assert (image != pixels).any(), "it does something"
        assert image.shape == pixels.shape
        assert set(np.unique(moved)) <= set(np.unique(labels))
        dark = image.astype(int).sum(-1) < PAINTED.astype(int).sum(1).mean()
        assert (dark == (moved > 0)).mean() > 0.985
        assert hv_maps(moved).shape == (2, *labels.shape)


@pytest.mark.parametrize("field", ["downscale", "blur", "noise", "jitter"])
def test_colours_leave_the_labels_alone(tile, field):
    pixels, labels = tile
    image, same = augment_tile(pixels, labels, dataclasses.replace(NONE, **{field: 1.0}), rng=rng())
    np.testing.assert_array_equal(same, labels)
    assert image.dtype == np.uint8
    difference = np.abs(image.astype(int) - pixels)
    assert 0 < difference.mean() < 60


def test_noise_has_the_variance_it_says(tile):
    pixels, labels = np.full((64, 64, 3), 128, np.uint8), tile[1]
    image, _ = augment_tile(pixels, labels, dataclasses.replace(NONE, noise=1.0), rng=rng())
    assert image.astype(float).var() == pytest.approx(50, rel=0.1)


def test_half_the_resolution_is_the_mean_of_four(tile):
    pixels = rng().integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image, _ = augment_tile(pixels, np.zeros((16, 16), np.int32), dataclasses.replace(NONE, downscale=1.0), rng=rng())
    mean = pixels.reshape(8, 2, 8, 2, 3).mean((1, 3))
    np.testing.assert_allclose(image[::2, ::2], mean, atol=0.51)
    np.testing.assert_array_equal(image[1::2, 1::2], image[::2, ::2])


def test_nothing_is_nothing(tile):
    image, labels = augment_tile(*tile, NONE, rng=rng())
    np.testing.assert_array_equal(image, tile[0])
    np.testing.assert_array_equal(labels, tile[1])


@pytest.mark.parametrize("name", ["cellvit", "strong"])
def test_all_at_once_follow_from_the_seed(tile, name):
    made = [augment_tile(*tile, AUGMENTATIONS[name], rng=rng(seed)) for seed in (3, 3, *range(4, 12))]
    np.testing.assert_array_equal(made[0][0], made[1][0])
    assert len({m[0].tobytes() for m in made}) > 5


def test_tiles_lie_inside_and_everywhere(tile):
    labels = np.arange(40 * 50, dtype=np.int32).reshape(40, 50)
    pixels = np.repeat((labels % 256).astype(np.uint8)[..., None], 3, axis=-1)
    corners = set()
    for seed in range(300):
        image, cut = cut_tile(pixels, labels, side=36, rng=rng(seed))
        corners.add((cut[0, 0] // 50, cut[0, 0] % 50))
        np.testing.assert_array_equal(image[..., 0], cut % 256)
    assert {0, 4} <= {y for y, _ in corners}
    assert {0, 14} <= {x for _, x in corners}


def test_small_images_are_continued_in_white(tile):
    pixels, labels = tile
    image, cut = cut_tile(pixels, labels, side=80, rng=rng())
    np.testing.assert_array_equal(image[:64, :64], pixels)
    assert (image[64:] == 255).all()
    assert not cut[:, 64:].any()
