import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
import spatialdata_io
from spatialdata.transformations import get_transformation

from lemon_sc.datasets import phantom
from lemon_sc.datasets._placement import PIXEL_SIZE

AFFINES = [
    {"mpp": 0.2125, "rotation": 0.0, "flip": False, "shear": 0.0},
    {"mpp": 0.137, "rotation": 90.0, "flip": False, "shear": 0.0},
    {"mpp": 0.37, "rotation": 33.0, "flip": True, "shear": 0.05},
]


def pixels(sdata, name="he_image"):
    return sdata[name]["scale0"].image.to_numpy()


def truth(sdata):
    return sdata["table"].uns["lemon_sc"]["phantom"]


def test_same_seed_same_phantom(run):
    again = phantom(n_cells=300, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(pixels(again), pixels(run))
    np.testing.assert_array_equal(pixels(again, "morphology_focus"), pixels(run, "morphology_focus"))
    old, new = run["table"], again["table"]
    pd.testing.assert_frame_equal(new.obs, old.obs)
    pd.testing.assert_frame_equal(new.var, old.var)
    np.testing.assert_array_equal(new.X.toarray(), old.X.toarray())
    for key in old.obsm:
        np.testing.assert_array_equal(new.obsm[key], old.obsm[key])
    assert again["nucleus_boundaries"].equals(run["nucleus_boundaries"])
    assert again["transcripts"].compute().equals(run["transcripts"].compute())


def test_another_seed_gives_another_tissue(run):
    other = phantom(n_cells=300, rng=2)
    assert pixels(other).shape != pixels(run).shape or (pixels(other) != pixels(run)).any()
    assert (other["table"].X != run["table"].X).nnz > 0


@pytest.mark.parametrize("affine", AFFINES)
def test_affine_changes_the_image_and_nothing_else(affine):
    made, default = phantom(n_cells=50, **affine), phantom(n_cells=50)
    assert made["nucleus_boundaries"].equals(default["nucleus_boundaries"])
    assert (made["table"].X != default["table"].X).nnz == 0
    assert truth(made)["mpp"] == affine["mpp"]
    assert np.sign(np.linalg.det(truth(made)["affine"])) == (-1 if affine["flip"] else 1)


def test_true_centres_are_the_polygons_centroids_through_the_transformations(run):
    table, nuclei = run["table"], run["nucleus_boundaries"]
    to_global = get_transformation(nuclei).to_affine_matrix(("x", "y"), ("x", "y"))
    from_he = get_transformation(run["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_array_equal(from_he, truth(run)["affine"])
    chain = np.linalg.inv(from_he) @ to_global
    single = nuclei[nuclei["cell_id"].map(nuclei["cell_id"].value_counts()) == 1]
    expected = shapely.get_coordinates(shapely.centroid(single.geometry.to_numpy())) @ chain[:2, :2].T + chain[:2, 2]
    at = table.obs_names.get_indexer(single["cell_id"])
    np.testing.assert_allclose(table.obsm["truth_xy"][at], expected, atol=1e-6)


def test_truth_is_that_of_the_largest_nucleus(run):
    nuclei, obs = run["nucleus_boundaries"], run["table"].obs
    largest = nuclei.geometry.area.groupby(nuclei["cell_id"]).max()
    np.testing.assert_allclose(obs["truth_area_um2"].reindex(largest.index), largest, rtol=0.04)
    summed = nuclei.geometry.area.groupby(nuclei["cell_id"]).sum()
    np.testing.assert_allclose(obs["nucleus_area"].reindex(summed.index), summed, rtol=0.04)
    assert (obs["truth_elongation"].dropna() >= 1).all()


def test_holds_every_awkward_case(run):
    table, nuclei = run["table"], run["nucleus_boundaries"]
    count = nuclei["cell_id"].value_counts().reindex(table.obs_names, fill_value=0)
    assert table.n_obs == 300
    assert (count == table.obs["nucleus_count"]).all()
    assert ((count == 0).sum(), (count == 2).sum()) == (12, 9)
    assert table.obs["truth_area_um2"].isna().sum() == 12
    assert np.isnan(table.obsm["truth_xy"]).all(axis=1).sum() == 12
    assert (table.obs["total_counts"] == 0).sum() == 3
    height, width = pixels(run).shape[1:]
    chain = np.linalg.inv(truth(run)["affine"]) @ np.diag([1 / PIXEL_SIZE, 1 / PIXEL_SIZE, 1])
    in_he = nuclei.geometry.affine_transform([*chain[0, :2], *chain[1, :2], *chain[:2, 2]])
    frame = shapely.box(0, 0, width, height)
    assert (~in_he.intersects(frame)).sum() >= 3
    assert in_he.intersects(frame.exterior).sum() >= 2


def test_labels_agree_with_the_polygons(run):
    for labels, shapes in (("nucleus_labels", "nucleus_boundaries"), ("cell_labels", "cell_boundaries")):
        image = pixels(run, labels)
        drawn = np.bincount(image.ravel())[1:] * PIXEL_SIZE**2
        np.testing.assert_allclose(drawn, run[shapes].geometry.area, atol=3.0)
    table = run["table"]
    assert table.uns["spatialdata_attrs"]["instance_key"] == "cell_labels"
    assert set(table.obs["cell_labels"]) == set(np.unique(pixels(run, "cell_labels"))) - {0}
    inside = pixels(run, "cell_labels")[tuple((table.obsm["spatial"][:, ::-1] / PIXEL_SIZE).astype(int).T)]
    assert np.mean(inside == table.obs["cell_labels"]) > 0.97  # a centroid may lie outside a bent cell


def test_integer_ids_look_like_a_real_run_of_the_older_format(old_run, xenium_outs):
    real = spatialdata_io.xenium(xenium_outs, transcripts=False)
    for kind in ("images", "labels", "shapes", "tables"):
        assert set(getattr(old_run, kind)) == set(getattr(real, kind))
    for name in real.shapes:
        assert old_run[name].index.dtype == real[name].index.dtype
        assert old_run[name].index.name == real[name].index.name
        assert list(old_run[name].columns) == list(real[name].columns)
        assert type(get_transformation(old_run[name])) is type(get_transformation(real[name]))
    for name in real.images:
        mine, theirs = old_run[name]["scale0"].image, real[name]["scale0"].image
        assert (mine.dtype, mine.dims, len(old_run[name])) == (theirs.dtype, theirs.dims, len(real[name]))
    mine, theirs = old_run["table"], real["table"]
    assert mine.uns["spatialdata_attrs"] == theirs.uns["spatialdata_attrs"]
    seen = [c for c in mine.obs if not c.startswith("truth_")]
    assert mine.obs[seen].dtypes.astype(str).to_dict() == theirs.obs.dtypes.astype(str).to_dict()
    assert [c for c in mine.var if not c.startswith("truth")] == list(theirs.var)
    assert (type(mine.X), mine.X.dtype) == (type(theirs.X), theirs.X.dtype)
    assert old_run["nucleus_boundaries"].index.is_unique
    assert set(old_run["nucleus_boundaries"].index) < set(mine.obs["cell_id"])


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_survives_writing_and_reading(tmp_path):
    run = phantom(n_cells=80)  # its own: writing turns text columns into categories in place
    run.write(tmp_path / "run.zarr")
    back = sd.read_zarr(tmp_path / "run.zarr")
    np.testing.assert_array_equal(pixels(back), pixels(run))
    np.testing.assert_array_equal(truth(back)["affine"], truth(run)["affine"])
    np.testing.assert_array_equal(back["table"].obsm["truth_xy"], run["table"].obsm["truth_xy"])
    assert back["table"].var["truth"].tolist() == run["table"].var["truth"].tolist()
    run["table"].write_h5ad(tmp_path / "table.h5ad")
    assert ad.read_h5ad(tmp_path / "table.h5ad").obs["truth_type"].equals(run["table"].obs["truth_type"])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"n_cells": 49}, "`n_cells` must be an int >= 50, got 49"),
        ({"n_cells": 100.0}, "`n_cells` must be an int"),
        ({"n_cells": True}, "`n_cells` must be an int"),
        ({"rng": -1}, "`rng` must be an int >= 0"),
        ({"mpp": 0.0}, "`mpp` must lie between"),
        ({"mpp": float("nan")}, "`mpp` must lie between"),
        ({"rotation": float("inf")}, "`rotation` must be a finite"),
        ({"shear": 0.8}, "`shear` must lie between"),
        ({"ids": "strings"}, "Did you mean 'string'"),
    ],
)
def test_bad_parameters_say_so(bad, says):
    with pytest.raises(ValueError, match=says):
        phantom(**bad)
