"""H&E in, nuclei out: where they lie in um, in which table, and what goes on from there."""

import logging

import numpy as np
import pytest
import shapely
import spatialdata as sd
from coded_slides import CodeFinder, coded, field
from scenes import place
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, get_transformation

import lemon_sc as lm

LABELS = field((260, 340), n=70, radius=(9, 14))
TYPES = np.random.default_rng(0).integers(1, 3, LABELS.max())
CLASSES = ("background", "round", "oval")
MPP = 0.25


def centres():
    y, x = np.nonzero(LABELS)
    n = np.bincount(LABELS[y, x])[1:]
    return np.column_stack([np.bincount(LABELS[y, x], v + 0.5)[1:] / n for v in (x, y)]), n


def slide(matrix=None, pixels=None):
    """An H&E by itself, placed in 'global' and in 'other'."""
    pixels = coded(LABELS, types=TYPES) if pixels is None else pixels
    to_global = Identity() if matrix is None else Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    places = {"global": to_global, "other": Scale([2.0, 3.0], axes=("x", "y"))}
    image = Image2DModel.parse(pixels, dims=("y", "x", "c"), c_coords=["r", "g", "b"], transformations=places)
    return sd.SpatialData(images={"he_image": image})


def segmented(sdata=None, **options):
    sdata = slide() if sdata is None else sdata
    options = {"model": CodeFinder(classes=CLASSES), "mpp": MPP, "min_tissue": 0, **options}
    lm.pp.segment_nuclei(sdata, **options)
    return sdata


def by_place(xy):
    return np.lexsort(np.round(xy, 6).T)


def test_outlines_in_um_and_a_row_for_each():
    sdata = segmented()
    shapes, table = sdata["he_nuclei"], sdata["he_nuclei_table"]
    xy, n = centres()
    assert list(table.obs["instance_id"]) == list(shapes.index) == list(range(1, len(n) + 1))
    found = shapely.get_coordinates(shapes.geometry.centroid)
    a, b = by_place(found), by_place(xy)
    assert found[a] == pytest.approx(xy[b] * MPP, abs=0.1)
    assert table.obsm["spatial"] == pytest.approx(found)
    assert table.obs["nucleus_area_um2"].to_numpy()[a] == pytest.approx(n[b] * MPP**2, rel=0.06)
    assert list(table.obs["nucleus_type"].to_numpy()[a]) == [CLASSES[t] for t in TYPES[b]]
    assert list(table.obs["nucleus_type"].cat.categories) == ["round", "oval"]
    assert table.obs["nucleus_probability"].between(0, 1).all()


def test_a_turned_and_mirrored_image_takes_its_nuclei_along():
    matrix = place(mpp=MPP, degrees=25, flip=True)
    shapes = segmented(slide(matrix))["he_nuclei"]
    xy, _ = centres()
    for system, to in (("global", matrix), ("other", np.diag([2.0, 3.0, 1.0]))):
        own = get_transformation(shapes, to_coordinate_system=system).to_affine_matrix(("x", "y"), ("x", "y"))
        moved = shapely.get_coordinates(shapes.geometry.centroid) @ own[:2, :2].T + own[:2, 2]
        wanted = xy @ to[:2, :2].T + to[:2, 2]
        assert moved[by_place(moved)] == pytest.approx(wanted[by_place(wanted)], abs=1.5)


def test_extraction_goes_on_without_being_told_the_pixel_size(tmp_path):
    sdata = segmented(slide(place(mpp=MPP, degrees=10)))
    sdata.write(tmp_path / "slide.zarr")
    sdata = sd.read_zarr(tmp_path / "slide.zarr")
    lm.pp.extract_nuclei(sdata, shapes_key="he_nuclei", table_key="he_nuclei_table")
    table = sdata["he_nuclei_table"]
    assert table.uns["lemon_sc"]["nuclei"]["mpp"] == pytest.approx([MPP, MPP])
    xy, _ = centres()
    assert table.obsm["nucleus_xy"][by_place(table.obsm["nucleus_xy"])] == pytest.approx(xy[by_place(xy)], abs=0.3)
    record = table.uns["lemon_sc"]["segment"]
    assert (record["model"], record["n_nuclei"], record["tile_mpp"]) == ("code", LABELS.max(), MPP)


def test_nothing_is_replaced_unless_asked():
    sdata = segmented()
    before = sdata["he_nuclei"]
    with pytest.raises(ValueError, match=r"There is `sdata.shapes\['he_nuclei'\]` already. Pass `overwrite=True`"):
        segmented(sdata)
    assert sdata["he_nuclei"] is before
    half = coded(np.where(LABELS > 30, LABELS, 0), types=TYPES)
    sdata.images["he_image"] = slide(pixels=half)["he_image"]
    segmented(sdata, overwrite=True)
    assert len(sdata["he_nuclei"]) == sdata["he_nuclei_table"].n_obs == LABELS.max() - 30


@pytest.mark.parametrize("with_table", [False, True])
def test_shapes_that_no_run_found_are_never_replaced(with_table):
    """Such as the cells of a Xenium run."""
    sdata = segmented(key_added="cells")
    if with_table:
        del sdata["cells_table"].uns["lemon_sc"]
    else:
        del sdata["cells_table"]
    before = sdata["cells"]
    with pytest.raises(ValueError, match=r"There is `sdata.shapes\['cells'\]` already. Pass another name"):
        segmented(sdata, key_added="cells", overwrite=True)
    assert sdata["cells"] is before


@pytest.mark.parametrize("name", ["he_image", "HE_IMAGE", "other_table", "a b"])
def test_names_that_are_taken_or_none(name):
    sdata = segmented(key_added="other")
    with pytest.raises(ValueError, match="`key_added` must"):
        segmented(sdata, key_added=name, overwrite=True)


def test_the_pixel_size_has_to_be_known(caplog):
    with pytest.raises(ValueError, match=r"size of a pixel of 'he_image' in um is unknown.* Pass `mpp=`"):
        segmented(mpp=None)
    sdata = slide()
    sdata.attrs["lemon_sc"] = {"images": {"he_image": {"mpp": [0.5, 0.5], "path": ""}}}
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        segmented(sdata)
    assert "its file says 0.5000 x 0.5000" in caplog.text
    circle = ShapesModel.parse(
        np.array([[5.0, 5.0]]), geometry=0, radius=2.0, transformations={"global": Scale([4.0, 4.0], axes=("x", "y"))}
    )
    sdata = slide()
    sdata.shapes["cells"] = circle
    segmented(sdata, mpp=None)
    assert sdata["he_nuclei_table"].uns["lemon_sc"]["segment"]["mpp"] == pytest.approx([0.25, 0.25])
    sdata.attrs["lemon_sc"] = {"images": {"he_image": {"mpp": [0.5, 0.5], "path": ""}}}
    with pytest.raises(ValueError, match="disagree on the size of a pixel"):
        segmented(sdata, mpp=None, key_added="again")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mpp": 3.0}, "`mpp` must lie between"),
        ({"tile_px": 32}, "`tile_px` must be an int >= 257, got 32"),
        ({"min_tissue": 2}, "`min_tissue` must be a share"),
        ({"model": "no_such"}, "no_such"),
        ({"image_key": "nowhere"}, "'nowhere' not found in `sdata.images`"),
    ],
)
def test_errors_leave_the_object_as_it_was(options, message):
    sdata = slide()
    with pytest.raises((ValueError, KeyError, FileNotFoundError), match=message):
        segmented(sdata, **options)
    assert [name for _, name, _ in sdata.gen_elements()] == ["he_image"]


def test_glass_and_tissue_without_nuclei():
    glass = slide(pixels=np.full((200, 200, 3), 243, dtype=np.uint8))
    with pytest.raises(ValueError, match="No tissue"):
        segmented(glass, min_tissue=0.01)
    empty = slide(pixels=np.full((200, 200, 3), 255, dtype=np.uint8))
    with pytest.raises(ValueError, match="'code' found no nuclei in 'he_image'"):
        segmented(empty)


def test_an_image_too_coarse_for_the_model_is_said_to_be(caplog):
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        segmented(slide(), mpp=0.5, model="haematoxylin")
    assert "has 0.500 um per px, the model 'haematoxylin' was made for 0.250" in caplog.text


def test_an_array_is_sent_to_the_other_function():
    with pytest.raises(TypeError, match="For an array: `lm.seg.segment_image`"):
        lm.pp.segment_nuclei(np.zeros((5, 5, 3), dtype=np.uint8))
