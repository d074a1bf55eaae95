import dask.array as da
import numpy as np
import pytest
import shapely
from geopandas import GeoDataFrame
from scenes import place
from spatialdata import SpatialData
from spatialdata.models import Labels2DModel, PointsModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale

from lemon_sc.io.cells import cells_at, label_at, outline_at

PLANE = np.zeros((40, 60), dtype=np.uint16)
PLANE[5:15, 10:30] = 7
PLANE[20:40, 30:60] = 301


@pytest.mark.parametrize("chunks", [(40, 60), (7, 11)])
def test_the_label_under_a_point(chunks):
    labels = Labels2DModel.parse(da.from_array(PLANE, chunks=chunks), dims=("y", "x"))
    xy = np.array([[10.0, 5.0], [9.99, 5.0], [29.99, 14.99], [30.0, 14.0], [59.9, 39.9], [60.0, 39.0], [-0.1, 25.0]])
    assert label_at(labels, xy).tolist() == ["7", "", "7", "", "301", "", ""]
    rng = np.random.default_rng(0)
    many = rng.uniform([0, 0], [60, 40], (500, 2))
    expected = [str(v) if v else "" for v in PLANE[many[:, 1].astype(int), many[:, 0].astype(int)]]
    assert label_at(labels, many).tolist() == expected


def test_the_outline_around_a_point():
    boxes = [shapely.box(0, 0, 10, 10), shapely.box(8, 0, 20, 10), shapely.box(30, 0, 40, 10)]
    cells = GeoDataFrame({"geometry": boxes}, index=["a", "b", "c"])
    xy = np.array([[5.0, 5.0], [9.0, 5.0], [15.0, 5.0], [25.0, 5.0], [35.0, 5.0]])
    assert outline_at(cells, xy).tolist() == ["a", "", "b", "", "c"], "two cells at one place decide nothing"


@pytest.fixture
def sdata():
    """Cells as labels and as outlines, and points in another frame."""
    turned = Affine(place(degrees=30, flip=True), input_axes=("x", "y"), output_axes=("x", "y"))
    outlines = GeoDataFrame({"geometry": [shapely.box(10, 5, 30, 15), shapely.box(30, 20, 60, 40)]}, index=[7, 301])
    circles = ShapesModel.parse(np.array([[20.0, 10.0]]), geometry=0, radius=5.0, transformations={"global": turned})
    return SpatialData(
        labels={"cell_labels": Labels2DModel.parse(PLANE, dims=("y", "x"), transformations={"global": turned})},
        shapes={
            "cell_boundaries": ShapesModel.parse(outlines, transformations={"global": turned}),
            "cell_circles": circles,
        },
    )


@pytest.mark.parametrize("key", ["cell_labels", "cell_boundaries"])
def test_points_in_another_frame(sdata, key):
    own = np.array([[20.0, 10.0], [45.0, 30.0], [5.0, 5.0], [np.nan, 1.0]])
    matrix = np.diag([2.0, 2.0, 1.0]) @ place(degrees=30, flip=True)
    xy = own @ matrix[:2, :2].T + matrix[:2, 2]
    half = {"global": Scale([0.5, 0.5], axes=("x", "y"))}
    points = PointsModel.parse(np.zeros((1, 2)), transformations=half)
    assert cells_at(sdata, key, points, xy).tolist() == ["7", "301", "", ""]


def test_what_delimits_no_cells(sdata):
    points = PointsModel.parse(np.zeros((1, 2)), transformations={"global": Identity()})
    xy = np.zeros((1, 2))
    assert cells_at(sdata, "cell_circles", points, xy) is None
    assert cells_at(sdata, "cells", points, xy) is None
    elsewhere = PointsModel.parse(np.zeros((1, 2)), transformations={"slide": Identity()})
    assert cells_at(sdata, "cell_labels", elsewhere, xy) is None
