"""What else stands for the nuclei: cells, centroids, and segmentations of one's own."""

import numpy as np
import pandas as pd
import pytest
from geopandas import GeoDataFrame
from layouts import RASTER, TO_GLOBAL, annotating, assert_recovered, at_cells, fresh, replaced
from spatialdata.models import PointsModel, ShapesModel

import lemon_sc as lm


@pytest.mark.parametrize("which", ["run", "old_run"])
def test_cell_boundaries_stand_for_nuclei(request, which):
    sdata = fresh(request.getfixturevalue(which))
    report = assert_recovered(sdata, "cell_boundaries", truth=at_cells(sdata))
    assert report.by == "cell_boundaries.index = table.cell_id"


@pytest.mark.parametrize("which", ["run", "old_run"])
def test_cell_circles_stand_for_nuclei(request, which):
    sdata = fresh(request.getfixturevalue(which))
    circles = ShapesModel.parse(
        sdata["table"].obsm["spatial"],
        geometry=0,
        radius=3.0,
        index=pd.Series(sdata["table"].obs["cell_id"].to_numpy()),
        transformations=TO_GLOBAL,
    )
    sdata.shapes["cell_circles"] = circles.iloc[::-1]
    assert_recovered(sdata, "cell_circles", truth=at_cells(sdata))
    annotating(sdata, "cell_circles", "cell_id")
    assert_recovered(sdata, "cell_circles", truth=at_cells(sdata))


def test_centroids_that_name_their_cells(run):
    sdata = fresh(run, without=("transcripts",))
    frame = pd.DataFrame(sdata["table"].obsm["spatial"], columns=["x", "y"])
    frame["cell_id"] = sdata["table"].obs["cell_id"].to_numpy()
    sdata.points["centres"] = PointsModel.parse(frame.iloc[::-1], transformations=TO_GLOBAL)
    assert_recovered(sdata, "centres", truth=at_cells(sdata))


def imported(run, index):
    """A segmentation of one's own: outlines with their own index, no ``cell_id``, and a table with one row for each."""
    sdata = fresh(run)
    own = sdata["nucleus_boundaries"].drop_duplicates("cell_id")
    cells = own["cell_id"].tolist()
    table = sdata["table"][[c in set(cells) for c in sdata["table"].obs["cell_id"]]].copy()
    number = dict(zip(cells, index(len(cells)), strict=True))
    ids = np.array([number[c] for c in table.obs["cell_id"]])
    largest = sdata["nucleus_boundaries"].assign(area=lambda f: f.area).sort_values("area").groupby("cell_id").tail(1)
    outlines = GeoDataFrame({"geometry": largest.set_index("cell_id").geometry.loc[cells].to_numpy()})
    outlines.index = [number[c] for c in cells]
    table.obs = table.obs[["total_counts"]].copy()
    table.obs_names = [f"row{i}" for i in range(table.n_obs)]
    del sdata.tables["table"]
    table.uns.clear()
    sdata.tables["table"] = table
    replaced(sdata, "mine", outlines)
    return sdata, ids


OWN_INDEX = {
    "numbers": lambda n: np.random.default_rng(3).permutation(n),
    "text": lambda n: [f"poly_{i}" for i in np.random.default_rng(3).permutation(n)],
    "negative numbers": lambda n: np.random.default_rng(3).permutation(n) - n // 2,
    "leading zeros": lambda n: [
        *(str(i) for i in range(1, n // 2 + 1)),
        *(f"{i:03d}" for i in range(1, n - n // 2 + 1)),
    ],
}


@pytest.mark.parametrize("index", OWN_INDEX)
def test_an_imported_segmentation_with_a_table_that_annotates_it(run, index):
    sdata, ids = imported(run, OWN_INDEX[index])
    annotating(sdata, "mine", "instance_id", ids)
    report = assert_recovered(sdata, "mine")
    assert report.by == "mine.index = table.instance_id"
    assert sdata["table"].obs["nucleus_id"].tolist() == [str(i) for i in ids]


def test_an_imported_label_image_with_a_table_that_annotates_it(run):
    sdata = fresh(run, without=("nucleus_boundaries", "cell_labels"))
    table, first = sdata["table"], run["nucleus_boundaries"].reset_index(names="number").drop_duplicates("cell_id")
    number = dict(zip(first["cell_id"], first["number"], strict=True))
    kept = table[[c in number for c in table.obs["cell_id"]]].copy()
    ids = [number[c] for c in kept.obs["cell_id"]]
    once = run["nucleus_boundaries"]["cell_id"].value_counts()[kept.obs["cell_id"]].to_numpy() == 1
    del kept.obs["cell_id"], sdata.tables["table"]
    sdata.tables["table"] = kept
    annotating(sdata, "nucleus_labels", "instance_id", ids)
    lm.pp.extract_nuclei(sdata, shapes_key="nucleus_labels")
    found = sdata["table"].obsm["nucleus_xy"]
    np.testing.assert_allclose(found[once], kept.obsm["truth_xy"][once], atol=RASTER)
    assert lm.pp.check_join(sdata, shapes_key="nucleus_labels").by == "nucleus_labels.index = table.instance_id"


def test_an_imported_segmentation_without_annotation_is_found_by_row_names(run):
    sdata, ids = imported(run, OWN_INDEX["text"])
    sdata["table"].obs_names = ids.tolist()
    assert "spatialdata_attrs" not in sdata["table"].uns
    report = assert_recovered(sdata, "mine")
    assert report.by == "mine.index = table.obs_names"


def test_a_table_without_annotation_that_matches_nothing_says_so(run):
    sdata, _ = imported(run, OWN_INDEX["text"])
    with pytest.raises(ValueError, match=r"annotates no element \(it has no `spatialdata_attrs`\)\. Give the nuclei"):
        lm.pp.extract_nuclei(sdata, shapes_key="mine")


@pytest.mark.parametrize("which", ["run", "old_run", "run_1_3"])
def test_tables_without_annotation(request, which):
    sdata = fresh(request.getfixturevalue(which))
    del sdata["table"].uns["spatialdata_attrs"]
    assert_recovered(sdata)
    del sdata["table"].obs["cell_id"]
    report = assert_recovered(sdata)
    assert report.by.endswith("= table.obs_names")
