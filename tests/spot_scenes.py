"""An H&E with spots whose patches are slices of the image."""

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

MPP = 0.5
"""um per image px, which is that of patches: a patch around a whole px is a slice of the image."""


def he_pixels(height=400, width=500):
    """Stained noise (h, w, 3), smooth enough to look like tissue, without glass."""
    coarse = np.random.default_rng(0).integers(90, 190, (height // 20, width // 20, 3))
    pixels = np.kron(coarse, np.ones((20, 20, 1)))
    pixels[..., 1] -= 40  # eosin and haematoxylin absorb green
    return pixels.astype(np.uint8)


def spot_scene(at, *, pixels=None, kind="circles", radius=10.0, image_key="he_image"):
    """SpatialData with an H&E of 0.5 um per px and units centred on the px `at` (n, 2); row names spot0, spot1, ...

    The units are in um and their table is in another order than they are.
    """
    pixels = he_pixels() if pixels is None else pixels
    at = np.asarray(at, dtype=float)
    n = len(at)
    ids = np.arange(n) + 100
    um = at * MPP
    to_px = {"global": Scale([1 / MPP] * 2, axes=("x", "y"))}
    shapes, labels, points = {}, {}, {}
    if kind == "circles":
        frame = gpd.GeoDataFrame({"geometry": shapely.points(um), "radius": np.full(n, radius)}, index=ids)
        shapes["units"] = ShapesModel.parse(frame, transformations=to_px)
    elif kind == "polygons":
        boxes = shapely.box(*(um - radius).T, *(um + radius).T)
        shapes["units"] = ShapesModel.parse(gpd.GeoDataFrame({"geometry": boxes}, index=ids), transformations=to_px)
    elif kind == "points":
        frame = pd.DataFrame({"x": um[:, 0], "y": um[:, 1], "cell_id": ids}, index=ids)
        points["units"] = PointsModel.parse(frame, transformations=to_px)
    else:
        plane = np.zeros(pixels.shape[:2], dtype=np.uint32)
        for i, (x, y) in zip(ids, at.astype(int), strict=True):
            plane[y - 3 : y + 3, x - 3 : x + 3] = i
        labels["units"] = Labels2DModel.parse(plane, dims=("y", "x"), transformations={"global": Identity()})
    order = np.random.default_rng(1).permutation(n)
    obs = pd.DataFrame({"region": pd.Categorical(["units"] * n), "unit": ids[order]}, index=[f"spot{i}" for i in order])
    table = ad.AnnData(np.random.default_rng(2).poisson(3, (n, 4)).astype(np.float32), obs=obs)
    image = Image2DModel.parse(
        np.moveaxis(pixels, 2, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={"global": Identity()},
    )
    return SpatialData(
        images={image_key: image},
        shapes=shapes,
        labels=labels,
        points=points,
        tables={"table": TableModel.parse(table, region="units", region_key="region", instance_key="unit")},
    )
