import sys
import threading

import numpy as np
import pytest

from lemon_sc.crops.stream import stream_crops
from lemon_sc.crops.uncut import SPARSE, Uncut, stream_uncut
from lemon_sc.io.image import ArrayLevel, Image, array_image

MPP = (0.3, 0.28)


def noise_image(height=420, width=510, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def centres(n=200, *, seed=1):
    """All over the image, close to its border, too."""
    return np.random.default_rng(seed).uniform([18, 18], [492, 402], (n, 2))


def chunked(pixels, chunk_px=50):
    return Image([ArrayLevel(pixels, chunk_px=chunk_px)], [(1.0, 1.0)])


def cut_here(windows):
    """What the compiled kernel makes of windows."""
    cut = [windows.cut(sheet.pixels, sheet.start, sheet.phase) for sheet in windows.sheets]
    return np.concatenate(cut) if cut else np.zeros((0, 40, 40, 3), np.uint8)


def all_windows(image, xy, **options):
    index, windows = zip(*stream_uncut(image, xy, mpp=MPP, **options), strict=True)
    return np.concatenate(index), Uncut.joined(windows)


@pytest.mark.parametrize("block_px", [50, 130, 2048])
@pytest.mark.parametrize("n", [3, 200])
def test_the_same_nuclei_in_the_same_order_from_the_same_pixels(block_px, n):
    image, xy = chunked(noise_image()), centres(n)
    index, windows = all_windows(image, xy, block_px=block_px, workers=2)
    at, crops = zip(*stream_crops(image, xy, mpp=MPP, block_px=block_px), strict=True)
    np.testing.assert_array_equal(index, np.concatenate(at))
    np.testing.assert_array_equal(cut_here(windows), np.concatenate(crops))
    assert len(windows) == n


def test_slices_and_joins_keep_every_window_in_its_place():
    _, windows = all_windows(chunked(noise_image()), centres(), block_px=130)
    crops = cut_here(windows)
    ends = [0, 1, 1, 40, 41, 163, 200]
    parts = [windows[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    assert [len(part) for part in parts] == np.diff(ends).tolist()
    for part, a, b in zip(parts, ends, ends[1:], strict=False):
        np.testing.assert_array_equal(cut_here(part), crops[a:b])
    np.testing.assert_array_equal(cut_here(Uncut.joined(parts)), crops)
    np.testing.assert_array_equal(cut_here(windows[190:1000]), crops[190:])


def test_masks_follow_their_windows():
    _, windows = all_windows(array_image(noise_image()), centres(20))
    keep = np.random.default_rng(2).random((20, 40, 40)) < 0.5
    masked = Uncut(sheets=windows.sheets, cut=windows.cut, keep=keep)
    crops = cut_here(windows)
    expected = crops.copy()
    expected[~keep] = 255
    np.testing.assert_array_equal(masked.masked(crops), expected)
    np.testing.assert_array_equal(Uncut.joined([masked[5:7], masked[0:5]]).keep, np.concatenate([keep[5:7], keep[:5]]))
    np.testing.assert_array_equal(windows.masked(crops), crops)


def held(windows):
    return sum({id(sheet.pixels): sheet.pixels.nbytes for sheet in windows.sheets}.values())


def test_what_lies_between_sparse_nuclei_is_not_kept():
    """Of 20 nuclei on 1,000 x 1,000 px, no more than their windows; of a dense block the block, and the last few."""
    pixels = noise_image(1000, 1000)
    xy = np.random.default_rng(3).uniform(40, 960, (4000, 2))
    across, down = all_windows(array_image(pixels), xy)[1].cut.taps
    _, sparse = all_windows(array_image(pixels), xy[:20])
    assert held(sparse) == 20 * across * down * 3
    _, dense = all_windows(array_image(pixels), xy)
    assert pixels.nbytes <= held(dense) <= pixels.nbytes * (1 + 1 / SPARSE)
    assert held(dense[1000:1010]) == 10 * across * down * 3, "a slice of a block does not keep the block"


def test_each_block_is_read_once():
    class Counting(ArrayLevel):
        def read(self, y0, y1, x0, x1):
            with lock:
                reads[y0:y1, x0:x1] += 1
            return super().read(y0, y1, x0, x1)

    pixels, lock = noise_image(), threading.Lock()
    reads = np.zeros(pixels.shape[:2], dtype=int)
    all_windows(Image([Counting(pixels, 50)], [(1.0, 1.0)]), centres(), block_px=50, workers=3)
    assert reads.max() == 1


def test_no_nuclei_no_windows():
    assert list(stream_uncut(array_image(noise_image()), np.zeros((0, 2)), mpp=MPP)) == []


@pytest.mark.parametrize("block_px", [50, 130])
def test_windows_across_blocks_need_no_compiler(monkeypatch, block_px):
    image, xy = chunked(noise_image()), centres()
    index, expected = all_windows(image, xy, block_px=block_px)
    assert any(sheet.pixels.shape[1] == expected.cut.taps[0] for sheet in expected.sheets)
    monkeypatch.setitem(sys.modules, "lemon_sc.crops.kernel", None)
    at, plain = all_windows(image, xy, block_px=block_px)
    np.testing.assert_array_equal(at, index)
    for a, b in zip(plain.sheets, expected.sheets, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
