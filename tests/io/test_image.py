import dask.array as da
import numpy as np
import pytest

from lemon_sc.io.image import array_image, dask_image, downsample


@pytest.mark.parametrize(
    ("full", "part", "factor"),
    [(527, 263, 2), (448, 224, 2), (527, 131, 4), (527, 65, 8), (100, 100, 1), (100, 67, 100 / 67)],
)
def test_pyramids_halve_and_drop_the_odd_pixel(full, part, factor):
    assert downsample(full, part) == pytest.approx(factor)


def test_both_kinds_of_array_read_alike():
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    lazy = da.from_array(np.moveaxis(pixels, 2, 0), chunks=(1, 50, 40))
    one, other = array_image(pixels), dask_image(lazy, lazy[:, ::2, ::2])
    np.testing.assert_array_equal(one.levels[0].read(10, 70, 5, 88), pixels[10:70, 5:88])
    np.testing.assert_array_equal(other.levels[0].read(10, 70, 5, 88), pixels[10:70, 5:88])
    assert other.levels[0].row_edges == [0, 50, 100, 120]
    assert other.levels[0].col_edges == [0, 40, 80, 90]
    assert other.downsamples == [(1, 1), (2, 2)]
    assert one.shape == other.shape == (120, 90)
