"""Bad input of `lm.pp.extract_nuclei`, and what a second run finds of the first."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from scenes import assert_untouched, snapshot
from spatialdata.models import PointsModel
from spatialdata.transformations import Scale, get_transformation, set_transformation

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.crops.store import open_store


def break_join(sdata):
    sdata["nucleus_boundaries"]["cell_id"] = [f"x{i}" for i in range(25)]


def move_away(sdata):
    set_transformation(sdata["he_image"], {"global": Scale([0.001, 0.001], axes=("x", "y"))}, set_all=True)


def flip_away(sdata):
    matrix = get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    matrix[:2, 2] += 1e5
    set_transformation(
        sdata["he_image"], sd.transformations.Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y")), "global"
    )


def repeat_names(sdata):
    sdata["table"].obs_names = ["a", "a", *sdata["table"].obs_names[2:]]


def empty_outlines(sdata):
    sdata["nucleus_boundaries"]["geometry"] = [shapely.Polygon()] * 25


@pytest.mark.parametrize(
    ("damage", "kwargs", "error", "message"),
    [
        (None, {"image_key": "HE"}, MissingKeyError, r"'HE' not found in `sdata.images` \(found: \['he_image'\]\)"),
        (None, {"table_key": "tabel"}, MissingKeyError, r"'tabel' not found in `sdata.tables`.*Did you mean 'table'"),
        (None, {"shapes_key": "nuclei"}, MissingKeyError, "'nuclei' not found"),
        (None, {"multiple": "larges"}, ValueError, r"`multiple` must be one of .*Did you mean 'largest'"),
        (None, {"mask": "cell"}, ValueError, "`mask` must be one of"),
        (None, {"size_px": 41}, ValueError, "`size_px` must be an even int"),
        (None, {"store": 3}, ValueError, "`store` must be None"),
        (None, {"mpp": -0.2}, ValueError, "one or two finite numbers > 0"),
        (None, {"mpp": 2.5}, ValueError, r"median diameter of .* which no nuclei have"),
        (break_join, {}, ValueError, "No nucleus .* belongs to a row of the table"),
        (move_away, {}, ValueError, "median diameter|outside the image"),
        (flip_away, {}, ValueError, r"All nuclei of 'nucleus_boundaries' lie outside the image: they span x \d+"),
        (repeat_names, {}, ValueError, r"obs_names` are not unique: 1 names repeat \(\['a'\]\).*obs_names_make_unique"),
        (empty_outlines, {}, ValueError, "None of the 25 nuclei .* has a centre"),
    ],
)
def test_bad_input_says_what_to_do_and_changes_nothing(scene, damage, kwargs, error, message):
    sdata, _ = scene
    if damage is not None:
        damage(sdata)
    before = snapshot(sdata)
    with pytest.raises(error, match=message):
        lm.pp.extract_nuclei(sdata, **kwargs)
    assert_untouched(sdata, before)


def test_a_foreign_folder_is_not_overwritten(scene, tmp_path):
    sdata, _ = scene
    (tmp_path / "mine").mkdir()
    before = snapshot(sdata)
    with pytest.raises(ValueError, match="not a crop store"):
        lm.pp.extract_nuclei(sdata, store=tmp_path / "mine")
    assert_untouched(sdata, before)


def test_some_bad_outlines_cost_only_their_cells(scene, caplog):
    sdata, _ = scene
    shapes = sdata["nucleus_boundaries"]
    geometry = shapes.geometry.to_numpy().copy()
    x, y = geometry[1].centroid.coords[0]
    geometry[0] = shapely.Polygon()
    geometry[1] = shapely.Polygon([(x - 3, y - 3), (x + 3, y + 3), (x + 3, y - 3), (x - 3, y + 3)])  # a bow tie
    geometry[2] = None
    shapes["geometry"] = geometry
    lm.pp.extract_nuclei(sdata)
    obs = sdata["table"].obs.set_index("cell_id")
    lost = shapes["cell_id"].iloc[[0, 2]]
    assert (obs.loc[lost, "nucleus_qc"] == "no_nucleus").all()
    assert (obs["nucleus_qc"] == "no_nucleus").sum() == 2
    assert "cross themselves" in caplog.text


def test_nan_centroids_cost_only_their_cells(scene):
    sdata, xy = scene
    um = sdata["table"].obsm["spatial"].copy()
    um[[2, 5]] = np.nan
    frame = pd.DataFrame({"x": um[:, 0], "y": um[:, 1], "cell_id": sdata["table"].obs["cell_id"].to_numpy()})
    scale = {"global": Scale([1 / 0.2125] * 2, axes=("x", "y"))}
    sdata.points["centres"] = PointsModel.parse(frame, transformations=scale)
    lm.pp.extract_nuclei(sdata, shapes_key="centres")
    qc = sdata["table"].obs["nucleus_qc"]
    assert np.flatnonzero(qc == "no_nucleus").tolist() == [2, 5]
    found = sdata["table"].obsm["nucleus_xy"]
    np.testing.assert_allclose(np.delete(found, [2, 5], 0), np.delete(xy, [2, 5], 0), atol=1e-6)


def test_a_mask_needs_an_outline(scene):
    sdata, _ = scene
    frame = pd.DataFrame(sdata["table"].obsm["spatial"], columns=["x", "y"])
    frame["cell_id"] = sdata["table"].obs["cell_id"].to_numpy()
    scale = {"global": Scale([1 / 0.2125] * 2, axes=("x", "y"))}
    sdata.points["centres"] = PointsModel.parse(frame, transformations=scale)
    before = snapshot(sdata)
    with pytest.raises(ValueError, match="`mask` must be None for plain centroids"):
        lm.pp.extract_nuclei(sdata, shapes_key="centres", mask="ring")
    assert_untouched(sdata, before)


def test_transcripts_are_no_nuclei(scene):
    sdata, _ = scene
    frame = pd.DataFrame(np.repeat(sdata["table"].obsm["spatial"], 9, axis=0), columns=["x", "y"])
    frame["cell_id"] = np.repeat(sdata["table"].obs["cell_id"].to_numpy(dtype=object), 9)
    scale = {"global": Scale([1 / 0.2125] * 2, axes=("x", "y"))}
    sdata.points["transcripts"] = PointsModel.parse(frame, transformations=scale)
    with pytest.raises(ValueError, match="'transcripts' has 9 points per cell .*these are not nuclei"):
        lm.pp.extract_nuclei(sdata, shapes_key="transcripts")


def test_a_table_of_the_users_is_not_replaced(scene):
    sdata, _ = scene
    sdata.tables["nuclei"] = ad.AnnData(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="exists and was not made by this function"):
        lm.pp.extract_nuclei(sdata, multiple="all")
    assert sdata["nuclei"].n_obs == 2


def test_embeddings_of_an_earlier_extraction_are_pointed_out(scene, caplog):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata)
    assert "out of date" not in caplog.text
    lm.pp.extract_nuclei(sdata, mask="nucleus")
    assert "X_lemon" in caplog.text
    assert "mask: '' -> 'nucleus'" in caplog.text


def test_the_store_is_replaced_and_stale_crops_are_dropped(scene, tmp_path):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr", size_px=60)
    assert open_store(tmp_path / "c.zarr").size_px == 60
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr")
    assert open_store(tmp_path / "c.zarr").size_px == 40
    lm.pp.extract_nuclei(sdata, store="memory")
    lm.pp.extract_nuclei(sdata)
    assert "nuclei" not in sdata["table"].obsm


def test_a_store_of_an_older_extraction_is_noticed(scene, tmp_path):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr")
    old = sdata["table"].copy()
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr", size_px=60)
    with pytest.raises(ValueError, match="is not the one these nuclei were extracted to"):
        lm.tl.embed(old)


def test_transformations_that_changed_meanwhile_are_noticed(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    set_transformation(sdata["nucleus_boundaries"], Scale([4.8, 4.8], axes=("x", "y")), "global")
    with pytest.raises(ValueError, match="have changed since the nuclei were extracted"):
        lm.tl.embed(sdata)
