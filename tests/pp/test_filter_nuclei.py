import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc._core.keys import QC_CATEGORIES


@pytest.fixture
def judged(scene):
    """A scene whose 25 nuclei have verdicts and crowding that are known."""
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store="memory")
    verdict = np.full(25, "ok", dtype=object)
    verdict[[1, 8]], verdict[5], verdict[[20, 21, 22]] = "pen", "border", "blurred"
    table = sdata["table"]
    table.obs["nucleus_qc"] = pd.Categorical(verdict, categories=QC_CATEGORIES)
    table.obs["nucleus_crowding"] = np.linspace(0, 0.96, 25).astype(np.float32)
    return sdata


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({}, [1, 5, 8, 20, 21, 22]),
        ({"keep": "ok"}, [1, 5, 8, 20, 21, 22]),
        ({"keep": ["ok", "pen", "border"]}, [20, 21, 22]),
        ({"max_crowding": 0.5}, [1, 5, 8, *range(13, 25)]),
        ({"keep": QC_CATEGORIES, "max_crowding": 0.9}, [23, 24]),
    ],
)
@pytest.mark.parametrize("as_table", [True, False], ids=["AnnData", "SpatialData"])
def test_rows_that_do_not_pass_go(judged, as_table, options, gone):
    table = judged["table"]
    before = table.copy()
    lm.pp.filter_nuclei(table if as_table else judged, **options)
    expected = np.setdiff1d(np.arange(25), gone)
    assert judged["table"] is table, "a name that the user gave to the table still points to it"
    assert table.obs_names.tolist() == before.obs_names[expected].tolist()
    np.testing.assert_array_equal(table.X, before.X[expected])
    np.testing.assert_array_equal(table.obsm["nuclei"], before.obsm["nuclei"][expected])
    assert not table.is_view


def test_it_says_how_many_go_and_why(judged, caplog):
    with caplog.at_level(logging.INFO):
        lm.pp.filter_nuclei(judged, max_crowding=0.5)
    assert "10 of 25 cells kept; 3 blurred, 2 pen, 1 border, 9 crowded by more than 0.5" in caplog.text
    assert "No pixels" not in caplog.text


def test_cells_without_a_nucleus_are_not_crowded(judged):
    table = judged["table"]
    table.obs["nucleus_crowding"] = np.float32(np.nan)
    lm.pp.filter_nuclei(table, max_crowding=0.5)
    assert table.n_obs == 19


@pytest.mark.parametrize("as_table", [True, False], ids=["AnnData", "SpatialData"])
def test_a_copy_leaves_the_original(judged, as_table):
    data = judged["table"] if as_table else judged
    new = lm.pp.filter_nuclei(data, copy=True)
    assert type(new) is type(data)
    assert judged["table"].n_obs == 25
    table = new if as_table else new["table"]
    assert table.n_obs == 19
    if not as_table:
        assert new["he_image"] is judged["he_image"]
        assert set(new.shapes) == set(judged.shapes)
    table.obs["mine"] = 1
    assert "mine" not in judged["table"].obs


@pytest.mark.parametrize("store", [None, "memory", "path"])
@pytest.mark.parametrize("multiple", ["largest", "mean"])
def test_embedding_afterwards_gives_the_rows_of_the_whole(scene, tmp_path, store, multiple):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr" if store == "path" else store, multiple=multiple)
    lm.tl.embed(sdata)
    whole = sdata["table"].copy()
    sdata["table"].obs["nucleus_qc"] = pd.Categorical(
        np.where(np.arange(25) % 3, "ok", "border"), categories=QC_CATEGORIES
    )
    lm.pp.filter_nuclei(sdata)
    table = sdata["table"]
    del table.obsm["X_lemon"]
    lm.tl.embed(sdata)
    np.testing.assert_array_equal(table.obsm["X_lemon"], whole[table.obs_names].obsm["X_lemon"])


def test_before_pixels_were_seen_it_says_so(scene, caplog):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    lm.pp.filter_nuclei(sdata)
    assert "No pixels have been looked at yet" in caplog.text
    assert "blank, off_tissue, pen, saturated, blurred" in caplog.text
    caplog.clear()
    lm.tl.embed(sdata)
    lm.pp.filter_nuclei(sdata)
    assert "No pixels" not in caplog.text


def test_a_view_becomes_a_table(judged):
    view = judged["table"][judged["table"].obs_names[:10]]
    lm.pp.filter_nuclei(view)
    assert not view.is_view
    assert view.n_obs == 7
    assert judged["table"].n_obs == 25


def test_the_table_names_only_regions_that_are_left(judged, tmp_path):
    table = judged["table"]
    other = table.obs["nucleus_qc"] == "pen"
    table.obs["region"] = pd.Categorical(np.where(other, "other", "cell_labels"))
    table.uns["spatialdata_attrs"]["region"] = ["cell_labels", "other"]
    new = lm.pp.filter_nuclei(judged, copy=True)
    assert list(new["table"].uns["spatialdata_attrs"]["region"]) == ["cell_labels"]
    assert list(table.uns["spatialdata_attrs"]["region"]) == ["cell_labels", "other"]
    new.write(tmp_path / "s.zarr")
    assert sd.read_zarr(tmp_path / "s.zarr")["table"].obs_names.tolist() == new["table"].obs_names.tolist()


def no_verdicts(table):
    del table.obs["nucleus_qc"]


def no_crowding(table):
    del table.obs["nucleus_crowding"]


def none_ok(table):
    table.obs["nucleus_qc"] = pd.Categorical(["pen"] * 25, categories=QC_CATEGORIES)


@pytest.mark.parametrize(
    ("damage", "options", "error", "message"),
    [
        (no_verdicts, {}, MissingKeyError, "'nucleus_qc' not found in `adata.obs`.*Run `lm.pp.extract_nuclei` first"),
        (no_crowding, {"max_crowding": 0.5}, MissingKeyError, "'nucleus_crowding' not found in `adata.obs`"),
        (none_ok, {}, ValueError, r"No cell would be left \(25 pen\)"),
        (None, {"keep": "okay"}, ValueError, r"`keep` must be one of .*Did you mean 'ok'"),
        (None, {"keep": ["ok", "blured"]}, ValueError, "Did you mean 'blurred'"),
        (None, {"keep": []}, ValueError, "`keep` must name at least one verdict"),
        (None, {"max_crowding": 50}, ValueError, "`max_crowding` must be a number from 0 to 1, or None, got 50"),
        (None, {"max_crowding": float("nan")}, ValueError, "`max_crowding` must be a number from 0 to 1"),
        (None, {"table_key": "tabel"}, MissingKeyError, "Did you mean 'table'"),
    ],
)
def test_bad_input_says_what_to_do_and_changes_nothing(judged, damage, options, error, message):
    table = judged["table"]
    if damage is not None:
        damage(table)
    before = table.copy()
    with pytest.raises(error, match=message):
        lm.pp.filter_nuclei(judged, **options)
    pd.testing.assert_frame_equal(table.obs, before.obs)
    assert list(table.obsm) == list(before.obsm)


def test_a_table_on_disk_is_refused(judged, tmp_path):
    judged["table"].write_h5ad(tmp_path / "t.h5ad")
    backed = ad.read_h5ad(tmp_path / "t.h5ad", backed="r+")
    with pytest.raises(ValueError, match=r"backed by a file.*to_memory\(\)"):
        lm.pp.filter_nuclei(backed)
    assert backed.n_obs == 25
    backed.file.close()
