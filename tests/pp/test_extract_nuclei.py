"""Where crops are cut, what is written, and which nuclei count."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scenes import add_nuclei, blob_scene, place, snapshot
from spatialdata.models import Labels2DModel, PointsModel, ShapesModel
from spatialdata.transformations import Identity, Scale

import lemon_sc as lm

AFFINES = {
    "identity": place(),
    "quarter turn": place(degrees=90),
    "half turn": place(degrees=180),
    "three quarters": place(degrees=-90),
    "rotation": place(degrees=37.3),
    "flip": place(flip=True),
    "flip and rotation": place(degrees=-71, flip=True),
    "shear": place(degrees=10, shear=0.08),
    "0.137": place(0.137, 20),
    "0.2125": place(0.2125),
    "0.25": place(0.25, 5, flip=True),
    "0.3639": place(0.3639, 0.28, flip=True),
    "0.37": place(0.37, 45, shear=-0.05),
}


def darkness_centre(crops):
    """Centre of mass of what is darker than glass, in crop px, (n, 2): x, y."""
    dark = np.clip(240.0 - crops[..., 0], 0, None)
    at = np.arange(crops.shape[1]) + 0.5
    total = dark.sum(axis=(1, 2))
    return np.column_stack([(dark.sum(axis=1) * at).sum(axis=1), (dark.sum(axis=2) * at).sum(axis=1)]) / total[:, None]


@pytest.mark.parametrize("name", AFFINES)
def test_crops_are_centred_on_the_truth(name):
    sdata, xy = blob_scene(AFFINES[name], multiscale=name == "0.137")
    lm.pp.extract_nuclei(sdata, store="memory")
    table = sdata["table"]
    assert (table.obs["nucleus_qc"] == "ok").all()
    np.testing.assert_allclose(table.obsm["nucleus_xy"], xy, atol=1e-6)
    off = np.abs(darkness_centre(table.obsm["nuclei"]) - 20)
    assert off.max() < 0.1


@pytest.mark.parametrize("name", ["rotation", "0.137", "0.3639"])
def test_a_crop_has_its_scale(name):
    """The blob's sigma of 1.3 um is 5.2 px in every crop, whatever the image's pixel size."""
    sdata, _ = blob_scene(AFFINES[name])
    lm.pp.extract_nuclei(sdata, store="memory", size_px=60)
    dark = np.clip(240.0 - sdata["table"].obsm["nuclei"][..., 0], 0, None).sum(axis=2)
    at = np.arange(60) + 0.5 - 30
    variance = (dark * at**2).sum(axis=1) / dark.sum(axis=1)
    assert np.sqrt(variance) == pytest.approx(1.3 / 0.25, rel=0.02)


def test_what_is_written(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    table = sdata["table"]
    assert list(table.obs["nucleus_qc"].cat.categories) == [
        "ok", "no_nucleus", "outside_image", "border", "blank", "off_tissue", "pen", "saturated", "blurred",
    ]  # fmt: skip
    assert (table.obs["n_nuclei"] == 1).all()
    own = sdata["nucleus_boundaries"]["cell_id"].loc[table.obs["nucleus_id"].astype(int)]
    assert own.tolist() == table.obs["cell_id"].tolist()
    record = table.uns["lemon_sc"]["nuclei"]
    assert record["mpp"] == pytest.approx([0.2738, 0.2738], rel=0.002)
    assert record["mirrored"]
    assert "counts" not in record, "streaming adds verdicts, so counts would go stale"
    assert "nuclei" not in table.obsm


@pytest.mark.parametrize("source", ["memory", "store", "image"])
def test_kept_or_not_the_crops_are_the_same(scene, tmp_path, source):
    from lemon_sc._objects.nuclei import read_crops

    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store="memory")
    expected = sdata["table"].obsm["nuclei"].copy()
    lm.pp.extract_nuclei(sdata, store={"memory": "memory", "store": tmp_path / "c.zarr", "image": None}[source])
    rows = np.array([7, 3, 12, 0])
    crops, mpp = read_crops(sdata, rows)
    np.testing.assert_array_equal(crops, expected[rows])
    assert mpp == 0.25
    if source != "image":
        subset = sdata["table"][[12, 3, 20]].copy()
        crops, _ = read_crops(subset, np.array([1, 0]))
        np.testing.assert_array_equal(crops, expected[[3, 12]])


def test_the_object_round_trips(scene, tmp_path):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store="memory", multiple="mean")
    sdata.write(tmp_path / "s.zarr")
    again = sd.read_zarr(tmp_path / "s.zarr")["table"]
    sdata["table"].write_h5ad(tmp_path / "t.h5ad")
    for table in (again, ad.read_h5ad(tmp_path / "t.h5ad")):
        np.testing.assert_array_equal(table.obsm["nuclei"], sdata["table"].obsm["nuclei"])
        pd.testing.assert_series_equal(table.obs["nucleus_qc"], sdata["table"].obs["nucleus_qc"])
        assert table.uns["lemon_sc"]["nuclei"]["image_key"] == "he_image"


def test_the_largest_of_several_nuclei_is_taken(scene):
    sdata, xy = scene
    add_nuclei(sdata, ["cell003", "cell011"])
    lm.pp.extract_nuclei(sdata)
    table = sdata["table"]
    np.testing.assert_allclose(table.obsm["nucleus_xy"], xy, atol=1e-6)
    assert set(table.obs["cell_id"][table.obs["n_nuclei"] == 2]) == {"cell003", "cell011"}


def test_all_nuclei_get_a_table_of_their_own(scene, tmp_path):
    sdata, _ = scene
    more = add_nuclei(sdata, ["cell003", "cell011"])
    sdata["table"].obsm["frame"] = pd.DataFrame({"a": np.arange(25)}, index=sdata["table"].obs_names)
    sdata["table"].layers["counts"] = sdata["table"].X * 2
    before = snapshot(sdata)
    lm.pp.extract_nuclei(sdata, multiple="all", store="memory")
    nuclei = sdata["nuclei"]
    assert nuclei.n_obs == 27
    assert nuclei.uns["spatialdata_attrs"]["region"] == "nucleus_boundaries"
    own = sdata["nucleus_boundaries"].loc[nuclei.obs["instance_id"]]
    assert own["cell_id"].tolist() == nuclei.obs["cell_id"].tolist()
    parents = sdata["table"][nuclei.obs["parent"]]
    np.testing.assert_array_equal(nuclei.X, parents.X)
    np.testing.assert_array_equal(nuclei.layers["counts"], parents.layers["counts"])
    np.testing.assert_array_equal(nuclei.obsm["frame"]["a"], parents.obsm["frame"]["a"])
    assert set(more.index) <= set(nuclei.obs["instance_id"])
    obs, *_ = before
    pd.testing.assert_frame_equal(sdata["table"].obs, obs)
    lm.tl.embed(sdata, table_key="nuclei")
    assert np.isfinite(nuclei.obsm["X_lemon"]).all()
    sdata.write(tmp_path / "s.zarr")
    assert sd.read_zarr(tmp_path / "s.zarr")["nuclei"].n_obs == 27


def test_label_images_points_and_circles_give_the_same_centres(scene):
    sdata, xy = scene
    order = sdata["table"].obs["cell_labels"].to_numpy()
    um = sdata["table"].obsm["spatial"]
    scale = {"global": Scale([1 / 0.2125] * 2, axes=("x", "y"))}
    frame = pd.DataFrame({"x": um[:, 0], "y": um[:, 1], "cell_id": sdata["table"].obs["cell_id"].to_numpy()})
    sdata.points["centres"] = PointsModel.parse(frame, transformations=scale)
    sdata.shapes["circles"] = ShapesModel.parse(um, geometry=0, radius=2.5, index=order, transformations=scale)
    sdata["circles"]["cell_id"] = frame["cell_id"].to_numpy()
    side = int(um.max() / 0.2125) + 60
    labels = np.zeros((side, side), dtype=np.int32)
    yy, xx = np.mgrid[0:side, 0:side] + 0.5
    for value, (x, y) in zip(order, um / 0.2125, strict=True):
        labels[(xx - x) ** 2 + (yy - y) ** 2 < 12**2] = value
    sdata.labels["nucleus_labels"] = Labels2DModel.parse(
        labels, dims=("y", "x"), chunks=(64, 100), transformations={"global": Identity()}
    )
    for key, tolerance in (("centres", 1e-6), ("circles", 1e-6), ("nucleus_labels", 0.25)):
        lm.pp.extract_nuclei(sdata, shapes_key=key)
        np.testing.assert_allclose(sdata["table"].obsm["nucleus_xy"], xy, atol=tolerance)


def test_masks_follow_the_outline_through_the_affine(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store="memory")
    whole = sdata["table"].obsm["nuclei"].copy()
    masked = {}
    for mask in ("nucleus", "ring"):
        lm.pp.extract_nuclei(sdata, store="memory", mask=mask)
        masked[mask] = sdata["table"].obsm["nuclei"]
    inside = (masked["nucleus"] != 255).any(axis=3)
    np.testing.assert_array_equal(masked["nucleus"][inside], whole[inside])
    np.testing.assert_array_equal(masked["ring"][~inside], whole[~inside])
    area = sdata["nucleus_boundaries"].set_index("cell_id").area.loc[sdata["table"].obs["cell_id"]]
    np.testing.assert_allclose(inside.sum(axis=(1, 2)) * 0.25**2, area, rtol=0.08)
    lm.pp.extract_nuclei(sdata, mask="nucleus")
    from lemon_sc._objects.nuclei import read_crops

    np.testing.assert_array_equal(read_crops(sdata, np.arange(25))[0], masked["nucleus"])


def test_the_nucleus_tells_its_area_better_than_its_surroundings_do():
    """Planted: the gene follows the area of the nucleus. The ring shows that area only as a white hole."""
    sdata = lm.datasets.phantom(n_cells=300)
    made, scores = [], {}
    for mask in ("nucleus", "ring"):
        lm.pp.extract_nuclei(sdata, mask=mask)
        lm.tl.embed(sdata, key_added=f"X_{mask}")
        adata = sdata["table"]
        made.append(adata.obsm["nucleus_xy"].copy())
        lm.tl.probe(adata, use_rep=f"X_{mask}", target=["AREA1"], key_added=mask)
        scores[mask] = adata.uns["lemon_sc"]["probe"][mask]["summary"].loc["AREA1", "pcc"]
    np.testing.assert_array_equal(*made)
    assert scores["nucleus"] > 0.6
    assert scores["nucleus"] > scores["ring"] + 0.05


def test_nuclei_at_the_border_are_padded_with_white():
    from lemon_sc._objects.nuclei import read_crops

    sdata, xy = blob_scene(place(0.25), side=3)
    lm.pp.extract_nuclei(sdata, store="memory")
    whole = sdata["table"].obsm["nuclei"].copy()
    width = int(np.sort(xy[:, 0])[5]) + 3  # cuts through the second column of nuclei
    sdata.images["he_image"] = sdata["he_image"].isel(x=slice(0, width))
    lm.pp.extract_nuclei(sdata, store="memory")
    table = sdata["table"]
    rows = np.flatnonzero(table.obs["nucleus_qc"] == "border")
    assert len(rows)
    crops, _ = read_crops(sdata, rows)
    for row, crop in zip(rows, crops, strict=True):
        here = xy[row, 0] - 20 + np.arange(40) + 0.5 < width
        assert (crop[:, ~here] == 255).all()
        assert 0 < here.sum() < 40
        np.testing.assert_array_equal(
            crop[:, here][:, :-2], whole[row][:, here][:, :-2]
        )  # beyond, the kernel reaches out
    with pytest.raises(ValueError, match="`rows` must name cells whose nucleus can be shown.*border"):
        read_crops(table, rows)
    gone = np.flatnonzero(table.obs["nucleus_qc"] == "outside_image")
    with pytest.raises(ValueError, match="can be shown.*outside_image"):
        read_crops(sdata, gone[:1])


def test_the_real_xenium_crop(xenium_outs):
    """Counts known from the bundle: a 40 px window lies inside the H&E for 107 nuclei, a 60 px one for 97."""
    spatialdata_io = pytest.importorskip("spatialdata_io")
    sdata = spatialdata_io.xenium(xenium_outs, transcripts=False)
    for size, n in ((40, 107), (60, 97)):
        lm.pp.extract_nuclei(sdata, store="memory", size_px=size)
        counts = sdata["table"].obs["nucleus_qc"].value_counts()
        assert counts[counts > 0].to_dict() == {"ok": n, "no_nucleus": 2, "border": 120 - n}
    assert sdata["table"].uns["lemon_sc"]["nuclei"]["mpp"] == pytest.approx([0.3639, 0.3639], abs=5e-5)
    dark = 255.0 - sdata["table"].obsm["nuclei"][(sdata["table"].obs["nucleus_qc"] == "ok").to_numpy()][..., 0]
    mean = dark.mean(axis=0)
    assert mean[26:34, 26:34].mean() > 1.3 * np.concatenate([mean[:8], mean[-8:]]).mean(), "nuclei are in the middle"
