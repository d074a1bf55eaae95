import errno
import logging
import signal
import subprocess
import sys
import textwrap

import dask.array as da
import imagecodecs
import numpy as np
import pytest
import spatialdata as sd
import tifffile
import zarr
from image_files import by_spatialdata, pyramid, rgb, tiff
from scenes import blob_scene, place
from spatialdata.models import Image2DModel
from spatialdata.transformations import Affine, Identity, Scale, get_transformation

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.io import rechunk as engine
from lemon_sc.io.image import dask_image
from lemon_sc.io.raster import from_path

PLACES = {
    "global": Affine(
        np.array([[1.2, 0.1, 30], [-0.2, 1.1, 4], [0, 0, 1]]), input_axes=("x", "y"), output_axes=("x", "y")
    ),
    "px": Identity(),
    "um": Scale([0.25, 0.25], axes=("x", "y")),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks, shards and levels on small images."""
    monkeypatch.setattr(engine, "CHUNK_PX", 64)
    monkeypatch.setattr(engine, "SHARD_PX", 192)
    monkeypatch.setattr(engine, "COARSEST_PX", 100)


def with_image(pixels, **options):
    element = Image2DModel.parse(
        pixels if isinstance(pixels, da.Array) else np.moveaxis(pixels, 2, 0),
        dims=("c", "y", "x"),
        **{"c_coords": ["red", "green", "blue"], "transformations": PLACES, **options},
    )
    return sd.SpatialData(images={"he_image": element})


def levels_in(sdata):
    return [scale["image"].data for scale in sdata["he_image"].children.values()]


def tree(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "source", ["memory", "one chunk", "strips", "planar strips", "one strip", "deflated in one", "tiles"]
)
def test_pixels_places_and_channels_are_kept(tmp_path, source):
    pixels = rgb(333, 517)
    if source == "memory":
        sdata = with_image(pixels)
    elif source == "one chunk":
        path = by_spatialdata(tmp_path / "s.zarr", pixels, chunks=(3, 333, 517))
        sdata = with_image(from_path(path).levels[0])
    else:
        options = {
            "strips": {"compression": "lzw", "rowsperstrip": 5},
            "planar strips": {"planar": True, "compression": "deflate", "rowsperstrip": 70},
            "one strip": {},
            "deflated in one": {"compression": "deflate", "rowsperstrip": 333},
            "tiles": {"compression": "lzw", "tile": (48, 80)},
        }[source]
        sdata = with_image(from_path(tiff(tmp_path / "a.tif", pixels, **options)).levels[0])
    lm.pp.rechunk(sdata, path=tmp_path / "new.ome.zarr")
    first, *coarser = levels_in(sdata)
    np.testing.assert_array_equal(first.compute(), np.moveaxis(pixels, 2, 0))
    for fine, coarse in zip([first, *coarser], coarser, strict=False):
        c, h, w = coarse.shape
        mean = fine.compute()[:, : 2 * h, : 2 * w].reshape(c, h, 2, w, 2).mean(axis=(2, 4))
        np.testing.assert_array_equal(coarse.compute(), np.floor(mean))
    assert [level.shape[1:] for level in coarser] == [(166, 258), (83, 129), (41, 64)]
    assert sd.models.get_channel_names(sdata["he_image"]) == ["red", "green", "blue"]
    places = get_transformation(sdata["he_image"], get_all=True)
    assert places == PLACES
    level = dask_image(*levels_in(sdata)).levels[0]
    assert level.unit == (64, 64)
    assert level.pixels.files is not None
    assert zarr.open_group(tmp_path / "new.ome.zarr", mode="r")["0"].shards == (3, 64, 192)
    assert sorted(p.name for p in tmp_path.iterdir() if "new" in p.name) == ["new.ome.zarr"]


def test_a_pyramid_is_kept_as_it_is(tmp_path):
    pixels = rgb(400, 300)
    levels = from_path(pyramid(tmp_path / "he.ome.tif", pixels, compression="deflate")).levels
    sdata = sd.SpatialData()
    lm.pp.add_image(sdata, tmp_path / "he.ome.tif")
    before = get_transformation(sdata["he_image"]["scale2"]["image"])
    lm.pp.rechunk(sdata, path=tmp_path / "new.ome.zarr")
    assert len(levels_in(sdata)) == 3
    for old, new in zip(levels, levels_in(sdata), strict=True):
        np.testing.assert_array_equal(new.compute(), old.compute())
    assert np.allclose(
        get_transformation(sdata["he_image"]["scale2"]["image"]).to_affine_matrix(("x", "y"), ("x", "y")),
        before.to_affine_matrix(("x", "y"), ("x", "y")),
    )
    record = sdata.attrs["lemon_sc"]["images"]["he_image"]
    assert record["path"] == str((tmp_path / "new.ome.zarr").resolve())
    assert from_path(tmp_path / "new.ome.zarr").mpp == pytest.approx((0.25, 0.25))
    assert record["mpp"] == [0.25, 0.25]


def test_nuclei_are_the_same_before_and_after(tmp_path):
    sdata, _ = blob_scene(place(degrees=25.0, flip=True), side=5, chunks=(3, 4096, 4096))
    lm.pp.extract_nuclei(sdata, store="memory")
    crops = sdata["table"].obsm["nuclei"].copy()
    lm.pp.rechunk(sdata, path=tmp_path / "new.ome.zarr")
    lm.pp.extract_nuclei(sdata, store="memory")
    assert len(np.unique(crops)) > 20
    np.testing.assert_array_equal(sdata["table"].obsm["nuclei"], crops)


def test_other_tools_open_it(tmp_path):
    ome_zarr = pytest.importorskip("ome_zarr.reader")
    from ome_zarr.io import parse_url

    pixels = rgb(200, 150)
    sdata = with_image(pixels)
    lm.pp.rechunk(sdata, path=tmp_path / "new.ome.zarr")
    (node,) = ome_zarr.Reader(parse_url(tmp_path / "new.ome.zarr"))()
    assert node.metadata["channel_names"] == ["red", "green", "blue"]
    np.testing.assert_array_equal(node.data[0].compute(), np.moveaxis(pixels, 2, 0))
    sdata.write(tmp_path / "all.zarr")
    np.testing.assert_array_equal(
        levels_in(sd.read_zarr(tmp_path / "all.zarr"))[0].compute(), np.moveaxis(pixels, 2, 0)
    )


def test_a_store_on_disk_is_left_alone(tmp_path, caplog):
    sdata = with_image(rgb(200, 150))
    sdata.write(tmp_path / "all.zarr")
    backed = sd.read_zarr(tmp_path / "all.zarr")
    before = tree(tmp_path / "all.zarr")
    with pytest.raises(ValueError, match="`path` must lie outside the store of `sdata`"):
        lm.pp.rechunk(backed, path=tmp_path / "all.zarr" / "images" / "new")
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        lm.pp.rechunk(backed, path=tmp_path / "new.ome.zarr")
    assert "keeps its own copy of 'he_image'" in caplog.text
    assert tree(tmp_path / "all.zarr") == before
    np.testing.assert_array_equal(levels_in(backed)[0].compute(), np.moveaxis(rgb(200, 150), 2, 0))


def test_what_is_decoded_together_is_decoded_once(tmp_path, monkeypatch):
    from lemon_sc.io.tiff import TiffLevel

    path = tiff(tmp_path / "a.tif", rgb(333, 517), compression="lzw", rowsperstrip=5)
    sdata = with_image(from_path(path).levels[0])
    decoded = []
    segment = TiffLevel.segment
    monkeypatch.setattr(TiffLevel, "segment", lambda self, page, i: decoded.append(i) or segment(self, page, i))
    monkeypatch.setattr(engine, "CHUNK_PX", 65)  # whole strips
    lm.pp.rechunk(sdata, path=tmp_path / "new.ome.zarr")
    assert sorted(decoded) == list(range(67))


@pytest.mark.parametrize("size", [(1, 1), (100, 37), (1000, 2000)])
@pytest.mark.parametrize("unit", [(1, 1), (16, 5000), (700, 900), (64, 192)])
def test_boxes_cover_the_image_once_in_whole_shards(size, unit):
    count = np.zeros(size, int)
    for y0, y1, x0, x1 in engine.boxes(size, (64, 192), unit):
        count[y0:y1, x0:x1] += 1
        assert y0 % 64 == x0 % 192 == 0
        assert y1 - y0 >= min(unit[0], size[0] - y0)
        assert x1 - x0 >= min(unit[1], size[1] - x0)
    assert (count == 1).all()


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, monkeypatch):
    sdata = with_image(rgb(333, 517))
    element, attrs = sdata["he_image"], dict(sdata.attrs)
    write, calls = zarr.Array.__setitem__, []

    def full(self, item, value):
        calls.append(item)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, item, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(OSError, match=r"new\.ome\.zarr' cannot be written \(No space left on device\)") as caught:
        lm.pp.rechunk(sdata, path=tmp_path / "new.ome.zarr")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    assert sdata["he_image"] is element
    assert sdata.attrs == attrs


def test_an_image_that_cannot_be_read_leaves_nothing(tmp_path):
    path = tiff(tmp_path / "a.tif", rgb(333, 517), compression="lzw", rowsperstrip=5)
    sdata = with_image(from_path(path).levels[0])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(OSError, match=r"a\.tif' is (cut short|damaged)"):
        lm.pp.rechunk(sdata, path=tmp_path / "new.ome.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_kill_leaves_the_old_store_and_no_half_one(tmp_path):
    by_spatialdata(tmp_path / "s.zarr", rgb(900, 900), chunks=(3, 900, 900))
    before = tree(tmp_path / "s.zarr")
    code = f"""
        import os, signal, spatialdata as sd, zarr, lemon_sc as lm
        from lemon_sc.io import rechunk
        rechunk.CHUNK_PX, rechunk.SHARD_PX = 64, 128
        write, calls = zarr.Array.__setitem__, []
        def die(self, item, value):
            write(self, item, value)
            calls.append(item)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
        zarr.Array.__setitem__ = die
        lm.pp.rechunk(sd.read_zarr({str(tmp_path / "s.zarr")!r}), path={str(tmp_path / "new.zarr")!r}, image_key="he")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert tree(tmp_path / "s.zarr") == before
    assert not (tmp_path / "new.zarr").exists()
    sdata = sd.read_zarr(tmp_path / "s.zarr")
    lm.pp.rechunk(sdata, path=tmp_path / "new.zarr", image_key="he")
    np.testing.assert_array_equal(
        from_path(tmp_path / "new.zarr").levels[0].compute(), np.moveaxis(rgb(900, 900), 2, 0)
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_is_that_of_a_few_strips(tmp_path):
    """480 MB of pixels in strips; the peak beyond what a small image takes stays well below."""
    height, width = 40_000, 4_000
    line = (np.arange(width * 3) % 251).astype(np.uint8).reshape(1, width, 3)
    strips = (
        imagecodecs.zstd_encode(np.ascontiguousarray(np.broadcast_to(line ^ np.uint8(k % 8), (40, width, 3))))
        for k in range(height // 40)
    )
    tifffile.imwrite(
        tmp_path / "a.tif",
        strips,
        shape=(height, width, 3),
        dtype=np.uint8,
        photometric="rgb",
        rowsperstrip=40,
        compression="zstd",
    )
    code = f"""
        import re, spatialdata as sd, lemon_sc as lm, numpy as np
        from pathlib import Path
        from lemon_sc.io import rechunk
        rechunk.MEMORY = 50_000_000
        def peak():
            return int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1])
        small = sd.SpatialData()
        lm.pp.add_image(small, np.zeros((300, 300, 3), np.uint8))
        lm.pp.rechunk(small, path={str(tmp_path / "small.zarr")!r})
        before = peak()
        sdata = sd.SpatialData()
        lm.pp.add_image(sdata, {str(tmp_path / "a.tif")!r})
        lm.pp.rechunk(sdata, path={str(tmp_path / "new.zarr")!r})
        print((peak() - before) / 1024)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True)
    assert float(out.stdout) < 300, out.stdout  # MB
    level = from_path(tmp_path / "new.zarr").levels[0]
    assert level.shape == (3, height, width)
    want = np.moveaxis(np.broadcast_to(line ^ np.uint8(100 % 8), (40, width, 3)), 2, 0)
    np.testing.assert_array_equal(level[:, 4000:4040].compute(), want)


def test_bad_arguments(tmp_path):
    sdata = with_image(rgb(60, 50))
    with pytest.raises(MissingKeyError, match=r"'he' not found in `sdata.images` \(found: \['he_image'\]\)"):
        lm.pp.rechunk(sdata, path=tmp_path / "new.zarr", image_key="he")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="There is something at '.*there' already"):
        lm.pp.rechunk(sdata, path=tmp_path / "there")
    grey = sd.SpatialData(
        images={"he_image": Image2DModel.parse(np.zeros((1, 60, 50), np.uint16), dims=("c", "y", "x"))}
    )
    with pytest.raises(ValueError, match="has 1 channel"):
        lm.pp.rechunk(grey, path=tmp_path / "new.zarr")
    with pytest.raises(TypeError, match="`sdata` must be a SpatialData, got ndarray"):
        lm.pp.rechunk(rgb(10, 10), path=tmp_path / "new.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
