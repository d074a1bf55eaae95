"""Odd ids: missing, repeated, with leading zeros, negative."""

import numpy as np
import pandas as pd
import pytest
from layouts import assert_recovered, fresh, replaced

import lemon_sc as lm


def test_cells_without_nuclei_and_nuclei_without_cells(run):
    sdata = fresh(run)
    shapes = sdata["nucleus_boundaries"]
    cells = shapes["cell_id"].drop_duplicates().tolist()
    gone, strangers = cells[:7], cells[7:12]
    kept = shapes[~shapes["cell_id"].isin(gone)].copy()
    n_strange = int(kept["cell_id"].isin(strangers).sum())
    numbers = kept.index[kept["cell_id"].isin(strangers)]
    replaced(sdata, "nucleus_boundaries", kept)
    table = sdata["table"][~sdata["table"].obs["cell_id"].isin(strangers).to_numpy()].copy()
    del sdata.tables["table"]
    sdata.tables["table"] = table
    truth = table.obsm["truth_xy"].copy()
    truth[table.obs["cell_id"].isin(gone).to_numpy()] = np.nan
    report = assert_recovered(sdata, truth=truth)
    assert set(gone) <= set(report.missing)
    assert report.n_unmatched == n_strange
    assert set(report.unmatched) == {str(i) for i in numbers}


def test_missing_ids_on_both_sides(run):
    sdata = fresh(run)
    obs, shapes = sdata["table"].obs, sdata["nucleus_boundaries"]
    lost = obs["cell_id"].iloc[[0, 1, 2]].tolist()
    nameless = shapes["cell_id"].iloc[[0, 1]].tolist()
    truth = sdata["table"].obsm["truth_xy"].copy()
    once = shapes["cell_id"].value_counts()
    assert all(once[c] == 1 for c in nameless)
    truth[obs["cell_id"].isin([*lost, *nameless]).to_numpy()] = np.nan
    obs["cell_id"] = [None, np.nan, "", *obs["cell_id"].iloc[3:]]
    shapes["cell_id"] = [None, np.nan, *shapes["cell_id"].iloc[2:]]
    report = assert_recovered(sdata, truth=truth)
    assert set(obs.index[:3]) <= set(report.missing), "by row name, for want of an id"


def test_ids_that_repeat_in_the_table_are_refused(run):
    sdata = fresh(run)
    ids = sdata["table"].obs["cell_id"].tolist()
    sdata["table"].obs["cell_id"] = [ids[1], *ids[1:]]
    del sdata["table"].obsm["spatial"]
    with pytest.raises(ValueError, match=rf"`table.cell_id` names 1 cells more than once \(\['{ids[1]}'\]\)"):
        lm.pp.extract_nuclei(sdata)


def test_ids_that_repeat_among_the_nuclei_are_several_nuclei_of_a_cell(old_run):
    sdata = fresh(old_run)
    shapes = sdata["nucleus_boundaries"]
    small = shapes.iloc[:4].copy()
    small["geometry"] = small.geometry.scale(0.5, 0.5).translate(1.0, 0.0)
    small.attrs = {}
    other = shapes.copy()
    other.attrs = {}
    replaced(sdata, "nucleus_boundaries", pd.concat([small, other]))
    report = assert_recovered(sdata)
    assert report.n_several == 4


def test_leading_zeros_are_kept_apart(old_run):
    """ "007" and "7" are two cells."""
    sdata = fresh(old_run)
    obs, shapes = sdata["table"].obs, sdata["nucleus_boundaries"]
    cells = sorted(obs["cell_id"])
    names = {c: f"{i // 2:0{1 + 2 * (i % 2)}d}" for i, c in enumerate(cells)}
    assert {"7", "007"} <= set(names.values())
    assert len(set(names.values())) == len(cells)
    obs["cell_id"] = [names[c] for c in obs["cell_id"]]
    shapes.index = pd.Index([names[c] for c in shapes.index])
    assert_recovered(sdata)


def test_negative_ids(old_run):
    sdata = fresh(old_run)
    sdata["table"].obs["cell_id"] = -sdata["table"].obs["cell_id"]
    sdata["nucleus_boundaries"].index = -sdata["nucleus_boundaries"].index
    assert_recovered(sdata)


@pytest.mark.parametrize("name", ["H/E", "he/image", "a\\b", "he image"])
def test_names_with_slashes_are_refused(run, name):
    sdata = fresh(run)
    with pytest.raises(ValueError, match="`key_added` must hold only letters, digits, '_', '.', '-'"):
        lm.pp.add_image(sdata, np.zeros((9, 9, 3), np.uint8), key_added=name)
    lm.pp.extract_nuclei(sdata)
    with pytest.raises(ValueError, match="`key_added` must hold only letters, digits, '_', '.', '-'"):
        lm.tl.embed(sdata, key_added=name)
