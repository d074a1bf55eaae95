"""Every run of Xenium as its readers read it: the planted nucleus of every cell is found again.

The truth is where the nucleus of each cell lies in the H&E, which no id tells; tables are shuffled, so that a join by
position in a list shows.
"""

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from layouts import OUTLINED_RASTER, RASTER, TO_GLOBAL, annotating, assert_recovered, fresh, shuffled
from spatialdata.models import ShapesModel

import lemon_sc as lm


def test_xoa_2_and_later(run):
    sdata = fresh(run)
    assert sdata["nucleus_boundaries"].index.dtype.kind == "i"
    report = assert_recovered(sdata)
    assert report.by == "nucleus_boundaries.cell_id = table.cell_id"
    table = sdata["table"]
    np.testing.assert_array_equal(table.obs["n_nuclei"], table.obs["nucleus_count"])
    assert report.n_several > 0
    assert set(report.missing) == set(table.obs["cell_id"][table.obs["nucleus_count"] == 0])


def as_written(kind):
    """Ids stored as `kind`."""

    def convert(ids):
        ids = np.asarray(ids)
        if kind == "bytes":
            return np.array([str(i).encode() for i in ids], dtype=object)
        if kind == "float with gaps":  # what a merge with missing rows makes of numbers
            return pd.Series(ids).astype(float).to_numpy()
        if kind == "categorical":
            return pd.Categorical(ids)
        if kind == "categorical text":
            return pd.Categorical(ids.astype(str))
        return pd.Series(ids.astype(str) if "str" in kind else ids).astype(kind).array

    return convert


TEXT = ["str", "string[python]", "string[pyarrow]", "bytes", "categorical"]


NUMBERS = [*TEXT, "int32", "uint32", "Int64", "float with gaps", "categorical text"]


def pairs_of(kinds):
    """Every kind on either side, with itself and with others."""
    return [(a, kinds[(i + step) % len(kinds)]) for i, a in enumerate(kinds) for step in (0, 2, 3)]


@pytest.mark.parametrize(("table_as", "nuclei_as"), pairs_of(TEXT))
def test_text_ids_of_xoa_2_however_they_are_stored(run, table_as, nuclei_as):
    sdata = fresh(run)
    obs, shapes = sdata["table"].obs, sdata["nucleus_boundaries"]
    obs["cell_id"] = as_written(table_as)(obs["cell_id"])
    shapes["cell_id"] = as_written(nuclei_as)(shapes["cell_id"])
    assert_recovered(sdata)


@pytest.mark.parametrize("outlines", [True, False], ids=["with outlines", "without outlines"])
def test_label_image_of_xoa_2(run, outlines):
    sdata = fresh(run, without=() if outlines else ("nucleus_boundaries",))
    report = assert_recovered(sdata, "nucleus_labels", tolerance=RASTER)
    how = "nucleus_labels.cell_id = table.cell_id" if outlines else "nucleus_labels in cell_labels = table.cell_labels"
    assert report.by == how
    assert report.n_several > 0
    lm.pp.extract_nuclei(sdata, shapes_key="nucleus_labels", multiple="all")
    owner = run["nucleus_boundaries"]["cell_id"].loc[sdata["nuclei"].obs["nucleus_id"].astype(int)]
    assert sdata["nuclei"].obs["cell_id"].tolist() == owner.tolist()


def test_early_builds_of_xoa_2_have_outlines_only_through_to_polygons(run):
    """The reader skips their nucleus boundaries and recommends this; the outlines then are in px of the raster."""
    sdata = fresh(run, without=("nucleus_boundaries",))
    sdata.shapes["nucleus_boundaries"] = sd.to_polygons(sdata["nucleus_labels"])
    report = assert_recovered(sdata, tolerance=OUTLINED_RASTER)
    assert report.by == "nucleus_boundaries in cell_labels = table.cell_labels"
    assert sdata["table"].uns["lemon_sc"]["nuclei"]["mpp"] == pytest.approx([0.2738, 0.2738], rel=1e-3)


def test_numbers_of_nuclei_are_not_taken_for_numbers_of_cells(run):
    """XOA >= 2 numbers both from 1: nearly all numbers coincide, and mean other cells."""
    sdata = fresh(run)
    del sdata["table"].obs["cell_id"]
    sdata["table"].obs_names = [f"row{i}" for i in range(60)]
    del sdata["nucleus_boundaries"]["cell_id"]
    report = assert_recovered(sdata)
    assert report.by == "nucleus_boundaries in cell_labels = table.cell_labels"
    wrong = report.tried.set_index(["nuclei", "table"]).loc[("nucleus_boundaries.index", "table.cell_labels")]
    assert wrong["n_nuclei"] > 50
    assert wrong["in_place"] < 0.1
    del sdata.labels["cell_labels"]
    with pytest.raises(ValueError, match="Numbers coincide, but nuclei and cells of the same number lie apart"):
        lm.pp.extract_nuclei(sdata)


def test_circles_instead_of_label_images_are_annotated(run):
    """What the reader writes with ``cells_as_circles=True``."""
    sdata = fresh(run)
    table = sdata["table"]
    sdata.shapes["cell_circles"] = ShapesModel.parse(
        table.obsm["spatial"],
        geometry=0,
        radius=np.sqrt(table.obs["cell_area"].to_numpy() / np.pi),
        index=pd.Series(table.obs["cell_id"].to_numpy()),
        transformations=TO_GLOBAL,
    )
    annotating(sdata, "cell_circles", "cell_id")
    assert_recovered(sdata)


def test_xoa_1_0(old_run):
    sdata = fresh(old_run)
    assert sdata["nucleus_boundaries"].index.dtype.kind == "i"
    report = assert_recovered(sdata)
    assert report.by == "nucleus_boundaries.index = table.cell_id"
    assert report.n_several == 0
    assert report.n_missing > 0
    assert_recovered(sdata, "nucleus_labels", tolerance=RASTER)


@pytest.mark.parametrize(("table_as", "nuclei_as"), pairs_of(NUMBERS))
def test_numbers_of_xoa_1_however_they_are_stored(old_run, table_as, nuclei_as):
    sdata = fresh(old_run)
    obs, shapes = sdata["table"].obs, sdata["nucleus_boundaries"]
    obs["cell_id"] = as_written(table_as)(obs["cell_id"])
    shapes.index = pd.Index(as_written(nuclei_as)(shapes.index), name="cell_id")
    assert_recovered(sdata)


def test_xoa_1_3(run_1_3):
    report = assert_recovered(fresh(run_1_3))
    assert report.by == "nucleus_boundaries.index = table.cell_id"


def test_label_image_of_xoa_1_3(run_1_3):
    """Neither names the other; the cells' label image tells."""
    report = assert_recovered(fresh(run_1_3), "nucleus_labels", tolerance=RASTER)
    assert report.by == "nucleus_labels in cell_labels = table.cell_labels"


@pytest.mark.parametrize(
    ("ids", "version"),
    [("int", "xenium-1.0.1"), ("string", "xenium-2.0.0.6"), ("string", "xenium-3.2.1.2"), ("string", "xenium-4.0.0.1")],
)
def test_runs_as_the_reader_reads_them(request, tmp_path, ids, version):
    spatialdata_io = pytest.importorskip("spatialdata_io")
    source = request.getfixturevalue("old_run" if ids == "int" else "run")
    lm.datasets.write_phantom(source, path=tmp_path / "outs")
    specs = tmp_path / "outs" / "experiment.xenium"
    written = next(line for line in specs.read_text().splitlines() if "analysis_sw_version" in line)
    specs.write_text(specs.read_text().replace(written, f'"analysis_sw_version": "{version}"'))
    sdata = spatialdata_io.xenium(tmp_path / "outs", morphology_focus=False, morphology_mip=False, gex_only=False)
    truth = source["table"].obsm["truth_xy"]
    assert sdata["table"].obs_names.equals(source["table"].obs_names)
    assert_recovered(sdata, truth=truth, tolerance=1e-3)  # files hold float32
    assert_recovered(sdata, "nucleus_labels", truth=truth, tolerance=RASTER)


def test_the_real_run(xenium_outs):
    spatialdata_io = pytest.importorskip("spatialdata_io")
    sdata = spatialdata_io.xenium(xenium_outs, morphology_focus=False, morphology_mip=False)
    before = lm.pp.check_join(sdata)
    assert (before.n_nuclei, before.n_cells, before.n_matched, before.n_missing) == (120, 122, 120, 2)
    assert before.in_place > 0.95
    sdata.tables["shuffled"] = shuffled(sdata["table"])
    lm.pp.extract_nuclei(sdata)
    lm.pp.extract_nuclei(sdata, table_key="shuffled")
    here, there = sdata["table"], sdata["shuffled"][sdata["table"].obs_names]
    np.testing.assert_array_equal(here.obsm["nucleus_xy"], there.obsm["nucleus_xy"])
    assert here.obs["nucleus_id"].tolist() == [
        str(c) if c in sdata["nucleus_boundaries"].index else "" for c in here.obs["cell_id"]
    ]
