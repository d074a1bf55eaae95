"""Runs in the layouts that users hold them in, shuffled, and what must be found in each."""

import numpy as np
import pandas as pd
import spatialdata as sd
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Scale, get_transformation

import lemon_sc as lm

AXES = ("x", "y")
PX = 0.2125
TO_GLOBAL = {"global": Scale([1 / PX] * 2, axes=AXES)}
POLYGONS, RASTER, OUTLINED_RASTER = 1e-6, 0.5, 1.0  # px by which centres may differ; outlines of a raster lie on its px


def made(**options):
    return lm.datasets.phantom(n_cells=60, **options)


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


def to_he(sdata):
    """Affine from um to px of the H&E."""
    placed = get_transformation(sdata["he_image"]).to_affine_matrix(AXES, AXES)
    return np.linalg.inv(placed) @ np.diag([1 / PX, 1 / PX, 1])


def at_cells(sdata):
    """Centres of the cells in px of the H&E."""
    matrix = to_he(sdata)
    return sdata["table"].obsm["spatial"] @ matrix[:2, :2].T + matrix[:2, 2]
