import numpy as np
import pytest
import zarr

from lemon_sc.crops.store import open_store, positions, write_store


def some_crops(n=10, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def write(path, crops, *, order=None, names=None, fail=False):
    n = len(crops)
    order = np.arange(n) if order is None else order

    def batches():
        for start in range(0, n, 3):
            some = order[start : start + 3]
            yield some, crops[some]
            if fail:
                msg = "interrupted"
                raise KeyboardInterrupt(msg)

    return write_store(
        path,
        batches(),
        obs_name=np.array([f"c{i}é" for i in range(n)] if names is None else names, dtype=object),
        xy=np.arange(2.0 * n).reshape(n, 2),
        rank=np.zeros(n, dtype=np.int64),
        size_px=crops.shape[1],
        attrs={"mpp": [0.25, 0.25]},
    )


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
    assert write(tmp_path / "b.zarr", some_crops(seed=1)) == a, "cut alike: same cells, centres and settings"
    assert write(tmp_path / "c.zarr", some_crops(), names=[f"d{i}" for i in range(10)]) != a


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s.zarr", some_crops(), fail=True)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_rewrite_leaves_the_old_store(tmp_path):
    crops = some_crops()
    write(tmp_path / "s.zarr", crops)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s.zarr", some_crops(seed=9), fail=True)
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read(np.arange(10)), crops)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_a_rewrite_replaces(tmp_path):
    write(tmp_path / "s.zarr", some_crops())
    write(tmp_path / "s.zarr", some_crops(4, seed=2))
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read(np.arange(4)), some_crops(4, seed=2))
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


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
