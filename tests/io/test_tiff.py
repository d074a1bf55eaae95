import pickle

import dask
import numpy as np
import pytest
import tifffile

from lemon_sc.io.tiff import NotTiffError, TiffLevel, UnsupportedColoursError, open_tiff


def rgb(height=700, width=900, seed=0):
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x % 251, y % 241, (x + y) % 239], axis=-1).astype(np.uint8)
    return base ^ np.random.default_rng(seed).integers(0, 4, base.shape, dtype=np.uint8)


def pyramid(path, pixels, **kwargs):
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tif:
        options = {"photometric": "rgb", "tile": (128, 128), **kwargs}
        tif.write(
            pixels,
            subifds=2,
            metadata={
                "axes": "YXS",
                "PhysicalSizeX": 273.8,
                "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 0.2738,
                "PhysicalSizeYUnit": "µm",
            },
            **options,
        )
        for k in (2, 4):
            tif.write(pixels[::k, ::k], subfiletype=1, **options)


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "zstd", "jpeg2000"])
def test_any_window_of_a_pyramid_is_what_was_written(tmp_path, compression):
    pixels = rgb()
    extra = {"compressionargs": {"reversible": True}} if compression == "jpeg2000" else {}
    pyramid(tmp_path / "he.ome.tif", pixels, compression=compression, **extra)
    tif = open_tiff(tmp_path / "he.ome.tif")
    assert tif.mpp == pytest.approx((0.2738, 0.2738))
    assert [level.shape for level in tif.levels] == [(3, 700, 900), (3, 350, 450), (3, 175, 225)]
    for k, level in enumerate(tif.levels):
        np.testing.assert_array_equal(level.compute(), np.moveaxis(pixels[:: 2**k, :: 2**k], 2, 0))
    part = tif.levels[0][1:, 100:333, 250:899]
    np.testing.assert_array_equal(part.compute(), np.moveaxis(pixels[100:333, 250:899, 1:], 2, 0))


def test_jpeg_tiles_decode_as_tifffile_decodes_them(tmp_path):
    pyramid(tmp_path / "he.tif", rgb(), compression="jpeg", compressionargs={"level": 90})
    level = open_tiff(tmp_path / "he.tif").levels[0]
    whole = tifffile.imread(tmp_path / "he.tif", series=0, level=0)
    np.testing.assert_array_equal(level[:, 130:500, 77:640].compute(), np.moveaxis(whole[130:500, 77:640], 2, 0))


@pytest.mark.parametrize("options", [{"rowsperstrip": 32}, {"planarconfig": "separate", "tile": (64, 96)}])
def test_strips_and_planes(tmp_path, options):
    pixels = rgb(300, 200)
    planar = "planarconfig" in options
    data = np.moveaxis(pixels, 2, 0) if planar else pixels
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", **options)
    level = open_tiff(tmp_path / "a.tif").levels[0]
    np.testing.assert_array_equal(level[:, 33:280, 10:150].compute(), np.moveaxis(pixels[33:280, 10:150], 2, 0))


def test_one_page_per_colour(tmp_path):
    pixels = rgb(130, 170)
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.moveaxis(pixels, 2, 0), photometric="minisblack", metadata={"axes": "CYX"}
    )
    np.testing.assert_array_equal(open_tiff(tmp_path / "a.ome.tif").levels[0].compute(), np.moveaxis(pixels, 2, 0))


def test_opening_decodes_nothing_and_a_window_only_its_tiles(tmp_path, monkeypatch):
    pyramid(tmp_path / "he.ome.tif", rgb(), compression="deflate")
    decoded = []
    segment = TiffLevel.segment
    monkeypatch.setattr(TiffLevel, "segment", lambda self, page, i: decoded.append(i) or segment(self, page, i))
    level = open_tiff(tmp_path / "he.ome.tif").levels[0]
    assert decoded == []
    level[:, 200:250, 300:310].compute()  # rows 1, column 2 of 8 tiles per row
    assert decoded == [1 * 8 + 2]


def test_a_huge_plane_opens_from_its_header(tmp_path):
    """A sparse 60,000 x 80,000 file (14 GB of pixels): opened and read in one corner."""
    with tifffile.TiffWriter(tmp_path / "huge.tif", bigtiff=True) as tif:
        tif.write(
            iter([b""] * (118 * 157)),
            shape=(60000, 80000, 3),
            dtype=np.uint8,
            tile=(512, 512),
            photometric="rgb",
            compression="deflate",
        )
    level = open_tiff(tmp_path / "huge.tif").levels[0]
    assert level.shape == (3, 60000, 80000)
    assert level.npartitions < 1500
    assert (level[:, 59000:59010, 79000:79010].compute() == np.full((3, 10, 10), 255)).all(), "no tile: glass"


def test_levels_travel_to_other_processes_and_threads(tmp_path):
    pixels = rgb(256, 256)
    pyramid(tmp_path / "he.ome.tif", pixels)
    level = TiffLevel(tmp_path / "he.ome.tif", 0, 0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(level))[:, :50, :50], np.moveaxis(pixels[:50, :50], 2, 0))
    lazy = open_tiff(tmp_path / "he.ome.tif").levels[0].rechunk((3, 50, 50))
    with dask.config.set(scheduler="threads", num_workers=8):
        np.testing.assert_array_equal(lazy.compute(), np.moveaxis(pixels, 2, 0))


def test_a_real_slide(data_dir):
    tif = open_tiff(data_dir / "slides" / "CMU-1-Small-Region.svs")
    assert tif.mpp == (0.499, 0.499)
    assert tif.levels[0].shape == (3, 2967, 2220)
    whole = tifffile.imread(data_dir / "slides" / "CMU-1-Small-Region.svs", series=0)
    part = tif.levels[0][:, 1000:1500, 200:900].compute()
    np.testing.assert_array_equal(part, np.moveaxis(whole[1000:1500, 200:900], 2, 0))


def test_what_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="No image at"):
        open_tiff(tmp_path / "none.tif")
    (tmp_path / "a.tif").write_bytes(b"not a tiff at all")
    with pytest.raises(ValueError, match="is not a TIFF file"):
        open_tiff(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "z.ome.tif", np.zeros((5, 64, 64), np.uint8), metadata={"axes": "ZYX"})
    with pytest.raises(ValueError, match="axes ZYX .* one plane of RGB"):
        open_tiff(tmp_path / "z.ome.tif")


def test_colours_that_stay_encoded_are_refused(tmp_path):
    """YCbCr samples look like an image and are none: JPEG's are turned into RGB by their decoder, others are not."""
    path = tmp_path / "he.tif"
    for compression in ("lzw", "jpeg2000"):
        tifffile.imwrite(path, rgb(128, 128), photometric="ycbcr", tile=(64, 64), compression=compression)
        with pytest.raises(UnsupportedColoursError, match=r"he\.tif' has YCBCR colours"):
            open_tiff(path)
    cyan = np.concatenate([rgb(128, 128), rgb(128, 128)[..., :1]], axis=2)
    tifffile.imwrite(path, cyan, photometric="separated", tile=(64, 64))
    with pytest.raises(UnsupportedColoursError, match="has SEPARATED colours"):
        open_tiff(path)


def test_what_aperio_says_of_its_own_colours_is_not_believed(tmp_path):
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, rgb(128, 128), photometric="rgb", tile=(64, 64), compression="jpeg2000")
    for compression, fine in ((33005, True), (33003, False)):
        with tifffile.TiffFile(path, mode="r+b") as tif:
            tif.pages[0].tags["Compression"].overwrite(compression)
        if fine:
            assert open_tiff(path).levels[0].shape == (3, 128, 128)
        else:
            with pytest.raises(UnsupportedColoursError, match="YCBCR"):
                open_tiff(path)


def test_a_damaged_file_is_named_with_its_tile(tmp_path):
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, rgb(256, 256), photometric="rgb", tile=(64, 64), compression="deflate")
    level = TiffLevel(path, 0, 0)
    with path.open("r+b") as file:
        file.seek(level.pages[0].dataoffsets[5])
        file.write(b"\0" * 100)
    level.read(0, 64, 0, 256)
    with pytest.raises(OSError, match=r"he\.tif' is damaged: tile 5 of level 0 cannot be decoded"):
        level.read(64, 128, 64, 128)
    with path.open("r+b") as file:
        file.truncate(level.pages[0].dataoffsets[15] + 3)
    with pytest.raises(OSError, match=r"he\.tif' is cut short: tile 15 should have \d+ bytes, 3 are there"):
        level.read(200, 256, 200, 256)


def test_pixels_without_compression_are_mapped_not_read(tmp_path, monkeypatch):
    """A strip of the whole image: a corner of it needs no more than a corner."""
    tifffile.imwrite(tmp_path / "a.tif", rgb(300, 200), photometric="rgb")
    level = TiffLevel(tmp_path / "a.tif", 0, 0)
    monkeypatch.setattr(TiffLevel, "segment", None)
    np.testing.assert_array_equal(level.read(280, 300, 190, 200), rgb(300, 200)[280:, 190:])
    assert level.mapped[0].base is not None


def test_no_tiff_is_told_from_a_tiff_that_is_no_image(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"not a tiff at all")
    with pytest.raises(NotTiffError):
        open_tiff(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "z.ome.tif", np.zeros((5, 64, 64), np.uint8), metadata={"axes": "ZYX"})
    with pytest.raises(ValueError, match="axes ZYX") as caught:
        open_tiff(tmp_path / "z.ome.tif")
    assert not isinstance(caught.value, NotTiffError)
