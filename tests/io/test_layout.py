import logging
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from image_files import tiff

from lemon_sc.crops.stream import block_edges
from lemon_sc.io.image import PixelsLevel, dask_image
from lemon_sc.io.layout import explain, read_cost, warn_if_slow
from lemon_sc.io.raster import from_path


def level(shape, unit, edges=None):
    """A level that is only a layout: what is decoded at once, and where a reader may cut it."""
    rows, cols = ([*range(0, n, e), n] for n, e in zip(shape, edges or unit, strict=True))
    return SimpleNamespace(shape=shape, unit=unit, row_edges=rows, col_edges=cols)


def cost_of(found, block_px=2048):
    return read_cost(found, block_edges(found.row_edges, block_px), block_edges(found.col_edges, block_px))


@pytest.mark.parametrize(
    ("shape", "unit", "edges", "slow", "times"),
    [
        ((60_000, 80_000), (512, 512), None, False, 1.0),
        ((60_000, 80_000), (4096, 4096), None, False, 1.0),
        ((60_000, 80_000), (60_000, 80_000), None, True, 1.0),  # one chunk for all
        ((60_000, 80_000), (60_000, 80_000), (4096, 4096), True, 15 * 20),  # a frame that was cut up afterwards
        ((60_000, 80_000), (8, 80_000), (2048, 2048), True, 40),  # strips behind dask: 40 columns of blocks
        ((60_000, 80_000), (8, 80_000), None, True, 1.0),  # strips, read as strips: once, but 2048 x 80,000 px a block
        ((3_000, 4_000), (3_000, 4_000), None, False, 1.0),  # small enough for anything
        ((3_000, 4_000), (3_000, 4_000), (1024, 1024), False, 12),
    ],
)
def test_layouts_are_judged_by_what_reading_them_takes(shape, unit, edges, slow, times):
    cost = cost_of(level(shape, unit, edges), block_px=2048 if shape[0] > 3000 else 256)
    assert cost.times == pytest.approx(times, rel=0.03)
    assert cost.slow is slow


def test_times_are_those_of_counting_every_pixel():
    """Oracle: mark what each block decodes, px by px."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        shape, unit = rng.integers(20, 60, 2), rng.integers(1, 30, 2)
        rows, cols = (np.unique(np.r_[0, rng.integers(1, n, 4), n]) for n in shape)
        count = np.zeros(shape)
        for y0, y1 in zip(rows[:-1], rows[1:], strict=True):
            for x0, x1 in zip(cols[:-1], cols[1:], strict=True):
                ys, xs = (slice(a // u * u, -(-b // u) * u) for a, b, u in ((y0, y1, unit[0]), (x0, x1, unit[1])))
                count[ys, xs] += 1
        found = read_cost(level(tuple(shape), tuple(unit)), rows, cols)
        assert found.times == pytest.approx(count.mean())


def test_the_warning_says_what_it_takes_and_what_to_do(caplog, monkeypatch):
    monkeypatch.setattr("lemon_sc.io.layout.cpu_count", lambda: 4)
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        huge = level((60_000, 80_000), (60_000, 80_000), (30_000, 40_000))
        warn_if_slow(huge, huge.row_edges, huge.col_edges, image_key="he")
    assert "'he' is slow to read as it is stored: 60,000 x 80,000 px are decoded at once" in caplog.text
    # per thread a block of 30,000 x 40,000 and the whole of 60,000 x 80,000, 3 bytes each: 18 GB
    assert "about 72.0 GB of memory and decodes every px 4 times" in caplog.text
    assert "`lm.pp.rechunk(sdata, image_key='he', path=...)`" in caplog.text
    caplog.clear()
    good = level((60_000, 80_000), (512, 512))
    warn_if_slow(good, block_edges(good.row_edges, 2048), block_edges(good.col_edges, 2048), image_key="he")
    assert caplog.text == ""


def test_one_chunk_takes_one_chunk_of_memory(monkeypatch):
    monkeypatch.setattr("lemon_sc.io.layout.cpu_count", lambda: 16)
    whole = level((60_000, 80_000), (60_000, 80_000))
    assert "28.8 GB of memory. Rewrite" in explain(cost_of(whole), "he"), "one block, whatever the number of threads"


def test_files_say_what_they_decode_at_once(tmp_path):
    pixels = np.zeros((300, 200, 3), np.uint8)

    def unit(path):
        return dask_image(*from_path(path).levels).levels[0].unit

    assert unit(tiff(tmp_path / "a.tif", pixels, compression="lzw", tile=(64, 80))) == (64, 80)
    assert unit(tiff(tmp_path / "b.tif", pixels, compression="lzw", rowsperstrip=7)) == (7, 200)
    assert unit(tiff(tmp_path / "c.tif", pixels, compression="lzw", rowsperstrip=300)) == (300, 200)


def test_what_dask_hides_is_seen(tmp_path):
    """Small chunks say nothing where the pixels come from one frame, or from one chunk of a store."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 300, 200), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(pixels, 0, 2), photometric="rgb")
    frame = da.map_blocks(
        lambda _: tifffile.imread(tmp_path / "a.tif"),
        da.zeros((1, 1, 1), chunks=1),
        chunks=((300,), (200,), (3,)),
        meta=np.zeros((0, 0, 0), np.uint8),
    )
    cut_up = da.moveaxis(frame, 2, 0).rechunk((1, 64, 64))
    found = dask_image(cut_up).levels[0]
    np.testing.assert_array_equal(found.read(60, 100, 10, 150), np.moveaxis(pixels[:, 60:100, 10:150], 0, 2))
    assert found.unit == (300, 200)
    stored = zarr.create_array(tmp_path / "b.zarr", data=pixels, chunks=(3, 300, 200))
    assert dask_image(255 - da.from_zarr(stored, chunks=(3, 64, 64))).levels[0].unit == (300, 200)
    assert dask_image(da.from_zarr(stored).rechunk((3, 64, 64))).levels[0].unit == (300, 200)
    many = zarr.create_array(tmp_path / "c.zarr", data=pixels, chunks=(3, 30, 20))
    assert dask_image(255 - da.from_zarr(many)).levels[0].unit == (30, 20)


def test_pixels_in_memory_are_never_slow():
    pixels = np.zeros((3, 5000, 6000), np.uint8)
    found = dask_image(da.from_array(pixels, chunks=-1)).levels[0]
    assert isinstance(found, PixelsLevel)
    assert max(found.unit) <= 1024
    assert not cost_of(found).slow


def test_only_arrays_that_are_sliced_as_they_are_skip_dask(tmp_path):
    """An operation on the way must show in the pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 120, 90), dtype=np.uint8)
    stored = zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(3, 64, 64))
    for lazy in (da.from_zarr(stored), da.from_array(pixels, chunks=-1), da.from_array(pixels, chunks=50)):
        for change in (lambda a: 255 - a, lambda a: a[:, ::-1], lambda a: a[::-1], lambda a: a[:, 10:, :80]):
            want = np.moveaxis(change(pixels), 0, 2)
            for array in (change(lazy), change(lazy).rechunk((3, 40, 30))):
                got = dask_image(array).levels[0].read(5, 60, 3, 70)
                np.testing.assert_array_equal(got, want[5:60, 3:70])
