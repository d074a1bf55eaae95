"""Which ids could be joined, and whether the advice works when it is followed to the letter."""

import re

import numpy as np
import pandas as pd
import pytest
from spatialdata.models import TableModel

import lemon_sc as lm
from lemon_sc.io.ids import as_text
from lemon_sc.io.pairings import shape_columns, show, table_sides, try_pairings


def annotate_nuclei(sdata, instance_key):
    table = sdata["table"]
    table.obs["region"] = pd.Categorical(["nucleus_boundaries"] * table.n_obs)
    table.uns.pop("spatialdata_attrs")
    sdata.tables["table"] = TableModel.parse(
        table, region="nucleus_boundaries", region_key="region", instance_key=instance_key
    )


def numbers(sdata):
    """Number of the nucleus of each row, from the scene's own names."""
    index = pd.Series(sdata["nucleus_boundaries"].index, index=sdata["nucleus_boundaries"]["cell_id"].to_numpy())
    return index[sdata["table"].obs["cell_id"]].to_numpy()


def in_row_names(sdata):
    table = sdata["table"]
    table.obs_names = table.obs["cell_id"].tolist()
    table.obs["cell_id"] = [f"other{i}" for i in range(25)]


def in_another_column_of_the_table(sdata):
    obs = sdata["table"].obs
    obs["barcode"] = obs["cell_id"].to_numpy()
    obs["cell_id"] = [f"other{i}" for i in range(25)]


def in_another_column_of_the_nuclei(sdata):
    shapes = sdata["nucleus_boundaries"]
    shapes["barcode"] = shapes["cell_id"]
    shapes["cell_id"] = [f"another{i}" for i in range(25)]


def in_a_column_while_nothing_is_named(sdata):
    shapes = sdata["nucleus_boundaries"]
    shapes["name"] = shapes.pop("cell_id")
    shapes.index = [f"n{i}" for i in range(25)]


def in_the_index_of_the_nuclei(sdata):
    shapes = sdata["nucleus_boundaries"]
    shapes.index = shapes["cell_id"].tolist()
    shapes["cell_id"] = [f"other{i}" for i in range(25)]


def in_other_columns_of_both(sdata):
    in_another_column_of_the_nuclei(sdata)
    in_another_column_of_the_table(sdata)


def in_another_column_of_a_table_that_annotates(sdata):
    table = sdata["table"]
    table.obs["number"] = numbers(sdata)
    table.obs["cell_labels"] = [f"z{i}" for i in range(25)]
    annotate_nuclei(sdata, "cell_labels")


def in_row_names_of_a_table_that_annotates(sdata):
    table = sdata["table"]
    table.obs_names = numbers(sdata).astype(str).tolist()
    table.obs["cell_labels"] = [f"z{i}" for i in range(25)]
    annotate_nuclei(sdata, "cell_labels")
    del sdata["table"].obs["cell_id"]


def in_another_column_of_nuclei_that_are_annotated(sdata):
    sdata["nucleus_boundaries"].index = np.arange(5001, 5026)
    table = sdata["table"]
    table.obs["cell_labels"] = [f"z{i}" for i in range(25)]
    annotate_nuclei(sdata, "cell_labels")


DISPLACED = [
    in_row_names,
    in_another_column_of_the_table,
    in_another_column_of_the_nuclei,
    in_a_column_while_nothing_is_named,
    in_the_index_of_the_nuclei,
    in_other_columns_of_both,
    in_another_column_of_a_table_that_annotates,
    in_row_names_of_a_table_that_annotates,
    in_another_column_of_nuclei_that_are_annotated,
]


@pytest.mark.parametrize("displace", DISPLACED, ids=lambda f: f.__name__)
def test_the_advice_works_when_followed(scene, displace):
    sdata, xy = scene
    displace(sdata)
    with pytest.raises(ValueError, match=r"would match 25 nuclei of 25 cells\. To use it, run `") as caught:
        lm.pp.extract_nuclei(sdata)
    said = str(caught.value)
    assert "No nucleus of 'nucleus_boundaries' belongs to a row of the table" in said
    code = re.search(r"To use it, run `([^`]+)`\.", said).group(1)
    exec(code, {"sdata": sdata})
    lm.pp.extract_nuclei(sdata)
    np.testing.assert_allclose(sdata["table"].obsm["nucleus_xy"], xy, atol=1e-6)


def test_the_table_of_pairings_is_in_the_error(scene):
    sdata, _ = scene
    in_row_names(sdata)
    with pytest.raises(ValueError, match=r"(?s)Pairings of ids .*nucleus_boundaries.cell_id\s+table.obs_names\s+25"):
        lm.pp.extract_nuclei(sdata)


def test_numbers_that_may_coincide_are_pointed_out(scene):
    """Where no place tells, numbers that match may be chance."""
    sdata, _ = scene
    del sdata["table"].obsm["spatial"]
    shapes = sdata["nucleus_boundaries"]
    shapes["cell_id"] = [f"other{i}" for i in range(25)]
    with pytest.raises(ValueError, match=r"index = table.cell_labels would match 25 .*may be numbers that coincide"):
        lm.pp.extract_nuclei(sdata)


def test_numbers_that_coincide_elsewhere_are_not_recommended(scene):
    sdata, _ = scene
    shapes = sdata["nucleus_boundaries"]
    shapes["cell_id"] = [f"other{i}" for i in range(25)]
    shapes.index = np.random.default_rng(0).permutation(25) + 1
    with pytest.raises(ValueError, match=r"Numbers coincide, but .* lie apart\. Give the nuclei a `cell_id`") as caught:
        lm.pp.extract_nuclei(sdata)
    assert "To use it" not in str(caught.value)


def test_columns_that_tell_rows_apart(scene):
    sdata, _ = scene
    obs = sdata["table"].obs
    obs["area"] = np.linspace(3.5, 9, 25)
    obs["cluster"] = pd.Categorical(["a", "b"] * 12 + ["a"])
    obs["counts"] = [5] * 25
    obs["with_gaps"] = [np.nan, np.nan, *range(23)]
    assert set(table_sides(sdata["table"])) == {"obs_names", "cell_id", "cell_labels", "with_gaps"}
    shapes = sdata["nucleus_boundaries"]
    shapes["area"] = shapes.area
    assert set(shape_columns(shapes)) == {"cell_id"}


def test_pairings_are_counted_and_sorted():
    spatial = np.random.default_rng(0).uniform(0, 500, (40, 2))
    right, coincident = np.arange(30), np.arange(30)[::-1]
    tried = try_pairings(
        {"index": as_text(coincident), "name": as_text([f"c{i}" for i in right]), "none": as_text(["x"] * 30)},
        {"number": as_text(np.arange(40)), "name": as_text([f"c{i}" for i in range(40)])},
        name="nuclei",
        xy=spatial[right] + 0.1,
        spatial=spatial,
    )
    assert len(tried) == 6
    assert tried.loc[0, ["nuclei", "table", "n_nuclei", "n_cells"]].tolist() == ["nuclei.name", "table.name", 30, 30]
    assert tried.loc[0, "in_place"] == 1
    assert tried.loc[1, ["nuclei", "table", "n_nuclei"]].tolist() == ["nuclei.index", "table.number", 30]
    assert tried.loc[1, "in_place"] < 0.2
    assert (tried["n_nuclei"][2:] == 0).all()
    assert tried["in_place"][2:].isna().all()


def test_long_tables_are_shortened():
    tried = pd.DataFrame({"nuclei": [f"n{i}" for i in range(11)], "in_place": np.nan})
    text = show(tried)
    assert "n7" in text
    assert "n8" not in text
    assert text.endswith("(and 3 more)")
