import numpy as np
import pytest
import tifffile
from image_files import rgb, tiff

from lemon_sc.io.frames import frame_file
from lemon_sc.io.image import DaskLevel, dask_image
from lemon_sc.io.tiff import TiffLevel

dask_imread = pytest.importorskip("dask_image.imread")


def frame(path):
    """As `spatialdata_io.xenium` opens an aligned H&E."""
    return dask_imread.imread(path).squeeze(0).transpose(2, 0, 1).rechunk((1, 64, 64))


def test_an_aligned_image_is_read_in_tiles(tmp_path, monkeypatch):
    pixels = rgb(200, 260)
    array = frame(tiff(tmp_path / "he.tif", pixels, tile=(64, 64), compression="deflate"))
    level = dask_image(array).levels[0]
    decoded = []
    segment = TiffLevel.segment
    monkeypatch.setattr(TiffLevel, "segment", lambda self, page, i: decoded.append(i) or segment(self, page, i))
    part = level.read(70, 130, 10, 60)
    np.testing.assert_array_equal(part, pixels[70:130, 10:60])
    np.testing.assert_array_equal(part, np.moveaxis(array[:, 70:130, 10:60].compute(), 0, 2))
    assert decoded == [5, 10]


def test_xenium_itself(xenium_outs):
    spatialdata_io = pytest.importorskip("spatialdata_io")
    sdata = spatialdata_io.xenium(xenium_outs, transcripts=False, cells_boundaries=False, nucleus_boundaries=False)
    array = sdata["he_image"]["scale0"]["image"].data
    assert isinstance(frame_file(array), TiffLevel)
    height, width = array.shape[1:]
    whole = dask_image(array).levels[0].read(0, height, 0, width)
    np.testing.assert_array_equal(whole, np.moveaxis(array.compute(), 0, 2))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[:, ::-1],
        lambda a: a[::-1],
        lambda a: 255 - a,
        lambda a: a.transpose(0, 2, 1),
        lambda a: a[:, 10:, :50],
    ],
)
def test_anything_done_to_the_frame_shows(tmp_path, change):
    pixels = rgb(128, 128)
    path = tiff(tmp_path / "he.tif", pixels, tile=(64, 64))
    want = np.moveaxis(change(np.moveaxis(pixels, 2, 0)), 0, 2)
    for array in (change(frame(path)), change(dask_imread.imread(path).squeeze(0).transpose(2, 0, 1))):
        level = dask_image(array).levels[0]
        assert isinstance(level, DaskLevel)
        np.testing.assert_array_equal(level.read(3, 60, 5, 40), want[3:60, 5:40])


def test_other_orders_of_axes_and_slices_before_them_show(tmp_path):
    pixels = rgb(128, 128)
    path = tiff(tmp_path / "he.tif", pixels, tile=(64, 64))
    image = dask_imread.imread(path)
    turned = image[0].transpose(2, 1, 0)
    flipped = image[0, ::-1].transpose(2, 0, 1)
    for array, want in ((turned, pixels.transpose(1, 0, 2)), (flipped, pixels[::-1])):
        np.testing.assert_array_equal(dask_image(array).levels[0].read(3, 60, 5, 40), want[3:60, 5:40])


def test_a_file_that_has_changed_or_gone_is_left_to_dask(tmp_path):
    path = tiff(tmp_path / "he.tif", rgb(128, 128), tile=(64, 64))
    array = frame(path)
    assert frame_file(array) is not None
    tifffile.imwrite(path, rgb(100, 100), photometric="rgb", tile=(64, 64))
    assert frame_file(array) is None
    path.unlink()
    assert frame_file(array) is None
