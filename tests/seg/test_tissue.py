import numpy as np
import pytest
from skimage.measure import block_reduce

from lemon_sc.io.image import array_image
from lemon_sc.seg.tissue import grey_thumbnail, tissue_mask, tissue_share

rng = np.random.default_rng(0)


def test_the_thumbnail_is_the_mean_of_its_px():
    pixels = rng.integers(0, 255, (96, 160, 3), dtype=np.uint8)
    grey, down = grey_thumbnail(array_image(pixels), mpp=(0.5, 0.25))
    assert down == (16.0, 32.0)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert grey == pytest.approx(block_reduce(luma, (32, 16), np.mean), abs=1e-3)


def test_px_at_the_far_border_and_the_borders_of_blocks_count_once():
    pixels = rng.integers(0, 255, (70, 5000, 3), dtype=np.uint8)  # blocks are 2048 px, thumbnail px 33
    grey, _ = grey_thumbnail(array_image(pixels), mpp=(0.24, 0.24), workers=2)
    assert grey.shape == (3, 152)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    for r, c in ((0, 0), (1, 62), (2, 151)):
        part = luma[33 * r : 33 * r + 33, 33 * c : 33 * c + 33]
        assert grey[r, c] == pytest.approx(part.mean(), abs=1e-3)


def test_a_pyramid_saves_reading_the_finest_level():
    class Unread:
        shape = (3200, 3200, 3)

        def __getitem__(self, at):
            raise AssertionError

    coarse = np.full((200, 200, 3), 77, dtype=np.uint8)
    grey, down = grey_thumbnail(array_image(Unread(), coarse), mpp=(0.5, 0.5))
    assert down == (16.0, 16.0)
    assert grey == pytest.approx(np.full((200, 200), 77.0))


def test_tissue_is_told_from_glass_ink_and_padding():
    grey = np.full((60, 60), 241.0) + rng.normal(0, 2, (60, 60))
    grey[10:40, 10:40] = 160 + rng.normal(0, 8, (30, 30))
    grey[50:, :20] = 0
    truth = np.zeros((60, 60), dtype=bool)
    truth[10:40, 10:40] = True
    assert (tissue_mask(np.clip(grey, 0, 255)) == truth).mean() > 0.995


def test_an_image_full_of_tissue_and_one_full_of_glass():
    full = np.clip(rng.normal(150, 25, (50, 50)), 0, 185)
    assert tissue_mask(full).all()
    glass = np.clip(rng.normal(238, 3, (50, 50)), 225, 255)
    assert not tissue_mask(glass).any()
    assert not tissue_mask(np.full((5, 5), 255.0)).any()


def test_shares_of_boxes_are_means_of_the_mask():
    mask = rng.random((20, 30)) < 0.4
    boxes = np.array([[0, 0, 40, 40], [100, 60, 180, 160], [200, 120, 240, 160]], dtype=float)
    wanted = [mask[:5, :5].mean(), mask[7:20, 12:23].mean(), mask[15:20, 25:30].mean()]
    assert tissue_share(mask, down=(8.0, 8.0), boxes=boxes) == pytest.approx(wanted)
