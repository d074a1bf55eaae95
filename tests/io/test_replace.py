import shutil
from pathlib import Path

import numpy as np
import pytest
import spatialdata as sd

import lemon_sc as lm
from lemon_sc.io.replace import recover, replace_table


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("replace") / "slide.zarr"
    lm.datasets.phantom(n_cells=100).write(path)
    return path


@pytest.fixture
def store(written, tmp_path):
    return shutil.copytree(written, tmp_path / "slide.zarr")


def changed(store):
    table = sd.read_zarr(store)["table"]
    table.obsm["X_new"] = np.arange(table.n_obs * 2, dtype=np.float32).reshape(-1, 2)
    del table.obsm["spatial"]
    return table


def test_the_new_table_is_there_and_the_rest_is_untouched(store):
    before = {f: f.read_bytes() for f in (store / "images").rglob("*") if f.is_file()}
    table = changed(store)
    replace_table(store, table, table_key="table")
    again = sd.read_zarr(store)
    np.testing.assert_array_equal(again["table"].obsm["X_new"], table.obsm["X_new"])
    assert "spatial" not in again["table"].obsm
    assert {f: f.read_bytes() for f in before} == before
    assert set(again.shapes) == set(lm.datasets.phantom(n_cells=100).shapes)
    assert [entry.name for entry in store.parent.iterdir()] == [store.name]


def test_a_table_of_another_name_is_added(store):
    replace_table(store, changed(store), table_key="second")
    assert {"table", "second"} <= set(sd.read_zarr(store).tables)


@pytest.mark.parametrize("moment", [1, 2])
def test_dying_at_either_rename_loses_neither_table(store, monkeypatch, moment):
    table, rename, calls = changed(store), Path.rename, []

    def die(self, target):
        calls.append(target)
        if len(calls) == moment:
            raise SystemExit
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(SystemExit):
        replace_table(store, table, table_key="table")
    monkeypatch.undo()
    recover(store, table_key="table")
    assert "spatial" in sd.read_zarr(store)["table"].obsm
    replace_table(store, table, table_key="table")
    assert "X_new" in sd.read_zarr(store)["table"].obsm
    assert [entry.name for entry in store.parent.iterdir()] == [store.name]


def test_an_older_format_is_refused_before_anything_is_moved(store):
    table = changed(store)
    for file in list(store.rglob("zarr.json")):
        file.rename(file.with_name(".zgroup"))
    with pytest.raises(ValueError, match="older zarr format"):
        replace_table(store, table, table_key="table")
    assert (store / "tables" / "table").is_dir()
