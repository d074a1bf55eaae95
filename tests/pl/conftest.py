"""A table whose every cell has a crop of its own flat colour, so that a picture tells which cell is shown where."""

import sys
from types import SimpleNamespace

import anndata as ad
import dask.dataframe as dd
import geopandas as gpd
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from scipy.sparse import csr_matrix
from spatialdata.models import Image2DModel, Labels2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Scale, Sequence, Translation
from turned_image import HEIGHT, PX_PER_UM, TO_UM, WIDTH, to_um

mpl.use("Agg")

import matplotlib.pyplot as plt

SIZE = 10
MPP = 0.25


def flat_crops(n, size=SIZE):
    """Crop i is filled with a colour that says i."""
    i = np.arange(n)
    color = np.stack([i % 200 + 20, i // 200 + 20, np.full(n, 120)], axis=1).astype(np.uint8)
    return np.broadcast_to(color[:, None, None], (n, size, size, 3)).copy()


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    n = 300
    ok = rng.random(n) < 0.8
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["tumour", "stroma", "rare"], n, p=[0.5, 0.48, 0.02])),
            "nucleus_qc": pd.Categorical(np.where(ok, "ok", "border")),
            "area": rng.gamma(4, 10, n),
            "cell_id": [f"id{i}" for i in range(n)],
        },
        index=[f"c{i}" for i in range(n)],
    )
    x = csr_matrix(rng.poisson([0.3, 2, 5], (n, 3)).astype(np.float32))
    table = ad.AnnData(x, obs=obs)
    table.var_names = ["EPCAM", "CD3E", "ACTB"]
    table.layers["double"] = x * 2
    table.obsm["X_umap"] = rng.normal(size=(n, 2)) * [3, 1]
    table.obsm["X_lemon"] = rng.normal(size=(n, 4)).astype(np.float32)
    table.obsm["X_lemon"][~ok] = np.nan
    table.obsm["nuclei"] = flat_crops(n)
    table.uns["lemon_sc"] = {
        "nuclei": {"store": "", "mpp": np.array([0.25, 0.25])},
        "embed": {"X_lemon": {"features": np.array(["area", "roundness", "density", "contrast"])}},
    }
    return table


@pytest.fixture
def asked(monkeypatch):
    """Stand in for the crop reader; the list collects the rows it is asked for."""
    rows_read = []

    def read_crops(data, rows, *, table_key="table"):
        rows_read.append(np.asarray(rows))
        return data.obsm["nuclei"][rows], MPP

    monkeypatch.setitem(sys.modules, "lemon_sc._objects.nuclei", SimpleNamespace(read_crops=read_crops))
    return rows_read


@pytest.fixture
def unchanged():
    """Compare a table with what it was."""

    def snapshot(table):
        return (
            table.to_df().to_numpy().tobytes(),
            table.obs.to_csv(),
            table.var.to_csv(),
            {k: np.asarray(v).tobytes() for k, v in table.obsm.items()},
            list(table.layers),
            repr(dict(table.uns)),
        )

    return snapshot


@pytest.fixture
def pixel_at():
    """Colour (r, g, b) that a drawn figure has at data coordinates of an axes."""

    def look(ax, x, y):
        canvas = ax.figure.canvas
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())
        col, row = ax.transData.transform((x, y))
        return picture[picture.shape[0] - 1 - int(row), int(col), :3]

    return look


@pytest.fixture(scope="module")
def sdata():
    """Nuclei in um, an image placed by an affine, and a table in another order that lacks one nucleus."""
    rng = np.random.default_rng(0)
    centre_px = rng.uniform([20, 20], [WIDTH - 20, HEIGHT - 20], size=(60, 2))
    centre = to_um(centre_px)
    angles = np.linspace(0, 2 * np.pi, 9)[:-1]
    polygons = [
        shapely.Polygon(c + np.column_stack([a * np.cos(angles), b * np.sin(angles)]))
        for c, a, b in zip(centre, rng.uniform(2, 4, 60), rng.uniform(1, 2, 60), strict=True)
    ]
    ids = np.array([f"cell{i:02d}" for i in range(60)])
    shapes = gpd.GeoDataFrame({"cell_id": ids}, geometry=polygons)
    stain = np.array([170, 110, 160])[:, None, None]  # noise of all colours would be taken for ink
    image = np.clip(rng.normal(stain, 25, (3, HEIGHT, WIDTH)), 0, 255).astype(np.uint8)
    to_global = Scale([PX_PER_UM, PX_PER_UM], axes=("x", "y"))
    placed = Sequence([Affine(TO_UM, input_axes=("x", "y"), output_axes=("x", "y")), to_global])
    order = rng.permutation(60)
    order = order[order != 7]
    obs = pd.DataFrame(
        {
            "cell_id": ids[order],
            "kind": pd.Categorical(np.where(order % 2, "odd", "even")),
            "region": pd.Categorical(["cells"] * 59),
        },
        index=[f"row{i}" for i in range(59)],
    )
    table = ad.AnnData(order[:, None].astype(np.float32), obs=obs)
    table.var_names = ["NUMBER"]
    labels = np.zeros((100, 120), dtype=np.int32)
    labels[10:20, 30:50] = 5
    labels[60:61, 70:72] = 9
    moved = Translation([400, 250], axes=("x", "y"))
    circles = ShapesModel.parse(centre, geometry=0, radius=2.0, transformations={"global": to_global})
    return sd.SpatialData(
        images={"he_image": Image2DModel.parse(image, dims=("c", "y", "x"), transformations={"global": placed})},
        labels={"blobs": Labels2DModel.parse(labels, dims=("y", "x"), transformations={"global": moved})},
        points={
            "dots": PointsModel.parse(
                dd.from_pandas(pd.DataFrame(centre, columns=["x", "y"]), npartitions=1),
                transformations={"global": to_global},
            )
        },
        shapes={
            "nucleus_boundaries": ShapesModel.parse(shapes, transformations={"global": to_global}),
            "circles": circles,
        },
        tables={"table": TableModel.parse(table, region="cells", region_key="region", instance_key="cell_id")},
    )
