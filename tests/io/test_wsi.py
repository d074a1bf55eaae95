import pickle
import sys

import numpy as np
import pytest
import tifffile
from image_files import rgb, tiff
from real_data import there

from lemon_sc.io.raster import from_path
from lemon_sc.io.tiff import TiffLevel
from lemon_sc.io.wsi import SlideLevel, open_slide


@pytest.fixture
def slide(data_dir):
    """A real slide, which both readers open."""
    return there(data_dir / "slides" / "CMU-1-Small-Region.svs", "slide")


@pytest.fixture
def openslide():
    """OpenSlide's module."""
    return pytest.importorskip("openslide", reason="openslide is not installed")


def test_both_readers_see_the_same_slide(slide, openslide):
    """Two libraries, two JPEG decoders: they may differ by a level or two."""
    one, other = SlideLevel(slide, 0), TiffLevel(slide, 0, 0)
    assert one.shape == other.shape
    assert one.unit == other.unit == (240, 240)
    for box in ((0, 500, 0, 700), (1001, 1500, 201, 903), (2900, 2967, 2100, 2220)):
        ours, theirs = one.read(*box).astype(int), other.read(*box).astype(int)
        assert np.abs(ours - theirs).max() <= 2
        assert theirs.std() > 1
    assert open_slide(slide).mpp == pytest.approx((0.499, 0.499))


def test_a_slide_travels_and_slices(slide, openslide):
    level = pickle.loads(pickle.dumps(SlideLevel(slide, 0)))
    lazy = open_slide(slide).levels[0]
    np.testing.assert_array_equal(
        lazy[1:, 900:1000, 300:420].compute(), np.moveaxis(level.read(900, 1000, 300, 420)[..., 1:], 2, 0)
    )


def test_pyramids_of_a_generic_slide(tmp_path, openslide):
    """Level 1 is read at its own px, which OpenSlide addresses in px of level 0."""
    pixels = rgb(512, 640)
    half = pixels[::2, ::2]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(pixels, tile=(128, 128), photometric="rgb", compression="lzw")
        tif.write(half, tile=(128, 128), photometric="rgb", compression="lzw", subfiletype=1)
    levels = open_slide(tmp_path / "a.tif").levels
    assert [level.shape for level in levels] == [(3, 512, 640), (3, 256, 320)]
    np.testing.assert_array_equal(levels[1][:, 30:200, 41:300].compute(), np.moveaxis(half[30:200, 41:300], 2, 0))


class Transparent:
    """Stands in for a slide of which a part was not scanned."""

    def __init__(self, slide):
        self.slide = slide

    def read_region(self, at, level, size):
        region = np.array(self.slide.read_region(at, level, size))
        region[:, : size[0] // 2, :] = [9, 9, 9, 0]
        region[0, -1, 3] = 128
        return region


def test_what_was_not_scanned_is_background(slide, openslide):
    level = SlideLevel(slide, 0)
    plain = level.read(0, 20, 0, 30)
    level.slide = Transparent(level.slide)
    level.background[:] = [255, 240, 200]
    got = level.read(0, 20, 0, 30)
    assert (got[:, :15] == [255, 240, 200]).all()
    np.testing.assert_array_equal(got[1:, 15:], plain[1:, 15:])
    half = plain[0, -1] * (128 / 255) + np.array([255, 240, 200]) * (127 / 255)
    np.testing.assert_allclose(got[0, -1], half, atol=0.51)


def test_what_tifffile_cannot_show_goes_to_openslide(slide, tmp_path, openslide, monkeypatch):
    import lemon_sc.io.raster as raster

    def refuse(path):
        raise raster.UnsupportedColoursError(str(path))

    monkeypatch.setattr(raster, "open_tiff", refuse)
    assert from_path(slide).levels[0].shape == (3, 2967, 2220)
    (tmp_path / "a.tif").write_bytes(b"no slide")
    with pytest.raises(raster.UnsupportedColoursError):
        from_path(tmp_path / "a.tif")


def test_a_suffix_of_openslide_goes_there_at_once(slide, tmp_path, openslide):
    (tmp_path / "a.ndpi").write_bytes(b"no slide at all")
    with pytest.raises(ValueError, match=r"a\.ndpi' is not a slide that OpenSlide can open"):
        from_path(tmp_path / "a.ndpi")
    with pytest.raises(FileNotFoundError, match=r"No image at '.*b\.mrxs'"):
        from_path(tmp_path / "b.mrxs")


def test_without_openslide_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "a.mrxs").write_bytes(b"")
    with pytest.raises(ImportError, match=r"a\.mrxs' needs openslide: pip install \"lemon_sc\[wsi\]\""):
        from_path(tmp_path / "a.mrxs")
    (tmp_path / "a.tif").write_bytes(b"not a tiff")
    with pytest.raises(ValueError, match="is not a TIFF file"):
        from_path(tmp_path / "a.tif")
    assert from_path(tiff(tmp_path / "b.tif", rgb(), tile=(64, 64))).levels[0].shape[0] == 3


def test_a_damaged_slide_is_named(slide, openslide):
    level = SlideLevel(slide, 0)
    level.slide.close()
    with pytest.raises(OSError, match="CMU-1-Small-Region.svs' is damaged: OpenSlide cannot read level 0 at x=5, y=7"):
        level.read(7, 20, 5, 20)
