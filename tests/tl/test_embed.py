import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import torch
from scenes import blob_scene, place

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.models import ModelCard

MEAN = (lambda crops: crops.mean(axis=(1, 2)) / 255, ModelCard(name="mean-rgb", dim=3))


def tiny_vit():
    """A network whose output depends on the whole crop, with a card."""
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.Flatten(), nn.Linear(200, 16))
    return net, ModelCard(name="tiny", dim=16, mean=(0.5, 0.4, 0.5), std=(0.2, 0.2, 0.2))


@pytest.fixture
def mixed():
    """A scene with a cell at the border, and one without a row."""
    sdata, xy = blob_scene(place(degrees=20), side=5, chunks=(3, 100, 90))
    width = int(np.sort(xy[:, 0])[18]) + 22  # for one nucleus, 40 px fit and 60 px do not
    height = int(np.sort(xy[:, 1])[-4]) + 5  # cuts through the windows of a few
    sdata.images["he_image"] = sdata["he_image"].isel(x=slice(0, width), y=slice(0, height))
    lm.pp.extract_nuclei(sdata)
    assert set(sdata["table"].obs["nucleus_qc"]) >= {"ok", "border"}
    return sdata


def test_rows_are_in_the_order_of_the_table(scene):
    """With an encoder whose answer is known in closed form."""
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store="memory")
    table = sdata["table"]
    lm.tl.embed(sdata, model=MEAN)
    expected = table.obsm["nuclei"].mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(table.obsm["X_lemon"], expected, rtol=1e-6)
    assert table.obsm["X_lemon"].dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("source", ["memory", "store", None])
def test_nothing_about_the_way_changes_the_embedding(scene, tmp_path, source, batch_size):
    sdata, _ = scene
    net = tiny_vit()
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata, model=net, key_added="reference")
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr" if source == "store" else source)
    lm.tl.embed(sdata, model=net, batch_size=batch_size)
    np.testing.assert_allclose(sdata["table"].obsm["X_lemon"], sdata["table"].obsm["reference"], atol=1e-5)
    assert sdata["table"].uns["lemon_sc"]["embed"]["X_lemon"]["crops_from"] == (source or "image")


def test_order_and_subset_do_not_matter(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store="memory")
    lm.tl.embed(sdata, model=tiny_vit())
    shuffled = sdata["table"][np.random.default_rng(0).permutation(25)[:12]].copy()
    expected = shuffled.obsm.pop("X_lemon")
    lm.tl.embed(shuffled, model=tiny_vit())
    np.testing.assert_allclose(shuffled.obsm["X_lemon"], expected, atol=1e-5)


def test_unusable_cells_are_nan_and_counted(mixed):
    lm.tl.embed(mixed, model=MEAN)
    table = mixed["table"]
    ok = (table.obs["nucleus_qc"] == "ok").to_numpy()
    assert np.isfinite(table.obsm["X_lemon"][ok]).all()
    assert np.isnan(table.obsm["X_lemon"][~ok]).all()
    assert table.uns["lemon_sc"]["embed"]["X_lemon"]["n_embedded"] == ok.sum()


def test_a_larger_window_loses_what_it_cannot_hold(mixed, caplog):
    card = ModelCard(name="wide", dim=3, input_px=60)
    lm.tl.embed(mixed, model=(MEAN[0], card))
    table = mixed["table"]
    usable = (table.obs["nucleus_qc"] == "ok").to_numpy()
    finite = np.isfinite(table.obsm["X_lemon"]).all(axis=1)
    height, width = mixed["he_image"].shape[1:]
    half = 30 * 0.25 / 0.2738
    xy = table.obsm["nucleus_xy"]
    holds = ((xy >= half) & (xy <= np.array([width, height]) - half)).all(axis=1)
    np.testing.assert_array_equal(finite, usable & holds)
    assert (usable & ~holds).any()
    assert "too close to the border" in caplog.text


def test_a_model_at_another_scale_is_cut_at_that_scale(scene):
    """At 0.5 um/px the same 20 um hold twice the width of tissue: the mean is nearer to glass."""
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store="memory")
    lm.tl.embed(sdata, model=MEAN)
    lm.tl.embed(sdata, model=(MEAN[0], ModelCard(name="far", dim=3, input_px=20, mpp=1.0)), key_added="far")
    table = sdata["table"]
    assert table.uns["lemon_sc"]["embed"]["far"]["crops_from"] == "image"
    finite = np.isfinite(table.obsm["far"][:, 0])
    assert (table.obsm["far"][finite, 0] > table.obsm["X_lemon"][finite, 0]).all()


def test_the_mean_policy_averages_the_nuclei_of_a_cell(scene):
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    sdata, _ = scene
    shapes = sdata["nucleus_boundaries"]
    second = shapes[shapes["cell_id"] == "cell007"].copy()
    smaller = [shapely.affinity.scale(g, 0.5, 0.5) for g in second.geometry]
    second["geometry"] = [shapely.affinity.translate(g, 3, 1) for g in smaller]
    second.index = [99]
    both = pd.concat([shapes, second])
    both.attrs = {}
    placed = get_transformation(shapes, get_all=True)
    sdata.shapes["nucleus_boundaries"] = ShapesModel.parse(both, transformations=placed)
    row = sdata["table"].obs["cell_id"].tolist().index("cell007")
    lm.pp.extract_nuclei(sdata, multiple="all")
    lm.tl.embed(sdata, model=MEAN, table_key="nuclei")
    each = sdata["nuclei"].obsm["X_lemon"][(sdata["nuclei"].obs["cell_id"] == "cell007").to_numpy()]
    assert len(each) == 2
    for store in (None, "memory"):
        lm.pp.extract_nuclei(sdata, multiple="mean", store=store)
        lm.tl.embed(sdata, model=MEAN)
        np.testing.assert_allclose(sdata["table"].obsm["X_lemon"][row], each.mean(axis=0), rtol=1e-6)
    subset = sdata["table"][[row, 3]].copy()
    lm.tl.embed(subset, model=MEAN)
    np.testing.assert_allclose(subset.obsm["X_lemon"][0], each.mean(axis=0), rtol=1e-6)


def test_the_default_is_interpretable_and_recorded(scene, tmp_path):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata)
    table = sdata["table"]
    record = table.uns["lemon_sc"]["embed"]["X_lemon"]
    assert record["model"] == "guided_ti8"
    assert len(record["features"]) == table.obsm["X_lemon"].shape[1]
    sdata.write(tmp_path / "s.zarr")
    table.write_h5ad(tmp_path / "t.h5ad")
    for again in (sd.read_zarr(tmp_path / "s.zarr")["table"], ad.read_h5ad(tmp_path / "t.h5ad")):
        np.testing.assert_array_equal(again.obsm["X_lemon"], table.obsm["X_lemon"])
        assert again.uns["lemon_sc"]["embed"]["X_lemon"]["version"] == lm.__version__
        assert list(again.uns["lemon_sc"]["embed"]["X_lemon"]["features"]) == list(record["features"])


def test_two_embeddings_live_side_by_side(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata, model=MEAN, key_added="X_mean")
    lm.tl.embed(sdata, model=tiny_vit(), key_added="X_tiny")
    assert set(sdata["table"].uns["lemon_sc"]["embed"]) == {"X_mean", "X_tiny"}


def test_bad_input(scene):
    sdata, _ = scene
    table = sdata["table"]
    with pytest.raises(MissingKeyError, match=r"'nuclei' not found in `adata.uns\[\"lemon_sc\"\]`.*extract_nuclei"):
        lm.tl.embed(sdata)
    lm.pp.extract_nuclei(sdata)
    before = list(table.obsm)
    with pytest.raises(ValueError, match=r"only where the nuclei lie. Pass the SpatialData"):
        lm.tl.embed(table)
    with pytest.raises(ValueError, match=r"Unknown model 'morphometri'.*Did you mean 'morphometry'"):
        lm.tl.embed(sdata, model="morphometri")
    with pytest.raises(ValueError, match="`key_added` must hold only letters"):
        lm.tl.embed(sdata, key_added="org/model")
    with pytest.raises(TypeError, match="must be an AnnData or a SpatialData, got ndarray"):
        lm.tl.embed(np.zeros(3))
    broken = (lambda crops: np.full((len(crops), 3), np.nan), ModelCard(name="nan", dim=3))
    with pytest.raises(RuntimeError, match="NaN or infinity for 25 of 25 crops"):
        lm.tl.embed(sdata, model=broken)
    assert list(table.obsm) == before
    assert "embed" not in table.uns["lemon_sc"]


def test_cells_that_the_store_does_not_know_are_an_error(scene, tmp_path):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr")
    table = sdata["table"]
    table.obs_names = [f"new{i}" if i < 10 else name for i, name in enumerate(table.obs_names)]
    with pytest.raises(ValueError, match=r"lacks 10 of the table's 25 usable nuclei, for instance \['new0'"):
        lm.tl.embed(sdata, model=MEAN)


def test_nothing_usable(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    sdata["table"].obs["nucleus_qc"] = pd.Categorical(["border"] * 25, categories=["ok", "border"])
    with pytest.raises(ValueError, match=r"No cell has a usable nucleus \(25 border\)"):
        lm.tl.embed(sdata)


def test_nothing_usable_by_its_pixels(scene):
    """Found while embedding, before anything is written."""
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    sdata["he_image"][:] = 255
    with pytest.raises(ValueError, match=r"No cell has a usable nucleus \(25 blank\)"):
        lm.tl.embed(sdata, model=MEAN)
    assert "X_lemon" not in sdata["table"].obsm
    assert (sdata["table"].obs["nucleus_qc"] == "ok").all()


def test_names_that_are_not_unique(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    sdata["table"].obs_names = ["a"] * 25
    lm.tl.embed(sdata, model=MEAN)
    assert np.isfinite(sdata["table"].obsm["X_lemon"]).all()
    extra = sdata["table"].uns["lemon_sc"]["nuclei"]["extra"]
    extra.update({"obs_name": ["a"], "xy": [[5.0, 5.0]], "nucleus_id": ["b"], "rank": [1]})
    with pytest.raises(ValueError, match=r"`adata.obs_names` must be unique, got 'names that are there twice"):
        lm.tl.embed(sdata, model=MEAN)


@pytest.mark.parametrize(("where", "name"), [("obs", "nucleus_qc"), ("obs", "nucleus_id"), ("obsm", "nucleus_xy")])
def test_parts_of_the_extraction_that_are_gone(scene, where, name):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    del getattr(sdata["table"], where)[name]
    with pytest.raises(KeyError, match=rf"'{name}' not found in `?adata.{where}.*extract_nuclei"):
        lm.tl.embed(sdata, model=MEAN)
