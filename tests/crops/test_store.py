import errno
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import zarr

from lemon_sc.crops.store import open_store, positions, write_store


def some_crops(n=10, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def write(path, crops, *, order=None, names=None, fail=False):
    n = len(crops)
    order = np.arange(n) if order is None else order

    def cut(todo):
        left = order[np.isin(order, todo)]
        for start in range(0, len(left), 3):
            some = left[start : start + 3]
            yield np.searchsorted(todo, some), {"crops": crops[some], "verdict": np.zeros(len(some), np.uint8)}
            if fail:
                msg = "interrupted"
                raise KeyboardInterrupt(msg)

    return write_store(
        path,
        cut,
        obs_name=np.array([f"c{i}é" for i in range(n)] if names is None else names, dtype=object),
        xy=np.arange(2.0 * n).reshape(n, 2),
        rank=np.zeros(n, dtype=np.int64),
        size_px=crops.shape[1],
        attrs={"mpp": [0.25, 0.25], "pixels": int(crops.sum())},
    )


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_crops_come_back_by_name_whatever_order_they_were_written_in(tmp_path):
    crops = some_crops()
    write(tmp_path / "s.zarr", crops, order=np.random.default_rng(0).permutation(10))
    store = open_store(tmp_path / "s.zarr")
    names = np.array([f"c{i}é" for i in range(10)], dtype=object)[::-1]
    row = positions(store, names)
    out = np.zeros_like(crops)
    out[row] = store.read(np.arange(10))
    np.testing.assert_array_equal(out, crops[::-1])
    np.testing.assert_array_equal(np.asarray(store.group["xy"])[:, 0] / 2, [int(n[1:-1]) for n in store.obs_name])
    wanted = np.arange(10) % 3 > 0
    index, pixels = (np.concatenate(part) for part in zip(*store.batches(wanted), strict=True))
    np.testing.assert_array_equal(index, np.flatnonzero(wanted))
    np.testing.assert_array_equal(pixels, store.read(index))


def test_cells_that_the_table_lost_are_marked(tmp_path):
    write(tmp_path / "s.zarr", some_crops())
    row = positions(open_store(tmp_path / "s.zarr"), np.array(["c3é", "other"], dtype=object))
    assert row.tolist() == [-1, -1, -1, 0, *[-1] * 6]


def test_a_store_of_another_table_is_refused(tmp_path):
    write(tmp_path / "s.zarr", some_crops())
    with pytest.raises(ValueError, match=r"holds none of the table's cells.*extract_nuclei"):
        positions(open_store(tmp_path / "s.zarr"), np.array(["x", "y"], dtype=object))


def test_the_id_follows_what_is_inside(tmp_path):
    a = write(tmp_path / "a.zarr", some_crops())
    order = np.arange(10)[::-1]
    assert write(tmp_path / "b.zarr", some_crops(), order=order) == a, "same cells, centres, settings and pixels"
    assert write(tmp_path / "d.zarr", some_crops(seed=1)) != a
    assert write(tmp_path / "c.zarr", some_crops(), names=[f"d{i}" for i in range(10)]) != a


def test_an_interrupted_write_leaves_nothing_that_can_be_seen(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s.zarr", some_crops(), fail=True)
    assert visible(tmp_path) == []


def test_an_interrupted_rewrite_leaves_the_old_store(tmp_path):
    crops = some_crops()
    write(tmp_path / "s.zarr", crops)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s.zarr", some_crops(seed=9), fail=True)
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read(np.arange(10)), crops)
    assert visible(tmp_path) == ["s.zarr"]


def test_a_rewrite_replaces(tmp_path):
    write(tmp_path / "s.zarr", some_crops())
    write(tmp_path / "s.zarr", some_crops(4, seed=2))
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read(np.arange(4)), some_crops(4, seed=2))
    assert visible(tmp_path) == ["s.zarr"]


@pytest.mark.parametrize("what", ["text", "folder", "zarr"])
def test_anything_else_is_never_overwritten(tmp_path, what):
    path = tmp_path / "mine"
    if what == "text":
        path.write_text("my notes")
    elif what == "folder":
        path.mkdir()
        (path / "keep").write_text("me")
    else:
        zarr.open_group(path, mode="w").attrs["a"] = 1
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"not a crop store of lemon_sc.*Choose another path"):
        write(path, some_crops())
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_store_that_is_gone_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No crop store at .*extract_nuclei"):
        open_store(tmp_path / "none.zarr")


def test_crops_of_many_shards_come_back(tmp_path):
    crops = np.arange(9000, dtype=np.uint32).view(np.uint8).reshape(9000, 1, 4, 1).repeat(3, axis=3)
    crops = np.broadcast_to(crops, (9000, 4, 4, 3)).copy()
    write(tmp_path / "s.zarr", crops, order=np.random.default_rng(0).permutation(9000))
    store = open_store(tmp_path / "s.zarr")
    row = positions(store, np.array([f"c{i}é" for i in range(9000)], dtype=object))
    some = np.random.default_rng(1).permutation(9000)[:700]
    np.testing.assert_array_equal(store.read(some), crops[row[some]])
    wanted = np.zeros(9000, dtype=bool)
    wanted[[5, 8999]] = True
    assert [i.tolist() for i, _ in store.batches(wanted)] == [[5], [8999]]


# a process that may write no file above 200 kB stands for a disk that is full: the first shard of crops is larger
LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import some_crops, write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write(Path(sys.argv[1]), some_crops(3000, seed=5))
except OSError as error:
    print(error.errno, str(error), sep="|")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are those of POSIX")
@pytest.mark.parametrize("before", [True, False])
def test_a_disk_that_fills_up_leaves_what_was_there_and_says_so(tmp_path, before):
    path, crops = tmp_path / "s.zarr", some_crops()
    if before:
        write(path, crops)
    command = [sys.executable, "-c", LIMITED, str(path), str(Path(__file__).parent)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    number, text = made.stdout.strip().split("|")
    assert int(number) == errno.EFBIG
    assert f"'{path}' cannot be written (File too large). A store that was there is as it was" in text
    assert "Make room, or name another folder" in text
    assert visible(tmp_path) == ["s.zarr"] * before
    if before:
        np.testing.assert_array_equal(open_store(path).read(np.arange(10)), crops)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("at", ["mkdir", "crops", "obs_name", "rename"])
def test_an_error_of_the_disk_at_any_step_leaves_what_was_there(tmp_path, monkeypatch, code, at):
    path, crops = tmp_path / "s.zarr", some_crops()
    write(path, crops)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}

    def failing(original, fails):
        def call(self, *args, **kwargs):
            if fails(self, *args, **kwargs):
                raise OSError(code, os.strerror(code))
            return original(self, *args, **kwargs)

        return call

    for owner, name, fails in {
        "mkdir": [(Path, "mkdir", lambda self, *a, **k: self == tmp_path)],
        "crops": [(zarr.Array, "__setitem__", lambda self, *a, **k: True)],
        "obs_name": [(zarr.Group, "create_array", lambda self, name, **k: name == "obs_name")],
        "rename": [(Path, "rename", lambda self, *a, **k: self.name == "group")],
    }[at]:
        monkeypatch.setattr(owner, name, failing(getattr(owner, name), fails))
    said = f"'{path}' cannot be written ({os.strerror(code)})"
    with pytest.raises(OSError, match=re.escape(said)) as error:
        write(path, some_crops(seed=3))
    assert error.value.errno == code
    assert isinstance(error.value, PermissionError) == (code == errno.EACCES)
    monkeypatch.undo()
    assert visible(tmp_path) == ["s.zarr"]
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    np.testing.assert_array_equal(open_store(path).read(np.arange(10)), crops)
    write(path, some_crops(seed=3))
    np.testing.assert_array_equal(open_store(path).read(np.arange(10)), some_crops(seed=3))


def test_an_image_that_cannot_be_read_is_no_fault_of_the_store(tmp_path):
    def cut(todo):
        yield np.arange(3), {"crops": some_crops(3), "verdict": np.zeros(3, np.uint8)}
        raise OSError(errno.EIO, "he.ome.tif: Input/output error")

    with pytest.raises(OSError, match=r"he\.ome\.tif: Input/output error$") as error:
        write_store(
            tmp_path / "s.zarr",
            cut,
            obs_name=np.array(list("abcd"), dtype=object),
            xy=np.zeros((4, 2)),
            rank=np.zeros(4, dtype=np.int64),
            size_px=8,
            attrs={},
        )
    assert "cannot be written" not in str(error.value)
    assert visible(tmp_path) == []


def test_a_folder_inside_a_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match=r"'.*notes.txt/s.zarr' cannot be written.*name another folder"):
        write(tmp_path / "notes.txt" / "s.zarr", some_crops())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_store_that_may_only_be_read_is_read(tmp_path):
    write(tmp_path / "s.zarr", some_crops())
    for path in [*(tmp_path / "s.zarr").rglob("*"), tmp_path / "s.zarr"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read(np.arange(10)), some_crops())
    for path in [tmp_path / "s.zarr", *(tmp_path / "s.zarr").rglob("*")]:
        path.chmod(0o755)


@pytest.mark.parametrize("damage", ["altered", "truncated"])
def test_a_damaged_crop_is_an_error_that_says_what_to_do(tmp_path, damage):
    write(tmp_path / "s.zarr", some_crops())
    file = next((tmp_path / "s.zarr" / "crops" / "c").rglob("0"))
    while file.is_dir():
        file = file / "0"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 255
    file.write_bytes(data if damage == "altered" else data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"s.zarr' is damaged between positions .* again with the same settings"):
        open_store(tmp_path / "s.zarr").read(np.arange(10))


def test_positions_of_all_rows_are_not_held(tmp_path):
    """They take 8 bytes per nucleus, and say nothing."""
    alive = []

    def cut(todo):
        n, held = len(todo), weakref.ref(todo)
        del todo
        alive.append(held() is not None)
        yield np.arange(n), {"crops": some_crops(n), "verdict": np.zeros(n, np.uint8)}

    xy, rank = np.zeros((10, 2)), np.zeros(10, np.int64)
    write_store(tmp_path / "s.zarr", cut, obs_name=np.arange(10), xy=xy, rank=rank, size_px=8, attrs={})
    assert alive == [False]
