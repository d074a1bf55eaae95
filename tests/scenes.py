"""Scenes whose answer is known in closed form."""

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Scale, get_transformation

XENIUM_PX = 0.2125


def place(mpp=0.2738, degrees=0.0, *, flip=False, shear=0.0, shift=(300.0, 150.0)):
    """Affine from H&E px to global px (0.2125 um), built factor by factor."""
    t = np.deg2rad(degrees)
    rotation = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    linear = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag([-1.0 if flip else 1.0, 1.0]) * (mpp / XENIUM_PX)
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    return matrix


def lopsided(centre, size=5.0):
    """A drop-shaped polygon whose area centroid is `centre` and whose vertex mean is far from it."""
    angle = np.linspace(np.pi / 2, 3 * np.pi / 2, 15)
    blunt = np.column_stack([np.cos(angle), np.sin(angle)])
    polygon = shapely.Polygon(np.vstack([blunt, [[2.0, 0.0]]]) * size / 2)
    c = polygon.centroid
    return shapely.affinity.translate(polygon, centre[0] - c.x, centre[1] - c.y)


def blob_image(xy_px, um_per_px, shape, *, sigma_um=1.3, noise=0):
    """White image (h, w, 3) with a dark Gaussian blob on each centre, evaluated per pixel, not resampled."""
    out = np.full((*shape, 3), 240.0)
    cov = np.linalg.inv(um_per_px[:2, :2].T @ um_per_px[:2, :2])  # of a round blob in um, seen in px
    precision = np.linalg.inv(cov) / sigma_um**2
    reach = int(np.ceil(6 * sigma_um / np.linalg.svd(um_per_px[:2, :2], compute_uv=False).min()))
    for x, y in xy_px:
        r0, r1, c0, c1 = (int(v) for v in (y - reach, y + reach, x - reach, x + reach))
        r0, c0, r1, c1 = max(r0, 0), max(c0, 0), min(r1, shape[0]), min(c1, shape[1])
        if r0 >= r1 or c0 >= c1:
            continue
        rr, cc = np.mgrid[r0:r1, c0:c1] + 0.5
        d = np.stack([cc - x, rr - y], axis=-1)
        out[r0:r1, c0:c1] -= 180 * np.exp(-0.5 * np.einsum("...i,ij,...j", d, precision, d))[..., None]
    rng = np.random.default_rng(0)
    return np.clip(np.round(out + noise * rng.standard_normal(out.shape)), 0, 255).astype(np.uint8)


def blob_scene(matrix, *, side=6, spacing=21.0, multiscale=False, chunks=None):
    """SpatialData with `side` x `side` lopsided nuclei in um and an H&E of blobs placed by `matrix` (px -> global).

    Returns the object and the true centres in H&E px.
    """
    grid = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5) * spacing
    jitter = np.random.default_rng(1).uniform(-2, 2, grid.shape)
    um = grid + jitter
    to_global = np.diag([1 / XENIUM_PX, 1 / XENIUM_PX, 1.0])
    to_px = np.linalg.inv(matrix) @ to_global
    xy = um @ to_px[:2, :2].T + to_px[:2, 2]
    low = xy.min(axis=0) - 60
    shifted = matrix @ np.array([[1, 0, low[0]], [0, 1, low[1]], [0, 0, 1]])
    xy = xy - low
    width, height = (np.ceil(xy.max(axis=0) + 60)).astype(int)
    pixels = blob_image(xy, np.diag([XENIUM_PX, XENIUM_PX, 1.0]) @ shifted, (height, width))
    n = len(um)
    ids = [f"cell{i:03d}" for i in range(n)]
    shapes = gpd.GeoDataFrame(
        {"cell_id": ids, "geometry": [lopsided(c, 5 + i % 3) for i, c in enumerate(um)]}, index=np.arange(1, n + 1)
    )
    table = ad.AnnData(
        np.random.default_rng(2).poisson(3, (n, 4)).astype(np.float32),
        obs=pd.DataFrame(
            {"cell_id": ids, "region": pd.Categorical(["cell_labels"] * n), "cell_labels": np.arange(1, n + 1)},
            index=[f"row{i}" for i in range(n)],
        ),
        obsm={"spatial": um},
    )
    order = np.random.default_rng(3).permutation(n)  # so that a join by position shows
    table = table[order].copy()
    kwargs = {"scale_factors": [2, 2]} if multiscale else {}
    sdata = SpatialData(
        images={
            "he_image": Image2DModel.parse(
                np.moveaxis(pixels, 2, 0),
                dims=("c", "y", "x"),
                c_coords=["r", "g", "b"],
                chunks=chunks,
                transformations={"global": Affine(shifted, input_axes=("x", "y"), output_axes=("x", "y"))},
                **kwargs,
            )
        },
        shapes={
            "nucleus_boundaries": ShapesModel.parse(
                shapes, transformations={"global": Scale([1 / XENIUM_PX] * 2, axes=("x", "y"))}
            )
        },
        tables={
            "table": TableModel.parse(table, region="cell_labels", region_key="region", instance_key="cell_labels")
        },
    )
    return sdata, xy[order]


def add_nuclei(sdata, cells, *, scale=0.5, shift=(2.0, 0.0)):
    """Give some cells a second, smaller nucleus beside the first."""
    shapes = sdata["nucleus_boundaries"]
    more = shapes[shapes["cell_id"].isin(cells)].copy()
    more["geometry"] = [
        shapely.affinity.translate(shapely.affinity.scale(g, scale, scale), *shift) for g in more.geometry
    ]
    more.index = np.arange(1001, 1001 + len(more))
    placed = get_transformation(shapes, get_all=True)
    both = pd.concat([more, shapes])  # the small ones first: order must not decide
    both.attrs = {}
    sdata.shapes["nucleus_boundaries"] = ShapesModel.parse(both, transformations=placed)
    return more


def snapshot(sdata):
    """What a failing call must leave as it is."""
    table = sdata["table"]
    return table.obs.copy(), list(table.obsm), list(table.uns), list(sdata.tables), dict(sdata.attrs)


def assert_untouched(sdata, before):
    obs, *rest = before
    pd.testing.assert_frame_equal(sdata["table"].obs, obs)
    assert rest == list(snapshot(sdata)[1:])
