"""Every format, every rectangle: what is read is what was written."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import FORMATS, HEIGHT, WIDTH, rgb, truth

from lemon_sc.crops.stream import stream_crops
from lemon_sc.io.image import PixelsLevel, array_image, dask_image
from lemon_sc.io.raster import from_path


@pytest.fixture(params=FORMATS, scope="module")
def stored(request, tmp_path_factory):
    """An image in a file, and what a whole decode of it gives (h, w, 3)."""
    path = FORMATS[request.param](tmp_path_factory.mktemp("image"), rgb())
    return dask_image(*from_path(path).levels), truth(request.param, path, rgb())


def spans(edges):
    """All stretches between the ends, a border and its neighbours: inside a tile, up to its edge, across, over all."""
    end = edges[-1]
    points = {0, end, *(e + d for e in edges[1:2] for d in (-1, 0, 1))}
    return list(itertools.combinations(sorted(p for p in points if p <= end), 2))


def test_every_rectangle(stored):
    image, pixels = stored
    level = image.levels[0]
    assert isinstance(level, PixelsLevel), "read from its file, without dask"
    assert level.shape == (HEIGHT, WIDTH)
    for (y0, y1), (x0, x1) in itertools.product(spans(level.row_edges), spans(level.col_edges)):
        part = level.read(y0, y1, x0, x1)
        assert part.flags.c_contiguous
        np.testing.assert_array_equal(part, pixels[y0:y1, x0:x1])


def test_borders_are_those_of_the_file_and_cover_the_image(stored):
    level = stored[0].levels[0]
    for length, edges in zip(level.shape, (level.row_edges, level.col_edges), strict=True):
        assert edges[0] == 0
        assert edges[-1] == length
        assert (np.diff(edges) > 0).all()


def test_crops_are_those_of_the_array(stored):
    image, pixels = stored
    xy = np.random.default_rng(0).uniform([30, 30], [WIDTH - 30, HEIGHT - 30], (60, 2))
    crops = {}
    for name, source in (("file", image), ("array", array_image(pixels))):
        out = np.zeros((len(xy), 40, 40, 3), np.uint8)
        for index, part in stream_crops(source, xy, mpp=(0.3, 0.3), block_px=64, workers=3):
            out[index] = part
        crops[name] = out
    np.testing.assert_array_equal(crops["file"], crops["array"])


def test_threads_do_not_disturb_each_other(stored):
    image, pixels = stored
    level = image.levels[0]
    corner = np.random.default_rng(1).integers(0, [HEIGHT - 40, WIDTH - 50], (120, 2))

    def same(at):
        y, x = (int(v) for v in at)
        return np.array_equal(level.read(y, y + 40, x, x + 50), pixels[y : y + 40, x : x + 50])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, corner))


def test_dask_sees_the_same_pixels(stored):
    image, pixels = stored
    array = image.levels[0].pixels
    np.testing.assert_array_equal(array[:, 5:HEIGHT, 7:200], np.moveaxis(pixels[5:, 7:200], 2, 0))
    np.testing.assert_array_equal(array[1:2, :50, :60], np.moveaxis(pixels[:50, :60, 1:2], 2, 0))
    assert array[:, 10:10, :].shape == (3, 0, WIDTH)
