import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lemon_sc.io.ids import as_text, may_be_ids, repeated, rows_of, share_in_place, without

STORED = {
    "int": np.array([7, 12]),
    "int16": pd.Series([7, 12], dtype="int16"),
    "uint64": pd.Series([7, 12], dtype="uint64"),
    "Int64": pd.Series([7, 12], dtype="Int64"),
    "float": np.array([7.0, 12.0]),
    "float32 objects": np.array([np.float32(7), np.float32(12)], dtype=object),
    "text": ["7", "12"],
    "str": pd.Series(["7", "12"], dtype="str"),
    "string": pd.Series(["7", "12"], dtype="string"),
    "pyarrow": pd.Series(["7", "12"], dtype="string[pyarrow]"),
    "large pyarrow": pd.Series(["7", "12"], dtype=pd.ArrowDtype(pa.large_string())),
    "pyarrow int": pd.Series([7, 12], dtype=pd.ArrowDtype(pa.int32())),
    "bytes": [b"7", b"12"],
    "fixed bytes": np.array([b"7", b"12"]),
    "pyarrow binary": pd.Series([b"7", b"12"], dtype=pd.ArrowDtype(pa.binary())),
    "categorical text": pd.Categorical(["7", "12"]),
    "categorical int": pd.Series(pd.Categorical([7, 12], categories=[12, 7, 3])),
    "categorical bytes": pd.Categorical([b"7", b"12"]),
    "named index": pd.Index([7, 12], name="cell_id"),
}


@pytest.mark.parametrize("stored", STORED)
def test_an_id_is_one_whatever_it_is_stored_as(stored):
    found = as_text(STORED[stored])
    assert found.tolist() == ["7", "12"]
    assert all(type(i) is str for i in found)
    assert may_be_ids(pd.Series(STORED[stored]))


def test_ids_that_look_alike_are_kept_apart():
    ids = ["007", "7", "7.5", "-7", " 7", "aaaabbcc-1", "aaaabbcc-2"]
    assert as_text(ids).tolist() == ids
    assert as_text([-7, 7]).tolist() == ["-7", "7"]
    assert as_text([2**53 + 1, 2**53]).tolist() == ["9007199254740993", "9007199254740992"]
    assert as_text([b"\xff", b"\xfe"]).tolist() == ["\\xff", "\\xfe"]


@pytest.mark.parametrize(
    "ids",
    [
        np.array([7.0, np.nan]),
        pd.Series([7, None], dtype="Int64"),
        pd.Series(["7", None], dtype="string[pyarrow]"),
        pd.Categorical(["7", None]),
        ["7", None],
        ["7", pd.NA],
        ["7", ""],
    ],
)
def test_a_missing_id_is_no_text(ids):
    assert as_text(ids).tolist() == ["7", ""]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([0.5, 1.5]),
        pd.Series([np.nan, np.nan]),
        pd.Series([1.0, np.inf]),
        pd.Series([True, False]),
        pd.Series(pd.Categorical([0.5, 1.5])),
        pd.Series(pd.to_datetime(["2024-01-01"])),
        pd.Series([{"a": 1}], dtype=object),
        pd.Series([None], dtype=object),
    ],
)
def test_measurements_are_no_ids(values):
    assert not may_be_ids(values)


def test_missing_ids_repeat_freely_and_join_to_nothing():
    table = as_text(["a", None, "b", None])
    assert repeated(table).tolist() == []
    assert repeated(as_text(["b", "a", "b", "a", "b"])).tolist() == ["b", "a"]
    assert rows_of(as_text(["b", None, "", "x", "a", "b"]), table).tolist() == [2, -1, -1, -1, 0, 2]
    assert rows_of(as_text(["a"]), as_text(["a", "a"])).tolist() == [0]
    assert without(table, np.array([True, False, False, False])).tolist() == ["", "", "b", ""]
    assert table.tolist() == ["a", "", "b", ""]


@pytest.fixture
def cells():
    """Centres of 400 cells about 10 um apart, and of the nucleus that lies in each."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2) * 10.0
    spatial = grid + rng.uniform(-2, 2, grid.shape)
    return spatial, spatial + rng.uniform(-2, 2, grid.shape)


MATRIX = np.array([[0.0, -3.65], [3.7, 0.2]])


@pytest.mark.parametrize("matrix", [np.eye(2), MATRIX, np.diag([-1.0, 1.0])])
def test_right_pairs_lie_together_in_whatever_frame(cells, matrix):
    spatial, nuclei = cells
    row = np.random.default_rng(1).permutation(400)
    xy = (nuclei @ matrix + [500, -100])[row]
    assert share_in_place(xy, row, spatial) > 0.99
    row[:100] = -1
    assert share_in_place(xy, row, spatial) > 0.99


def test_wrong_pairs_do_not(cells):
    spatial, nuclei = cells
    assert share_in_place(nuclei, np.random.default_rng(2).permutation(400), spatial) < 0.05
    assert share_in_place(nuclei, (np.arange(400) + 1) % 400, spatial) < 0.2, "numbers off by one"


def test_what_cannot_be_told_is_nan(cells):
    spatial, nuclei = cells
    row = np.arange(400)
    assert np.isnan(share_in_place(nuclei, row, None))
    assert np.isnan(share_in_place(nuclei, np.full(400, -1), spatial))
    assert np.isnan(share_in_place(nuclei[:9], row[:9], spatial))
    assert np.isnan(share_in_place(nuclei, row, np.round(spatial / 50))), "spots hold many cells"
    assert np.isnan(share_in_place(np.full((400, 2), np.nan), row, spatial))
    some = spatial.copy()
    some[:50] = np.nan
    assert share_in_place(nuclei, row, some) > 0.99


def test_only_some_of_many_nuclei_are_asked(cells, monkeypatch):
    from lemon_sc.io import ids

    monkeypatch.setattr(ids, "MAX_ASKED", 30)
    spatial, nuclei = cells
    assert share_in_place(nuclei, np.arange(400), spatial) > 0.99
