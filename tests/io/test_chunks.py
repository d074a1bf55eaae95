import pickle

import dask.array as da
import numpy as np
import pytest
import zarr
from image_files import rgb

from lemon_sc.io.chunks import ZarrPixels
from lemon_sc.io.sources import level_of


def stored(path, *, data=None, **options):
    pixels = np.moveaxis(rgb(200, 220), 2, 0) if data is None else data
    return zarr.create_array(path, data=pixels, **{"chunks": (3, 64, 64), **options}), pixels


def test_plain_codecs_are_decoded_here_and_others_by_zarr(tmp_path):
    here, _ = stored(tmp_path / "a.zarr")
    there, _ = stored(tmp_path / "b.zarr", filters=[zarr.codecs.TransposeCodec(order=(1, 2, 0))])
    memory, _ = stored(zarr.storage.MemoryStore())
    assert ZarrPixels(here).files is not None
    assert ZarrPixels(there).files is None
    assert ZarrPixels(memory).files is None
    np.testing.assert_array_equal(
        ZarrPixels(memory).read(50, 150, 60, 200), np.moveaxis(memory[:, 50:150, 60:200], 0, 2)
    )


def test_files_that_dask_opens_by_path_are_decoded_here(tmp_path):
    _, pixels = stored(tmp_path / "a.zarr")
    level = level_of(da.from_zarr(str(tmp_path / "a.zarr")))
    assert level.pixels.files is not None
    np.testing.assert_array_equal(level.read(50, 150, 60, 200), np.moveaxis(pixels[:, 50:150, 60:200], 0, 2))


def test_an_index_at_the_start_of_a_shard(tmp_path):
    codec = zarr.codecs.ShardingCodec(
        chunk_shape=(3, 32, 32), codecs=[zarr.codecs.BytesCodec(), zarr.codecs.ZstdCodec()], index_location="start"
    )
    pixels = np.moveaxis(rgb(200, 220), 2, 0)
    array = zarr.create(shape=pixels.shape, chunks=(3, 64, 96), codecs=[codec], dtype="u1", store=tmp_path / "a.zarr")
    array[:] = pixels
    level = ZarrPixels(array)
    assert level.files is not None
    assert level.unit == (32, 32)
    np.testing.assert_array_equal(level[:, 3:199, 30:220], pixels[:, 3:199, 30:220])


@pytest.mark.parametrize("options", [{}, {"shards": (3, 128, 128)}])
def test_what_was_never_written_has_the_fill_value(tmp_path, options):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(3, 300, 300), chunks=(3, 64, 64), dtype="u1", fill_value=7, **options
    )
    array[:, 64:128, 64:128] = 100
    level = ZarrPixels(array)
    assert level.files is not None
    np.testing.assert_array_equal(level[:, :, :], array[:])
    assert set(np.unique(level[:, :, :])) == {7, 100}


def test_only_the_chunks_under_a_rectangle_are_decoded(tmp_path, monkeypatch):
    array, _ = stored(tmp_path / "a.zarr")
    level, seen = ZarrPixels(array), []
    read = type(level.files).read
    monkeypatch.setattr(type(level.files), "read", lambda self, at, n: seen.append(at) or read(self, at, n))
    level.read(70, 120, 64, 129)
    assert seen == [(0, 1, 1), (0, 1, 2)]


def test_levels_travel_to_other_processes(tmp_path):
    array, pixels = stored(tmp_path / "a.zarr")
    again = pickle.loads(pickle.dumps(ZarrPixels(array)))
    np.testing.assert_array_equal(again[:, 10:90, :50], pixels[:, 10:90, :50])


@pytest.mark.parametrize(
    "options", [{}, {"zarr_format": 2}, {"shards": (3, 128, 128)}, {"compressors": zarr.codecs.GzipCodec()}]
)
def test_a_damaged_chunk_is_named(tmp_path, options):
    array, _ = stored(tmp_path / "a.zarr", **options)
    sharded = "shards" in options
    name = "0.1.1" if "zarr_format" in options else "c/0/0/0" if sharded else "c/0/1/1"
    path = tmp_path / "a.zarr" / name
    whole = path.read_bytes()
    path.write_bytes(b"\0" * (len(whole) // 2) + whole[len(whole) // 2 :] if sharded else whole[: len(whole) // 2])
    with pytest.raises(OSError, match=rf"A chunk of the image is damaged: '.*{name}'"):
        ZarrPixels(array).read(0, 128, 0, 128)


def test_a_chunk_of_the_wrong_length_is_damaged_too(tmp_path):
    array, _ = stored(tmp_path / "a.zarr", compressors=None)
    path = tmp_path / "a.zarr" / "c" / "0" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(OSError, match="is damaged: .* 12283 of 12288 bytes"):
        ZarrPixels(array).read(0, 10, 0, 10)


def test_a_shard_that_was_cut_short(tmp_path):
    array, _ = stored(tmp_path / "a.zarr", shards=(3, 128, 128))
    path = tmp_path / "a.zarr" / "c" / "0" / "0" / "0"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(OSError, match="damaged"):
        ZarrPixels(array).read(0, 10, 0, 10)
