"""Several slides in one object, and slides whose outlines are already in px of the H&E."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from geopandas import GeoDataFrame
from layouts import AXES, assert_recovered, at_cells, fresh, made, replaced, shuffled, to_he
from spatialdata.models import Image2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

import lemon_sc as lm


def two_slides():
    """Two runs whose cells have the same ids, in one object and one table, as `spatialdata.concatenate` joins them."""
    runs, tables = {}, {}
    for key, source in {"a": made(), "b": made(rng=1)}.items():
        sdata = fresh(source, without=("transcripts",))
        table, shapes = sdata["table"], sdata["nucleus_boundaries"]
        names = dict(zip(sorted(table.obs["cell_id"]), (f"cell{i}" for i in range(60)), strict=True))
        table.obs["cell_id"] = table.obs["cell_id"].map(names)
        shapes["cell_id"] = shapes["cell_id"].map(names)
        table.obs["region"] = pd.Categorical([f"cell_labels-{key}"] * 60)
        table.obs_names = [f"{name}-{key}" for name in table.obs_names]
        table.obs["slide"] = key
        runs[key], tables[key] = sdata, table
    both = ad.concat([*tables.values()], join="inner")
    both.obs["region"] = both.obs["region"].astype("category")
    both = shuffled(both)
    regions = ["cell_labels-a", "cell_labels-b"]
    elements = {f"{n}-{k}": s[n] for k, s in runs.items() for n in ("he_image", "nucleus_boundaries", "cell_labels")}
    elements["table"] = TableModel.parse(both, region=regions, region_key="region", instance_key="cell_labels")
    return sd.SpatialData.init_from_elements(elements)


def only(table, slide, truth):
    return np.where((table.obs["slide"] == slide).to_numpy()[:, None], truth, np.nan)


@pytest.mark.parametrize("slide", ["a", "b"])
def test_two_slides_whose_ids_repeat_in_one_table(slide):
    sdata = two_slides()
    table, shapes = sdata["table"], f"nucleus_boundaries-{slide}"
    assert table.obs["cell_id"].duplicated().any()
    report = lm.pp.check_join(sdata, shapes_key=shapes)
    assert report.ok
    assert report.n_cells == 60
    lm.pp.extract_nuclei(sdata, image_key=f"he_image-{slide}", shapes_key=shapes)
    np.testing.assert_allclose(table.obsm["nucleus_xy"], only(table, slide, table.obsm["truth_xy"]), atol=1e-6)
    assert (table.obs["nucleus_qc"][table.obs["slide"] != slide] == "no_nucleus").all()


def test_two_slides_of_which_nothing_tells_the_right_one():
    sdata = two_slides()
    del sdata["table"].obsm["spatial"]
    with pytest.raises(ValueError, match=r"names 60 cells more than once .*give each a table of its own"):
        lm.pp.extract_nuclei(sdata, image_key="he_image-a", shapes_key="nucleus_boundaries-a")
    report = lm.pp.check_join(sdata, shapes_key="nucleus_boundaries-a")
    assert not report.ok
    assert "more than once" in str(report)


@pytest.mark.parametrize("slide", ["a", "b"])
def test_two_slides_whose_nuclei_the_table_annotates(slide):
    """Instances are numbered from 1 in both; no places are needed."""
    sdata = two_slides()
    del sdata["table"].obsm["spatial"]
    for key in ("a", "b"):
        one = sdata[f"nucleus_boundaries-{key}"]
        replaced(sdata, f"nucleus_boundaries-{key}", one.drop_duplicates("cell_id").copy())
    table = sdata["table"]
    number = {(key, c): i for key in ("a", "b") for i, c in sdata[f"nucleus_boundaries-{key}"]["cell_id"].items()}
    pairs = list(zip(table.obs["slide"], table.obs["cell_id"], strict=True))
    table.obs["nucleus"] = [number.get(pair, 0) for pair in pairs]
    table = table[table.obs["nucleus"] > 0].copy()
    table.obs["region"] = pd.Categorical([f"nucleus_boundaries-{s}" for s in table.obs["slide"]])
    table.uns.pop("spatialdata_attrs", None)
    regions = ["nucleus_boundaries-a", "nucleus_boundaries-b"]
    del sdata.tables["table"]
    sdata.tables["table"] = TableModel.parse(table, region=regions, region_key="region", instance_key="nucleus")
    table, shapes = sdata["table"], sdata[f"nucleus_boundaries-{slide}"]
    lm.pp.extract_nuclei(sdata, image_key=f"he_image-{slide}", shapes_key=f"nucleus_boundaries-{slide}")
    mine = (table.obs["slide"] == slide).to_numpy()
    assert (table.obs["n_nuclei"].to_numpy() == mine).all()
    taken = shapes["cell_id"].loc[table.obs["nucleus_id"][mine].astype(int)]
    assert taken.tolist() == table.obs["cell_id"][mine].tolist()


@pytest.fixture
def converted(run):
    """As HEST converts a run: outlines by cell id in px of the H&E, no transformations, a table without any."""
    source = fresh(run)
    largest = source["nucleus_boundaries"].assign(area=lambda f: f.area).sort_values("area").groupby("cell_id").tail(1)
    matrix = to_he(source)
    moved = shapely.transform(largest.geometry.to_numpy(), lambda xy: xy @ matrix[:2, :2].T + matrix[:2, 2])
    outlines = GeoDataFrame({"geometry": moved}, index=pd.Index(largest["cell_id"].tolist(), name="cell_id"))
    pixels = np.asarray(source["he_image"]["scale0"].image)
    table = source["table"]
    del table.uns["spatialdata_attrs"], table.obs["cell_id"]
    table.obsm["spatial"] = at_cells(source)
    here = {"global": Identity()}
    return sd.SpatialData(
        images={"he_image": Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=here)},
        shapes={"nucleus_boundaries": ShapesModel.parse(outlines, transformations=here)},
        tables={"table": table},
    )


def state(sdata, mpp):
    """What `lm.pp.add_image` writes of a file that states its pixel size."""
    sdata.attrs["lemon_sc"] = {"images": {"he_image": {"mpp": [mpp, mpp]}}}


def test_converted_slides(converted, caplog):
    with pytest.raises(ValueError, match=r"in the pixels of the image .*cannot be derived from it\. Pass `mpp=`"):
        lm.pp.extract_nuclei(converted)
    state(converted, 0.2738)
    with pytest.raises(ValueError, match=r"\(its file says 0.2738 x 0.2738 um per px\)\. Pass `mpp=`"):
        lm.pp.extract_nuclei(converted)
    report = assert_recovered(converted, mpp=0.274)
    assert report.by == "nucleus_boundaries.index = table.obs_names"
    assert "um per px" not in caplog.text


@pytest.mark.parametrize("given", [0.2125, 0.2738 * 1.03])
def test_converted_slides_whose_pixel_sizes_contradict_each_other(converted, caplog, given):
    """TENX111: 0.2125 in the metadata, 0.2738 in the slide."""
    state(converted, 0.2738)
    lm.pp.extract_nuclei(converted, mpp=given)
    assert converted["table"].uns["lemon_sc"]["nuclei"]["mpp"] == pytest.approx([given, given])
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"{given:.4f} x {given:.4f} um per px and is used, but its file says 0.2738 x 0.2738" in warnings[0]


def test_transcripts_tell_the_pixel_size_of_converted_slides(converted, caplog):
    um = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    placed = {"global": Scale([1 / 0.2738] * 2, axes=AXES)}
    converted.points["transcripts"] = PointsModel.parse(um, transformations=placed)
    assert_recovered(converted)
    assert converted["table"].uns["lemon_sc"]["nuclei"]["mpp"] == pytest.approx([0.2738, 0.2738])
    state(converted, 0.2125)
    with pytest.raises(ValueError, match=r"0.2738 x 0.2738 um by the transformations, but its file states 0.2125"):
        lm.pp.extract_nuclei(converted)
    lm.pp.extract_nuclei(converted, mpp=0.24)
    assert "'transcripts' says 0.2738 x 0.2738 um per px, its file says 0.2125 x 0.2125 um per px" in caplog.text
