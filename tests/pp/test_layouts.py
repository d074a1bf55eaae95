"""Every layout in which users hold nuclei, cells and tables: the planted nucleus of every cell is found again.

The truth is where the nucleus of each cell lies in the H&E, which no id tells; tables are shuffled, so that a join by
position in a list shows.
"""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from geopandas import GeoDataFrame
from spatialdata.models import Image2DModel, Labels2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, get_transformation

import lemon_sc as lm

AXES = ("x", "y")
PX = 0.2125
TO_GLOBAL = {"global": Scale([1 / PX] * 2, axes=AXES)}
POLYGONS, RASTER, OUTLINED_RASTER = 1e-6, 0.5, 1.0  # px by which centres may differ; outlines of a raster lie on its px


def made(**options):
    return lm.datasets.phantom(n_cells=60, **options)


@pytest.fixture(scope="module")
def run():
    """XOA >= 2: text ids, nuclei numbered independently of cells, cells with two nuclei and with none."""
    return made()


@pytest.fixture(scope="module")
def old_run():
    """XOA 1.0: whole numbers, one nucleus per cell at most."""
    return made(ids="int")


def shuffled(table, seed=5):
    return table[np.random.default_rng(seed).permutation(table.n_obs)].copy()


def fresh(source, *, without=()):
    """The same run with a shuffled table, to be changed freely."""
    kept = {k: v for k, v in source.shapes.items() if k not in without}
    return sd.SpatialData(
        images={"he_image": source["he_image"]},
        labels={k: v for k, v in source.labels.items() if k not in without},
        shapes={k: v.copy() for k, v in kept.items()},
        points={k: v for k, v in source.points.items() if k not in without},
        tables={"table": shuffled(source["table"])},
    )


def annotating(sdata, region, instance_key, ids=None):
    """Let the table annotate an element, by a column of its own."""
    table = sdata["table"]
    table.uns.pop("spatialdata_attrs", None)
    table.obs["region"] = pd.Categorical([region] * table.n_obs)
    if ids is not None:
        table.obs[instance_key] = ids
    table = TableModel.parse(table, region=region, region_key="region", instance_key=instance_key)
    del sdata.tables["table"]
    sdata.tables["table"] = table
    return sdata


def replaced(sdata, name, shapes, transformations=TO_GLOBAL):
    shapes.attrs = {}
    sdata.shapes[name] = ShapesModel.parse(shapes, transformations=transformations)
    return sdata


def assert_recovered(
    sdata, shapes_key="nucleus_boundaries", *, tolerance=POLYGONS, truth=None, table_key="table", **mpp
):
    """Every cell has its own nucleus, and those without have none; the report says the same."""
    report = lm.pp.check_join(sdata, shapes_key=shapes_key, table_key=table_key)
    lm.pp.extract_nuclei(sdata, shapes_key=shapes_key, table_key=table_key, **mpp)
    table = sdata[table_key]
    truth = table.obsm["truth_xy"] if truth is None else truth
    np.testing.assert_allclose(table.obsm["nucleus_xy"], truth, atol=tolerance)
    assert report.ok
    assert report.by == table.uns["lemon_sc"]["nuclei"]["joined_by"]
    assert report.n_matched == np.isfinite(truth[:, 0]).sum()
    assert report.n_matched + report.n_missing == report.n_cells
    assert report.n_several == (table.obs["n_nuclei"] > 1).sum()
    assert len(report.missing) == report.n_missing
    assert len(report.unmatched) == report.n_unmatched
    return report


# Xenium Onboard Analysis 2 to 4


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


# Xenium Onboard Analysis 1


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


@pytest.fixture(scope="module")
def run_1_3(old_run):
    """XOA 1.3 to 1.9: text ids index the nuclei, and numbers from 1 are the labels of cells and of nuclei alike."""
    table = old_run["table"].copy()
    number = pd.Series(np.arange(1, table.n_obs + 1), index=table.obs["cell_id"].to_numpy())
    name = {i: f"aaaabb{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}-1" for i in number.index}
    rasters = {}
    for key in ("nucleus_labels", "cell_labels"):
        plane = np.asarray(old_run[key]["scale0"].image)
        lut = np.zeros(plane.max() + 1, dtype=np.uint32)
        lut[number.index] = number.to_numpy()
        rasters[key] = Labels2DModel.parse(lut[plane], dims=("y", "x"), transformations={"global": Identity()})
    nuclei = old_run["nucleus_boundaries"].copy()
    nuclei.index = pd.Index([name[i] for i in nuclei.index], name="cell_id")
    table.obs["cell_labels"] = table.obs["cell_id"].map(number)
    table.obs["cell_id"] = table.obs["cell_id"].map(name)
    table.obs_names = table.obs["cell_id"].tolist()
    source = sd.SpatialData(
        images={"he_image": old_run["he_image"]},
        labels=rasters,
        shapes={"nucleus_boundaries": nuclei},
        points=dict(old_run.points),
        tables={"table": table},
    )
    return annotating(source, "cell_labels", "cell_labels")


def test_xoa_1_3(run_1_3):
    report = assert_recovered(fresh(run_1_3))
    assert report.by == "nucleus_boundaries.index = table.cell_id"


def test_label_image_of_xoa_1_3(run_1_3):
    """Neither names the other; the cells' label image tells."""
    report = assert_recovered(fresh(run_1_3), "nucleus_labels", tolerance=RASTER)
    assert report.by == "nucleus_labels in cell_labels = table.cell_labels"


# what the reader makes of files


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


# whatever else stands for the nuclei


def to_he(sdata):
    """Affine from um to px of the H&E."""
    placed = get_transformation(sdata["he_image"]).to_affine_matrix(AXES, AXES)
    return np.linalg.inv(placed) @ np.diag([1 / PX, 1 / PX, 1])


def at_cells(sdata):
    """Centres of the cells in px of the H&E."""
    matrix = to_he(sdata)
    return sdata["table"].obsm["spatial"] @ matrix[:2, :2].T + matrix[:2, 2]


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


# several slides in one object


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


# converted slides: outlines already in px of the H&E


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


# odd ids


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
