"""Nuclei pooled into spots and bins of a scene whose geometry is known."""

import logging

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from scenes import XENIUM_PX, blob_scene, place
from spatialdata.models import PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Scale

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError

TO_GLOBAL = {"global": Scale([1 / XENIUM_PX] * 2, axes=("x", "y"))}


@pytest.fixture
def nuclei():
    """36 nuclei, 21 um apart, with embeddings; two of them without."""
    sdata, _ = blob_scene(place(0.2738, 97, flip=True, shear=0.05))
    lm.pp.extract_nuclei(sdata)
    table = sdata["table"]
    table.obsm["X_lemon"] = np.random.default_rng(0).normal(size=(table.n_obs, 5)).astype(np.float32)
    table.obsm["X_lemon"][[3, 17]] = np.nan
    return sdata


def add_units(sdata, frame):
    """Units in um with a table in another order than they are."""
    sdata.shapes["spots"] = ShapesModel.parse(frame, transformations=TO_GLOBAL)
    order = np.random.default_rng(1).permutation(len(frame))
    names = [f"unit{i}" for i in order]
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * len(frame)), "id": frame.index[order]}, index=names)
    table = AnnData(np.zeros((len(frame), 1), np.float32), obs=obs)
    sdata["spots_table"] = TableModel.parse(table, region="spots", region_key="region", instance_key="id")
    return sdata["spots_table"]


def circles(centre, radius):
    index = np.arange(len(centre)) + 10
    return gpd.GeoDataFrame({"geometry": shapely.points(centre), "radius": np.full(len(centre), radius)}, index=index)


def test_each_spot_gets_the_mean_of_the_nuclei_within(nuclei):
    centre = np.random.default_rng(2).uniform(-20, 150, (40, 2))
    units = add_units(nuclei, circles(centre, 18.0))
    lm.tl.pool_nuclei(nuclei)
    cells = nuclei["table"]
    usable = np.isfinite(cells.obsm["X_lemon"]).all(axis=1)
    n_in = []
    for name, mean, sd, n in zip(
        units.obs_names, units.obsm["X_lemon"], units.obsm["X_lemon_sd"], units.obs["X_lemon_n"], strict=True
    ):
        far = np.hypot(*(cells.obsm["spatial"] - centre[int(name.removeprefix("unit"))]).T)  # um, as they were planted
        within = cells.obsm["X_lemon"][(far <= 18.0) & usable]
        n_in.append(len(within))
        assert n == len(within)
        if len(within):
            np.testing.assert_allclose(mean, within.mean(axis=0), atol=1e-6)
            np.testing.assert_allclose(sd, within.std(axis=0), atol=1e-6)
        else:
            assert np.isnan([*mean, *sd]).all()
    assert {0, 1, 2} <= set(n_in)
    record = units.uns["lemon_sc"]["pool"]["X_lemon"]
    assert record["n_units_without_nucleus"] == n_in.count(0)
    assert record["n_nuclei"] == usable.sum() == 34


def test_bins_that_tile_the_tissue_hold_each_nucleus_once(nuclei):
    x, y = (v.ravel() for v in np.meshgrid(np.arange(-8, 136, 16.0), np.arange(-8, 136, 16.0)))
    boxes = shapely.box(x, y, x + 16, y + 16)
    units = add_units(nuclei, gpd.GeoDataFrame({"geometry": boxes}, index=np.arange(len(boxes))))
    lm.tl.pool_nuclei(nuclei, key_added="pooled")
    n = units.obs["pooled_n"].to_numpy()
    assert n.sum() == 34
    total = np.nansum(units.obsm["pooled"] * n[:, None], axis=0)
    np.testing.assert_allclose(total, np.nansum(nuclei["table"].obsm["X_lemon"], axis=0), rtol=1e-5)
    assert units.uns["lemon_sc"]["pool"]["pooled"]["n_nuclei_without_unit"] == 0


def test_rows_without_a_unit_and_units_without_a_row(nuclei, caplog):
    units = add_units(nuclei, circles(nuclei["table"].obsm["spatial"][:6], 5.0))
    nuclei.shapes["spots"] = nuclei["spots"].iloc[:5]
    nuclei.tables["spots_table"] = units[units.obs_names != "unit0"].copy()
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        lm.tl.pool_nuclei(nuclei)
    n = nuclei["spots_table"].obs["X_lemon_n"]
    assert n.to_dict() == {f"unit{i}": int(i in {1, 2, 4}) for i in range(1, 6) for _ in [0]} | {"unit3": 0, "unit5": 0}
    assert "1 units of 'spots' belong to no row of the table" in caplog.text


def test_pooled_rows_say_what_they_are_and_survive_a_file(nuclei, tmp_path):
    units = add_units(nuclei, circles(nuclei["table"].obsm["spatial"][:6], 5.0))
    lm.tl.embed(nuclei, model=(lambda crops: crops.mean(axis=(1, 2)), lm.models.ModelCard(name="mean", dim=3)))
    lm.tl.pool_nuclei(nuclei)
    assert set(units.obs["X_lemon_encoder"]) == {"mean of nuclei: mean, 40 px at 0.25 um"}
    units.write_h5ad(tmp_path / "units.h5ad")
    assert lm.tl.provenance(nuclei, table_key="spots_table")[0]["step"] == "pool"


def test_what_cannot_be_pooled_is_refused(nuclei):
    with pytest.raises(MissingKeyError, match="'spots_table' not found in `sdata.tables`"):
        lm.tl.pool_nuclei(nuclei)
    add_units(nuclei, circles(nuclei["table"].obsm["spatial"] + 1e4, 5.0))
    with pytest.raises(ValueError, match="None of the 34 nuclei with an embedding lies in one of the 36 units"):
        lm.tl.pool_nuclei(nuclei)
    with pytest.raises(MissingKeyError, match="'X_lemn' not found in `adata.obsm`"):
        lm.tl.pool_nuclei(nuclei, use_rep="X_lemn")
    with pytest.raises(ValueError, match="`key_added` must hold only letters"):
        lm.tl.pool_nuclei(nuclei, key_added="a b")
    nuclei["dots"] = PointsModel.parse(
        pd.DataFrame({"x": [1.0], "y": [1.0], "cell_id": [10]}), transformations=TO_GLOBAL
    )
    with pytest.raises(ValueError, match="'dots' holds points, in which nothing can lie"):
        lm.tl.pool_nuclei(nuclei, shapes_key="dots")
    nuclei["table"].uns.pop("lemon_sc")
    with pytest.raises(MissingKeyError, match=r"Run `lm.pp.extract_nuclei` first"):
        lm.tl.pool_nuclei(nuclei)


def test_nothing_else_is_lost_by_pooling(nuclei):
    units = add_units(nuclei, circles(np.array([[50.0, 50.0]]), 60.0))
    units.obsm["X_lemon"] = np.ones((1, 3), np.float32)  # an embedding of the patch, under the same name
    with pytest.raises(ValueError, match=r"`key_added` must not be a name that holds something else in .*'X_lemon'"):
        lm.tl.pool_nuclei(nuclei)
    assert units.obsm["X_lemon"].shape == (1, 3)
    assert "X_lemon_n" not in units.obs
    lm.tl.pool_nuclei(nuclei, key_added="X_nuclei")
    lm.tl.pool_nuclei(nuclei, key_added="X_nuclei")  # its own result is replaced
    nuclei["table"].uns["lemon_sc"]["nuclei"]["unit"] = "patch"
    with pytest.raises(ValueError, match="holds patches. Pass the table of the nuclei"):
        lm.tl.pool_nuclei(nuclei, key_added="X_nuclei")
