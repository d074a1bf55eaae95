"""A wrong pixel size shows in the distance and the size of spots and bins."""

import logging

import geopandas as gpd
import numpy as np
import pytest
import shapely
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, Scale, set_transformation
from spot_scenes import MPP, spot_scene

import lemon_sc as lm

HEXAGON = np.array([[(c + r % 2 / 2) * 20, r * 20 * np.sqrt(3) / 2] for r in range(14) for c in range(14)]) + 100
SQUARE = np.array([[c * 40.0, r * 40.0] for r in range(6) for c in range(8)]) + 80


def units_in_px(at, *, radius=None, side=None, name="units"):
    """Circles or squares given in px of the image, as readers of Space Ranger's folders give them."""
    sdata = spot_scene(at)
    index = sdata["units"].index
    if side is None:
        frame = gpd.GeoDataFrame({"geometry": shapely.points(at), "radius": radius}, index=index)
    else:
        frame = gpd.GeoDataFrame({"geometry": shapely.box(*(at - side / 2).T, *(at + side / 2).T)}, index=index)
    del sdata.shapes["units"]
    sdata.shapes[name] = ShapesModel.parse(frame, transformations={"global": Identity()})
    if name != "units":
        table = sdata["table"]
        table.obs["region"] = table.obs["region"].cat.rename_categories({"units": name})
        table.uns["spatialdata_attrs"]["region"] = name
    return sdata


def warnings_of(caplog, sdata, mpp):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        lm.pp.extract_patches(sdata, mpp=mpp, size_um=32.0 * mpp, target_mpp=mpp)
    return [record.getMessage() for record in caplog.records]


def test_spots_of_visium_know_how_far_apart_they_are(caplog):
    """Spots of 55 um, 100 um apart, in an image of 5 um per px."""
    sdata = units_in_px(HEXAGON, radius=5.5)
    assert warnings_of(caplog, sdata, 5.0) == []
    assert warnings_of(caplog, sdata, 5.2) == []
    for mpp, apart in ((0.5, 10), (10.0, 200), (4.0, 80)):
        [said] = warnings_of(caplog, sdata, mpp)
        assert f"hexagonal array would be {apart} um apart" in said
        assert said.endswith("That fits about 5.0000 um per px")
    with pytest.raises(ValueError, match="median diameter of 550 um .* which no units have"):
        lm.pp.extract_patches(sdata, mpp=50.0)


def test_spots_with_gaps_are_not_tiny(caplog):
    """Spatial Transcriptomics: spots of 100 um, 200 um apart, on a square array."""
    sdata = units_in_px(SQUARE, radius=10.0)
    assert warnings_of(caplog, sdata, 5.0) == []
    [said] = warnings_of(caplog, sdata, 0.5)
    assert "the spots would be 10 um wide and 20 um apart" in said


def test_bins_are_as_wide_as_their_name_says(caplog):
    sdata = units_in_px(SQUARE / 10 + 100, side=4.0, name="sample_square_016um")
    assert warnings_of(caplog, sdata, 4.0) == []
    [said] = warnings_of(caplog, sdata, 0.4)
    assert "'sample_square_016um' would have a width of 1.6 um. That fits about 4.0000 um per px" in said
    assert len(warnings_of(caplog, units_in_px(SQUARE / 10 + 100, side=4.0), 0.4)) == 0  # nothing tells


def test_scale_factors_of_the_table_are_believed_for_their_own_image(caplog):
    sdata = units_in_px(SQUARE / 10 + 100, side=4.0)
    sdata["table"].uns["spatial"] = {"sample": {"scalefactors": {"microns_per_pixel": 4.0}, "images": {}}}
    assert warnings_of(caplog, sdata, 4.0) == []
    [said] = warnings_of(caplog, sdata, 0.4)
    assert "0.4000 x 0.4000 um per px and is used, but `scalefactors` of the table say 4.0000 um per px" in said
    half = Scale([0.5, 0.5], axes=("x", "y"))  # the image at hand has half the px of that one
    set_transformation(sdata["units"], half, to_coordinate_system="global")
    assert not any("scalefactors" in said for said in warnings_of(caplog, sdata, 8.0))


def test_nothing_is_said_where_the_transformations_tell(caplog):
    sdata = spot_scene(HEXAGON, radius=2.0)
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        lm.pp.extract_patches(sdata, size_um=16.0)
        lm.pp.extract_patches(spot_scene([[150, 120], [250, 200]]), mpp=MPP, size_um=16.0)  # two make no array
    assert caplog.text == ""
