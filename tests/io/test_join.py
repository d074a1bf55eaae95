from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from spatialdata.models import Labels2DModel, PointsModel, TableModel
from spatialdata.transformations import Identity

from lemon_sc._core.errors import MissingKeyError
from lemon_sc.io.elements import find_nuclei
from lemon_sc.io.ids import as_text
from lemon_sc.io.join import join_nuclei
from lemon_sc.io.sides import Labels


def joined(sdata, shapes_key="nucleus_boundaries", labels=None):
    nuclei, kind = find_nuclei(sdata, shapes_key)
    return join_nuclei(sdata, sdata["table"], nuclei=nuclei, kind=kind, shapes_key=shapes_key, labels=labels)


def assert_true_join(sdata, join):
    """Every nucleus got the row of the cell whose name it carries in the scene."""
    expected = sdata["table"].obs["cell_id"].astype(str).to_numpy()[join.row]
    np.testing.assert_array_equal(expected, join.cell_id)


def test_ids_are_one_whatever_they_are_stored_as():
    for ids in ([7, 12], ["7", "12"], [b"7", b"12"], np.array([7.0, 12.0]), pd.Series([7, 12], dtype="int16")):
        assert as_text(ids).tolist() == ["7", "12"]
    assert as_text(pd.Categorical(["aaaa-1", "bbbb-1"])).tolist() == ["aaaa-1", "bbbb-1"]


def test_missing_ids_join_to_nothing(scene):
    assert as_text(np.array([7.0, np.nan])).tolist() == ["7", ""]
    assert as_text(["a", None, pd.NA]).tolist() == ["a", "", ""]
    sdata, _ = scene
    gone = sdata["table"].obs["cell_id"].iloc[[0, 1]].tolist()
    sdata["table"].obs["cell_id"] = [None, None, *sdata["table"].obs["cell_id"].iloc[2:]]
    join = joined(sdata)
    assert set(join.cell_id[join.row < 0]) == set(gone)


def test_nuclei_numbered_by_label_with_a_cell_id(scene):
    """XOA >= 2: index and the table's instance key are both integers, and mean different things."""
    sdata, _ = scene
    sdata["nucleus_boundaries"].index = sdata["nucleus_boundaries"].index[::-1]
    join = joined(sdata)
    assert join.by == "nucleus_boundaries.cell_id = table.cell_id"
    assert_true_join(sdata, join)


def xoa1(sdata, *, table_as=np.int32, shapes_as=np.int64):
    """XOA 1: nuclei are indexed by cell id; numbers here, text there."""
    number = {name: 4613 + i for i, name in enumerate(sorted(sdata["table"].obs["cell_id"]))}
    shapes = sdata["nucleus_boundaries"]
    shapes.index = pd.Index([number[c] for c in shapes["cell_id"]]).astype(shapes_as)
    del shapes["cell_id"]
    obs = sdata["table"].obs
    obs["cell_id"] = pd.Series([number[c] for c in obs["cell_id"]], index=obs.index).astype(table_as)


@pytest.mark.parametrize(
    ("table_as", "shapes_as"), [(np.int32, np.int64), (str, np.int64), (np.int64, str), (str, str)]
)
def test_numbers_and_text_join(scene, table_as, shapes_as):
    sdata, _ = scene
    xoa1(sdata, table_as=table_as, shapes_as=shapes_as)
    join = joined(sdata)
    assert join.by == "nucleus_boundaries.index = table.cell_id"
    assert_true_join(sdata, join)


def test_a_table_that_annotates_the_nuclei_joins_by_its_instance_key(scene):
    sdata, _ = scene
    names = sdata["nucleus_boundaries"].set_index("cell_id").index
    table = sdata["table"].copy()
    table.obs["nucleus"] = [int(np.flatnonzero(names == c)[0]) + 1 for c in table.obs["cell_id"]]
    table.obs["region"] = pd.Categorical(["nucleus_boundaries"] * table.n_obs)
    del table.uns["spatialdata_attrs"]
    sdata.tables["table"] = TableModel.parse(
        table, region="nucleus_boundaries", region_key="region", instance_key="nucleus"
    )
    join = joined(sdata)
    assert join.by == "nucleus_boundaries.index = table.nucleus"
    own = sdata["nucleus_boundaries"]["cell_id"].to_numpy()
    np.testing.assert_array_equal(sdata["table"].obs["cell_id"].to_numpy()[join.row], own)


def label_image(sdata, values, at):
    """Add an (empty) label image in global px; return what it would hold with `values` on the outlines `at`."""
    blank = np.zeros((9, 9), dtype=np.int32)
    sdata.labels["labels"] = Labels2DModel.parse(blank, dims=("y", "x"), transformations={"global": Identity()})
    c = sdata["nucleus_boundaries"].geometry.loc[at].centroid
    return Labels(values=np.array(values), xy=np.column_stack([c.x, c.y]) / 0.2125)


def test_labels_join_through_the_outlines_they_lie_on(scene):
    sdata, _ = scene
    join = joined(sdata, "labels", label_image(sdata, [3, 1, 9], at=[3, 1, 9]))
    assert join.nucleus_id.tolist() == ["3", "1", "9"]
    assert join.cell_id.tolist() == sdata["nucleus_boundaries"]["cell_id"].loc[[3, 1, 9]].tolist()
    assert_true_join(sdata, join)


def test_labels_of_another_segmentation_do_not_take_its_numbers(scene):
    """The same numbers elsewhere: a segmentation of one's own, numbered from 1."""
    sdata, _ = scene
    with pytest.raises(ValueError, match="No nucleus of 'labels' belongs to a row"):
        joined(sdata, "labels", label_image(sdata, [1, 2, 3], at=[9, 8, 7]))


def test_centroids_must_name_their_cells(scene):
    sdata, _ = scene
    um = pd.DataFrame(sdata["table"].obsm["spatial"], columns=["x", "y"])
    sdata.points["centres"] = PointsModel.parse(um, transformations={"global": Identity()})
    with pytest.raises(MissingKeyError, match=r"'cell_id' not found in `points`.*must name the cell"):
        joined(sdata, "centres")


def test_some_nuclei_without_a_row_are_marked(scene):
    sdata, _ = scene
    sdata.tables["table"] = sdata["table"][:10].copy()
    join = joined(sdata)
    assert (join.row >= 0).sum() == 10
    there = join.row >= 0
    assert_true_join(sdata, replace(join, row=join.row[there], cell_id=join.cell_id[there]))


def test_ids_that_share_nothing_are_shown(scene):
    sdata, _ = scene
    sdata["nucleus_boundaries"]["cell_id"] = [f"x{i}" for i in range(25)]
    with pytest.raises(ValueError, match=r"No nucleus .*'x0'.* against .*'cell0\d\d'.*cell_id"):
        joined(sdata)


def test_ids_that_stand_twice(scene):
    sdata, _ = scene
    sdata["table"].obs["cell_id"] = ["cell000", "cell000", *sdata["table"].obs["cell_id"][2:]]
    with pytest.raises(ValueError, match=r"names 1 cells more than once \(\['cell000'\]\)"):
        joined(sdata)


def test_an_instance_key_that_is_gone(scene):
    sdata, _ = scene
    del sdata["table"].obs["cell_labels"]
    with pytest.raises(MissingKeyError, match=r"'cell_labels' not found in `table.obs`.*instance_key"):
        joined(sdata)


def test_without_a_cell_id_the_row_names_serve(scene):
    sdata, _ = scene
    table = sdata["table"]
    table.obs_names = table.obs["cell_id"].tolist()
    del table.obs["cell_id"]
    join = joined(sdata)
    assert join.by == "nucleus_boundaries.cell_id = table.obs_names"
    np.testing.assert_array_equal(table.obs_names[join.row], join.cell_id)
