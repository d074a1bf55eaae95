import threading

import numpy as np
import pytest
from PIL import Image as PILImage

from lemon_sc.crops.stream import block_edges, reading_order, stream_crops
from lemon_sc.io.image import ArrayLevel, Image, array_image


def noise_image(height=420, width=510, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def centres(n=200, *, low=40, high=(470, 380), seed=1):
    return np.random.default_rng(seed).uniform([low, low], high, (n, 2))


def all_crops(image, xy, **kwargs):
    size = kwargs.get("size_px", 40)
    out = np.zeros((len(xy), size, size, 3), dtype=np.uint8)
    seen = np.zeros(len(xy), dtype=int)
    for index, crops in stream_crops(image, xy, **kwargs):
        out[index] = crops
        seen[index] += 1
    assert (seen == 1).all(), "every nucleus comes exactly once"
    return out


def pillow_crop(pixels, xy, mpp, size=40):
    """Oracle: Pillow's bicubic resize of a fractional box, in float so that it does not round between passes."""
    side = size * 0.25 / np.asarray(mpp)
    box = (*(xy - side / 2), *(xy + side / 2))
    planes = [
        np.asarray(
            PILImage.fromarray(pixels[..., c].astype(np.float32)).resize((size, size), PILImage.BICUBIC, box=box)
        )
        for c in range(3)
    ]
    return np.clip(np.stack(planes, axis=-1), 0, 255)


@pytest.mark.parametrize("mpp", [(0.3639, 0.3639), (0.2738, 0.2738), (0.25, 0.25), (0.2125, 0.22), (0.137, 0.137)])
def test_every_crop_is_pillows_up_to_rounding(mpp):
    pixels, xy = noise_image(), centres()
    crops = all_crops(array_image(pixels), xy, mpp=mpp)
    worst = max(np.abs(pillow_crop(pixels, c, mpp) - crop).max() for c, crop in zip(xy, crops, strict=True))
    assert worst < 1.0  # 0.5 of rounding, the rest of 1/512 px on white noise


def test_beyond_the_border_the_outermost_pixel_is_repeated():
    """The window lies inside the image, the kernel's tails do not."""
    pixels = noise_image(60, 60)
    xy = np.array([[14.3, 14.3], [45.6, 45.6], [14.4, 45.5], [30.0, 14.3]])
    crops = all_crops(array_image(pixels), xy, mpp=(0.36, 0.36))
    padded = np.pad(pixels, ((9, 9), (9, 9), (0, 0)), mode="edge")
    for c, crop in zip(xy, crops, strict=True):
        assert np.abs(pillow_crop(padded, c + 9, (0.36, 0.36)) - crop).max() < 1.0


def test_whole_pixels_are_copied():
    pixels = noise_image()
    crops = all_crops(array_image(pixels), np.array([[100.0, 120.0]]), mpp=(0.25, 0.25))
    np.testing.assert_array_equal(crops[0], pixels[100:140, 80:120])


@pytest.mark.parametrize("setting", [{"block_px": 37}, {"block_px": 64}, {"workers": 1}, {"workers": 5}])
def test_crops_do_not_depend_on_how_they_are_cut(setting):
    level = ArrayLevel(noise_image(), chunk_px=32)
    image, xy = Image([level], [(1.0, 1.0)]), centres()
    reference = all_crops(array_image(noise_image()), xy, mpp=(0.3, 0.3))
    np.testing.assert_array_equal(all_crops(image, xy, mpp=(0.3, 0.3), **setting), reference)


def test_crops_do_not_depend_on_order():
    xy = centres()
    order = np.random.default_rng(5).permutation(len(xy))
    image = array_image(noise_image())
    np.testing.assert_array_equal(
        all_crops(image, xy[order], mpp=(0.3, 0.3)), all_crops(image, xy, mpp=(0.3, 0.3))[order]
    )


def test_the_middle_of_a_training_crop_is_the_embedding_crop():
    image, xy = array_image(noise_image()), centres(low=60, high=(440, 350))
    wide = all_crops(image, xy, mpp=(0.3, 0.3), size_px=60)
    np.testing.assert_array_equal(wide[:, 10:50, 10:50], all_crops(image, xy, mpp=(0.3, 0.3)))


class CountingLevel(ArrayLevel):
    """Counts how often each pixel is read."""

    def __init__(self, array, chunk_px):
        super().__init__(array, chunk_px)
        object.__setattr__(self, "reads", np.zeros(array.shape[:2], dtype=int))
        object.__setattr__(self, "lock", threading.Lock())

    def read(self, y0, y1, x0, x1):
        with self.lock:
            self.reads[y0:y1, x0:x1] += 1
        return super().read(y0, y1, x0, x1)


def test_each_block_is_read_once_and_empty_ones_never():
    level = CountingLevel(noise_image(), 50)
    xy = centres(high=(200, 380))
    all_crops(Image([level], [(1.0, 1.0)]), xy, mpp=(0.3, 0.3), block_px=50, workers=3)
    assert level.reads.max() == 1
    assert not level.reads[:, 300:].any()
    assert level.reads[100:300, 100:150].all()


def test_a_coarser_level_is_read_where_it_is_fine_enough():
    """0.1 um/px: level 1 (0.2 um/px) is read. It is the mean of 2 x 2 px: on a smooth image nearly the same crop."""
    y, x = np.mgrid[0:600, 0:600]
    smooth = np.stack([127 + 100 * np.sin((x + 0.5) / 40), 127 + 100 * np.cos((y + 0.5) / 50), 0 * x + 90], axis=-1)
    full = np.round(smooth).astype(np.uint8)
    half = np.round(smooth.reshape(300, 2, 300, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
    xy = np.array([[300.0, 300.0], [250.3, 310.7]])
    pyramid = array_image(full, half)
    first = CountingLevel(full, 2048)
    two = Image([first, pyramid.levels[1]], pyramid.downsamples)
    crops = all_crops(two, xy, mpp=(0.1, 0.1)).astype(int)
    assert first.reads.sum() == 0
    assert np.abs(crops - all_crops(array_image(full), xy, mpp=(0.1, 0.1))).max() <= 2


def test_fine_detail_is_averaged_away_not_aliased():
    """Stripes of one px at 0.1 um/px are beyond what 0.25 um/px can show: the crop is grey, not moire."""
    stripes = np.zeros((300, 300, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    crop = all_crops(array_image(stripes), np.array([[150.3, 150.3]]), mpp=(0.1, 0.1))[0]
    assert np.abs(crop.astype(int) - 127).max() < 12


def test_no_nuclei_no_crops():
    assert list(stream_crops(array_image(noise_image()), np.zeros((0, 2)), mpp=(0.25, 0.25))) == []


def test_a_read_that_fails_ends_the_stream():
    class Broken(ArrayLevel):
        def read(self, *_):
            msg = "disk gone"
            raise OSError(msg)

    image = Image([Broken(noise_image(), 64)], [(1.0, 1.0)])
    with pytest.raises(OSError, match="disk gone"):
        list(stream_crops(image, centres(), mpp=(0.25, 0.25)))


def test_small_chunks_are_joined_to_blocks_of_whole_chunks():
    assert block_edges([0, 100, 200, 300, 400, 450], 200).tolist() == [0, 200, 400, 450]
    assert block_edges([0, 4096, 5000], 2048).tolist() == [0, 4096, 5000]


@pytest.mark.parametrize("part", [1, 3])
@pytest.mark.parametrize("block_px", [64, 150, 2048])
def test_the_order_is_known_before_anything_is_read(block_px, part):
    """For all centres and for a part of them: what is left of a run comes in the order of the whole."""
    image = Image([ArrayLevel(noise_image(), chunk_px=50)], [(1.0, 1.0)])
    xy = centres(n=150, low=2, high=(505, 415))
    order = reading_order(image, xy, mpp=(0.25, 0.25), size_px=40, block_px=block_px)
    left = np.sort(np.random.default_rng(3).permutation(len(xy))[: len(xy) // part])
    came = [left[i] for i, _ in stream_crops(image, xy[left], mpp=(0.25, 0.25), size_px=40, block_px=block_px)]
    np.testing.assert_array_equal(np.concatenate(came), order[np.isin(order, left)])


def test_planning_in_parts_changes_nothing(monkeypatch):
    image, xy = Image([ArrayLevel(noise_image(), chunk_px=50)], [(1.0, 1.0)]), centres(n=150, low=2, high=(505, 415))
    at_once = list(stream_crops(image, xy, mpp=(0.25, 0.25), block_px=64))
    monkeypatch.setattr("lemon_sc.crops.stream.PLANNED", 7)
    in_parts = list(stream_crops(image, xy, mpp=(0.25, 0.25), block_px=64))
    for (index, crops), (same_index, same_crops) in zip(at_once, in_parts, strict=True):
        np.testing.assert_array_equal(index, same_index)
        np.testing.assert_array_equal(crops, same_crops)
