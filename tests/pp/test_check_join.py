import dataclasses

import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData
from spatialdata.models import Labels2DModel, PointsModel
from spatialdata.transformations import Identity

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError


def damaged(sdata):
    """Three cells lose their nucleus, two nuclei their cell, one cell gets two."""
    shapes = sdata["nucleus_boundaries"]
    ids = sdata["table"].obs["cell_id"].tolist()
    names = shapes["cell_id"].replace({ids[0]: "gone0", ids[1]: "gone1", ids[2]: ids[3]})
    strangers = shapes.index[names.isin(["gone0", "gone1"])]
    shapes["cell_id"] = names
    return ids, strangers


def test_a_whole_join(scene, caplog):
    sdata, _ = scene
    with caplog.at_level("INFO", logger="lemon_sc"):
        report = lm.pp.check_join(sdata)
    assert report.ok
    assert report.by == "nucleus_boundaries.cell_id = table.cell_id"
    assert (report.n_nuclei, report.n_cells, report.n_matched) == (25, 25, 25)
    assert (report.n_missing, report.n_several, report.n_unmatched) == (0, 0, 0)
    assert report.missing.tolist() == report.unmatched.tolist() == []
    assert report.in_place == 1
    assert caplog.records[-1].levelname == "INFO"
    assert "25 of 25 cells have a nucleus" in caplog.text
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.ok = False


def test_what_is_missing_unmatched_and_several(scene):
    sdata, _ = scene
    ids, strangers = damaged(sdata)
    report = lm.pp.check_join(sdata)
    assert report.ok
    assert (report.n_matched, report.n_missing, report.n_several, report.n_unmatched) == (22, 3, 1, 2)
    assert set(report.missing) == set(ids[:3])
    assert set(report.unmatched) == {str(i) for i in strangers}
    assert str(report).startswith(
        "Join ok: 22 of 25 cells have a nucleus, 1 of them more than one, and 2 of 25 nuclei belong to no cell of the "
        "table (joined by nucleus_boundaries.cell_id = table.cell_id)."
    )


def test_it_says_what_extraction_does(scene):
    sdata, _ = scene
    damaged(sdata)
    report = lm.pp.check_join(sdata)
    lm.pp.extract_nuclei(sdata)
    obs, record = sdata["table"].obs, sdata["table"].uns["lemon_sc"]["nuclei"]
    assert record["joined_by"] == report.by
    assert record["n_nuclei_without_cell"] == report.n_unmatched
    assert set(obs["cell_id"][obs["n_nuclei"] == 0]) == set(report.missing)
    assert (obs["n_nuclei"] > 1).sum() == report.n_several


def test_nothing_is_changed_and_no_image_is_needed(scene):
    sdata, _ = scene
    bare = SpatialData(shapes=dict(sdata.shapes), tables={"cells": sdata["table"]})
    before = sdata["table"].copy()
    assert lm.pp.check_join(bare, table_key="cells").ok
    pd.testing.assert_frame_equal(before.obs, sdata["table"].obs)
    assert list(before.uns) == list(sdata["table"].uns)
    assert list(before.obsm) == list(sdata["table"].obsm)


def test_a_join_that_finds_nothing_is_reported(scene, caplog):
    sdata, _ = scene
    table = sdata["table"]
    table.obs_names = table.obs["cell_id"].tolist()
    table.obs["cell_id"] = [f"other{i}" for i in range(25)]
    report = lm.pp.check_join(sdata)
    assert not report.ok
    assert (report.n_matched, report.n_missing, report.n_unmatched) == (0, 25, 25)
    assert set(report.missing) == set(table.obs["cell_id"])
    assert "\n" not in report.verdict
    fix = """run `sdata['table'].obs['cell_id'] = sdata['table'].obs_names`"""
    assert fix in report.verdict
    assert str(report).startswith("Join NOT ok: No nucleus of 'nucleus_boundaries' belongs to a row")
    assert caplog.records[-1].levelname == "WARNING"
    with pytest.raises(ValueError, match="No nucleus of 'nucleus_boundaries'") as caught:
        lm.pp.extract_nuclei(sdata)
    assert report.verdict in str(caught.value)


def test_all_pairings_are_tried(scene):
    sdata, _ = scene
    tried = lm.pp.check_join(sdata).tried.set_index(["nuclei", "table"])
    assert list(tried.columns) == ["n_nuclei", "n_cells", "in_place"]
    both = [(a, b) for a in ("cell_id", "index") for b in ("cell_id", "obs_names", "cell_labels")]
    assert set(tried.index) == {(f"nucleus_boundaries.{a}", f"table.{b}") for a, b in both}
    assert tried.loc[("nucleus_boundaries.cell_id", "table.cell_id")].tolist() == [25, 25, 1.0]
    assert tried.loc[("nucleus_boundaries.index", "table.cell_labels"), "n_nuclei"] == 25
    assert tried.loc[("nucleus_boundaries.index", "table.obs_names"), "n_nuclei"] == 0


def test_ids_that_match_and_mean_other_cells(scene, caplog):
    """The places of the cells contradict what the ids say."""
    sdata, _ = scene
    shapes = sdata["nucleus_boundaries"]
    shapes["cell_id"] = np.random.default_rng(0).permutation(shapes["cell_id"])
    report = lm.pp.check_join(sdata)
    assert not report.ok
    assert report.in_place < 0.3
    assert "the ids match, but only" in report.verdict
    assert "may not mean the same cells" in report.verdict
    lm.pp.extract_nuclei(sdata)
    assert "lie closest to their own cell" in caplog.text
    assert "lm.pp.check_join" in caplog.text


@pytest.mark.parametrize(("n", "warned"), [(13, False), (12, True)])
def test_a_filtered_table_is_ok_and_pointed_out(scene, caplog, n, warned):
    sdata, _ = scene
    table = sdata["table"][:n].copy()
    del sdata.tables["table"]
    sdata.tables["table"] = table
    report = lm.pp.check_join(sdata)
    assert report.ok, "every cell has its nucleus"
    assert (report.n_matched, report.n_missing, report.n_unmatched) == (n, 0, 25 - n)
    lm.pp.extract_nuclei(sdata)
    said = f"only {n} of 25 nuclei belong to one of the {n} cells of the table"
    assert (said in caplog.text) is warned


def test_a_join_of_a_part_is_not_ok(scene):
    sdata, _ = scene
    shapes = sdata["nucleus_boundaries"]
    shapes["cell_id"] = [*shapes["cell_id"].iloc[:12], *(f"x{i}" for i in range(13))]
    report = lm.pp.check_join(sdata)
    assert not report.ok
    assert report.verdict.startswith("only a part matches: 12 of 25 cells")


def test_ids_that_repeat_are_reported(scene):
    sdata, _ = scene
    ids = sdata["table"].obs["cell_id"].tolist()
    sdata["table"].obs["cell_id"] = [ids[1], *ids[1:]]
    report = lm.pp.check_join(sdata)
    assert not report.ok
    assert f"names 1 cells more than once (['{ids[1]}'])" in report.verdict
    assert report.n_matched == 0
    assert str(report)


def test_no_nuclei_at_all(scene):
    sdata, _ = scene
    blank = np.zeros((9, 9), dtype=np.int32)
    sdata.labels["none"] = Labels2DModel.parse(blank, dims=("y", "x"), transformations={"global": Identity()})
    report = lm.pp.check_join(sdata, shapes_key="none")
    assert not report.ok
    assert report.verdict == "'none' holds no nuclei."
    assert report.n_missing == 25
    assert str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes_key": "nuclei"}, "'nuclei' not found in `sdata.shapes, .labels, .points`"),
        ({"table_key": "tabel"}, "'tabel' not found in `sdata.tables`.*Did you mean 'table'"),
        ({"shapes_key": "centres"}, "'cell_id' not found in `points`"),
    ],
)
def test_missing_elements(scene, options, message):
    sdata, _ = scene
    sdata.points["centres"] = PointsModel.parse(np.zeros((3, 2)), transformations={"global": Identity()})
    with pytest.raises(MissingKeyError, match=message):
        lm.pp.check_join(sdata, **options)


@pytest.mark.parametrize(("column", "key"), [("region", "region_key"), ("cell_labels", "instance_key")])
def test_columns_that_the_table_declares_and_lacks(scene, column, key):
    sdata, _ = scene
    del sdata["table"].obs[column]
    with pytest.raises(MissingKeyError, match=f"'{column}' not found in `table.obs`.*It is the table's `{key}`"):
        lm.pp.check_join(sdata)


def test_other_objects_are_refused(scene):
    with pytest.raises(TypeError, match="must be a SpatialData, got AnnData"):
        lm.pp.check_join(scene[0]["table"])
    with pytest.raises(TypeError, match="got dict"):
        lm.pp.check_join({})
