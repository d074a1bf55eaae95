import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from scenes import blob_image, blob_scene, place
from scipy.ndimage import gaussian_filter
from spatialdata.models import Labels2DModel, PointsModel, ShapesModel
from spatialdata.transformations import Identity, Scale, get_transformation, set_transformation

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.crops.store import open_store

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


def snapshot(sdata):
    """What a failing call must leave as it is."""
    table = sdata["table"]
    return table.obs.copy(), list(table.obsm), list(table.uns), list(sdata.tables), dict(sdata.attrs)


def assert_untouched(sdata, before):
    obs, *rest = before
    pd.testing.assert_frame_equal(sdata["table"].obs, obs)
    assert rest == list(snapshot(sdata)[1:])


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


def test_cells_without_nucleus_outside_and_at_the_border():
    sdata, xy = blob_scene(place(), side=5)
    keep = sdata["nucleus_boundaries"].index[3:]
    gone = set(sdata["nucleus_boundaries"]["cell_id"][:3])
    placed = get_transformation(sdata["nucleus_boundaries"], get_all=True)
    kept = sdata["nucleus_boundaries"].loc[keep]
    kept.attrs = {}
    sdata.shapes["nucleus_boundaries"] = ShapesModel.parse(kept, transformations=placed)
    width = int(np.sort(xy[:, 0])[14]) + 5  # cuts through the third column of nuclei
    element = sdata["he_image"].isel(x=slice(0, width))
    sdata.images["he_image"] = element
    lm.pp.extract_nuclei(sdata)
    table = sdata["table"]
    half = 20 * 0.25 / 0.2738
    expected = np.where(xy[:, 0] + half <= width, "ok", np.where(xy[:, 0] <= width, "border", "outside_image"))
    expected[table.obs["cell_id"].isin(gone)] = "no_nucleus"
    assert set(expected) == {"ok", "border", "outside_image", "no_nucleus"}
    assert table.obs["nucleus_qc"].tolist() == expected.tolist()
    assert np.isnan(table.obsm["nucleus_xy"][expected == "no_nucleus"]).all()


def test_glass_and_defocus_are_marked(scene):
    sdata, xy = scene
    pixels = np.asarray(sdata["he_image"].data).copy()
    blank, blurred = xy[4], xy[9]
    pixels[:, int(blank[1]) - 40 : int(blank[1]) + 40, int(blank[0]) - 40 : int(blank[0]) + 40] = 240
    soft = blob_image([blurred], np.diag([0.2738, 0.2738, 1]), pixels.shape[1:], sigma_um=4.0)
    window = np.s_[:, int(blurred[1]) - 30 : int(blurred[1]) + 30, int(blurred[0]) - 30 : int(blurred[0]) + 30]
    pixels[window] = np.moveaxis(soft, 2, 0)[window]
    sdata["he_image"].data = da.from_array(pixels)
    lm.pp.extract_nuclei(sdata, store="memory")
    qc = sdata["table"].obs["nucleus_qc"]
    assert qc.iloc[4] == "blank"
    assert qc.iloc[9] == "blurred"
    kept = qc.copy()
    del sdata["table"].obs["nucleus_qc"]
    lm.pp.extract_nuclei(sdata)
    assert (sdata["table"].obs["nucleus_qc"].iloc[[4, 9]] == "ok").all(), "geometry alone cannot know"
    lm.tl.embed(sdata)
    pd.testing.assert_series_equal(sdata["table"].obs["nucleus_qc"], kept)
    assert np.isnan(sdata["table"].obsm["X_lemon"][[4, 9]]).all()


INK = {"green": (0.3, 0.8, 0.45), "blue": (0.2, 0.35, 0.9), "red": (0.85, 0.15, 0.2), "black": (0.1, 0.1, 0.1)}


@pytest.fixture
def spoilt(scene):
    """The scene in stain colours, with a fault planted on ten of its nuclei; and the verdicts that are right."""
    sdata, xy = scene
    grey = np.asarray(sdata["he_image"].data).astype(float)[0]
    dark = (240 - grey) / 180
    pixels = 228 - dark * np.array([120, 150, 85])[:, None, None]  # a pale ground that is tissue, not glass
    pixels[1] -= 50
    pixels += np.random.default_rng(0).normal(0, 6, pixels.shape[1:])
    expected = np.full(len(xy), "ok", dtype=object)

    def window(i, half=45):
        x, y = xy[i].astype(int)
        return np.s_[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half]

    yy, xx = np.mgrid[: pixels.shape[1], : pixels.shape[2]] + 0.5
    for i, name in enumerate(["blank", "off_tissue", "saturated", "blurred", *["pen"] * 4]):
        at = window(i)
        if name == "blank":
            pixels[at] = 238
        elif name == "off_tissue":
            pixels[:, np.hypot(xx - xy[i, 0], yy - xy[i, 1]) < 3.5 / 0.2738] = 238
        elif name == "saturated":
            pixels[at] = np.clip(pixels[at] * 1.4, 0, 255)
        elif name == "blurred":
            pixels[at] = gaussian_filter(pixels[at], (0, 8, 8))
        else:
            pixels[at] *= np.array(list(INK.values())[i - 4])[:, None, None]
        expected[i] = name
    sdata["he_image"].data = da.from_array(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return sdata, expected


def test_each_fault_gets_its_verdict(spoilt):
    sdata, expected = spoilt
    lm.pp.extract_nuclei(sdata, store="memory")
    assert sdata["table"].obs["nucleus_qc"].tolist() == expected.tolist()


def colour(crops):
    """Stands for a model."""
    return crops.reshape(len(crops), -1)[:, :3].astype(np.float32)


def model_of(size_px, mpp):
    """An encoder that wants crops of another size or scale."""
    return colour, lm.models.ModelCard(name="colour", dim=3, input_px=size_px, mpp=mpp, license="MIT")


@pytest.mark.parametrize(
    ("size_px", "store", "wanted"),
    [
        (40, "memory", (40, 0.25)),
        (60, "memory", (40, 0.25)),
        (40, "path", (40, 0.25)),
        (60, "path", (60, 0.25)),
        (24, "memory", (24, 0.25)),
        (40, None, (40, 0.25)),
        (60, None, (40, 0.25)),
        (40, None, (60, 0.25)),
        (40, None, (32, 0.25)),
        (40, None, (20, 0.5)),
    ],
)
def test_verdicts_do_not_depend_on_where_crops_are_kept_nor_on_their_size(spoilt, tmp_path, size_px, store, wanted):
    sdata, expected = spoilt
    lm.pp.extract_nuclei(sdata, size_px=size_px, store=tmp_path / "c.zarr" if store == "path" else store)
    if store is None:
        assert (sdata["table"].obs["nucleus_qc"] == "ok").all(), "geometry alone cannot know"
    lm.tl.embed(sdata, model=model_of(*wanted))
    assert sdata["table"].obs["nucleus_qc"].tolist() == expected.tolist()
    np.testing.assert_array_equal(np.isnan(sdata["table"].obsm["X_lemon"]).any(axis=1), expected != "ok")


@pytest.mark.parametrize("store", ["memory", None])
def test_a_cell_whose_nuclei_are_averaged_gets_the_gravest_verdict(spoilt, store):
    """The smaller nuclei lie 8 um away, most of them outside the faults; two are moved into them."""
    sdata, expected = spoilt
    cells = sdata["table"].obs["cell_id"].to_numpy()
    into = {cells[10]: 4, cells[11]: 0, cells[3]: 0}  # an ok cell into pen, one onto glass, a blurred one onto glass
    um = sdata["table"].obsm["spatial"]
    more = add_nuclei(sdata, list(into), shift=(0.0, 0.0))
    shapes = sdata["nucleus_boundaries"]
    for index, cell in zip(more.index, more["cell_id"], strict=True):
        shapes.loc[index, "geometry"] = shapely.affinity.translate(
            shapes.loc[index, "geometry"], *(um[into[cell]] - um[np.flatnonzero(cells == cell)[0]])
        )
    lm.pp.extract_nuclei(sdata, multiple="mean", store=store)
    lm.tl.embed(sdata)
    expected[[10, 11, 3]] = ["pen", "blank", "blank"]
    assert sdata["table"].obs["nucleus_qc"].tolist() == expected.tolist()
    lm.pp.extract_nuclei(sdata, multiple="largest", store="memory")
    assert sdata["table"].obs["nucleus_qc"].iloc[[10, 11, 3]].tolist() == ["ok", "ok", "blurred"]


def test_crowding_is_the_share_of_the_window_nearer_to_another_nucleus(scene):
    """All other nuclei count, also those of the same cell and those of no cell."""
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    obs = sdata["table"].obs
    assert (obs["nucleus_crowding"] == 0).all(), "21 um apart"
    assert not obs["nucleus_crowded"].any()
    more = add_nuclei(sdata, ["cell003", "cell011"], shift=(1.0, 0.0)).set_index("cell_id")
    record = sdata["table"].uns["lemon_sc"]["nuclei"]
    lm.pp.extract_nuclei(sdata)
    crowding = sdata["table"].obs.set_index("cell_id")["nucleus_crowding"]
    at = ((np.arange(20) + 0.5) / 20 - 0.5) * 10
    for cell, nucleus in more.geometry.items():
        centre = sdata["table"].obsm["nucleus_xy"][sdata["table"].obs["cell_id"] == cell][0]
        other = np.asarray(record["affine"])[:2] @ [nucleus.centroid.x, nucleus.centroid.y, 1]
        towards = (other - centre) * record["mpp"]  # um along the axes of the image
        beyond = np.add.outer(at * towards[1], at * towards[0]) > towards @ towards / 2
        assert crowding[cell] == pytest.approx(beyond.mean(), abs=1e-6)
        assert 0.3 < crowding[cell] < 0.5
    assert (crowding.drop(more.index) == 0).all()


def test_crowded_is_more_than_half(scene):
    sdata, _ = scene
    for k, shift in enumerate([(2.0, 0.0), (-2.0, 0.0), (0.0, 2.0)]):
        more = add_nuclei(sdata, ["cell003"], shift=shift).set_axis([2000 + k])
        shapes = sdata["nucleus_boundaries"]
        shapes.index = np.where(shapes.index == 1001, more.index[0], shapes.index)
        shapes.loc[more.index, "cell_id"] = f"nobody{k}"
    lm.pp.extract_nuclei(sdata)
    obs = sdata["table"].obs.set_index("cell_id")
    assert obs.index[obs["nucleus_crowded"]].tolist() == ["cell003"]
    assert 0.5 < obs.loc["cell003", "nucleus_crowding"] < 1


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


def test_whole_nucleus_and_ring_are_cut_alike(spoilt):
    """Centres and verdicts are the same for all three, and every pixel is in one of the two parts."""
    sdata, expected = spoilt
    seen = {}
    for mask in (None, "nucleus", "ring"):
        lm.pp.extract_nuclei(sdata, store="memory", mask=mask)
        table = sdata["table"]
        assert table.obs["nucleus_qc"].tolist() == expected.tolist()
        seen[mask] = table.obsm["nuclei"].copy(), table.obsm["nucleus_xy"].copy()
    np.testing.assert_array_equal(seen["nucleus"][1], seen[None][1])
    np.testing.assert_array_equal(seen["ring"][1], seen[None][1])
    whole, nucleus, ring = (seen[mask][0].astype(int) for mask in (None, "nucleus", "ring"))
    np.testing.assert_array_equal(nucleus + ring, whole + 255)


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


@pytest.mark.parametrize("store", [None, "path", "memory"])
def test_flagged_nuclei_can_be_looked_at(spoilt, tmp_path, store):
    from lemon_sc._objects.nuclei import read_crops

    sdata, expected = spoilt
    lm.pp.extract_nuclei(sdata, store="memory")
    kept = sdata["table"].obsm["nuclei"].copy()
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr" if store == "path" else store)
    lm.tl.embed(sdata)
    rows = np.r_[np.flatnonzero(expected != "ok"), 12, 0, 0]
    np.testing.assert_array_equal(read_crops(sdata, rows)[0], kept[rows])


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


def break_join(sdata):
    sdata["nucleus_boundaries"]["cell_id"] = [f"x{i}" for i in range(25)]


def move_away(sdata):
    set_transformation(sdata["he_image"], {"global": Scale([0.001, 0.001], axes=("x", "y"))}, set_all=True)


def flip_away(sdata):
    matrix = get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    matrix[:2, 2] += 1e5
    set_transformation(
        sdata["he_image"], sd.transformations.Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y")), "global"
    )


def repeat_names(sdata):
    sdata["table"].obs_names = ["a", "a", *sdata["table"].obs_names[2:]]


def empty_outlines(sdata):
    sdata["nucleus_boundaries"]["geometry"] = [shapely.Polygon()] * 25


@pytest.mark.parametrize(
    ("damage", "kwargs", "error", "message"),
    [
        (None, {"image_key": "HE"}, MissingKeyError, r"'HE' not found in `sdata.images` \(found: \['he_image'\]\)"),
        (None, {"table_key": "tabel"}, MissingKeyError, r"'tabel' not found in `sdata.tables`.*Did you mean 'table'"),
        (None, {"shapes_key": "nuclei"}, MissingKeyError, "'nuclei' not found"),
        (None, {"multiple": "larges"}, ValueError, r"`multiple` must be one of .*Did you mean 'largest'"),
        (None, {"mask": "cell"}, ValueError, "`mask` must be one of"),
        (None, {"size_px": 41}, ValueError, "`size_px` must be an even int"),
        (None, {"store": 3}, ValueError, "`store` must be None"),
        (None, {"mpp": -0.2}, ValueError, "one or two finite numbers > 0"),
        (None, {"mpp": 2.5}, ValueError, r"median diameter of .* which no nuclei have"),
        (break_join, {}, ValueError, "No nucleus .* belongs to a row of the table"),
        (move_away, {}, ValueError, "median diameter|outside the image"),
        (flip_away, {}, ValueError, r"All nuclei of 'nucleus_boundaries' lie outside the image: they span x \d+"),
        (repeat_names, {}, ValueError, r"obs_names` are not unique: 1 names repeat \(\['a'\]\).*obs_names_make_unique"),
        (empty_outlines, {}, ValueError, "None of the 25 nuclei .* has a centre"),
    ],
)
def test_bad_input_says_what_to_do_and_changes_nothing(scene, damage, kwargs, error, message):
    sdata, _ = scene
    if damage is not None:
        damage(sdata)
    before = snapshot(sdata)
    with pytest.raises(error, match=message):
        lm.pp.extract_nuclei(sdata, **kwargs)
    assert_untouched(sdata, before)


def test_a_foreign_folder_is_not_overwritten(scene, tmp_path):
    sdata, _ = scene
    (tmp_path / "mine").mkdir()
    before = snapshot(sdata)
    with pytest.raises(ValueError, match="not a crop store"):
        lm.pp.extract_nuclei(sdata, store=tmp_path / "mine")
    assert_untouched(sdata, before)


def test_some_bad_outlines_cost_only_their_cells(scene, caplog):
    sdata, _ = scene
    shapes = sdata["nucleus_boundaries"]
    geometry = shapes.geometry.to_numpy().copy()
    x, y = geometry[1].centroid.coords[0]
    geometry[0] = shapely.Polygon()
    geometry[1] = shapely.Polygon([(x - 3, y - 3), (x + 3, y + 3), (x + 3, y - 3), (x - 3, y + 3)])  # a bow tie
    geometry[2] = None
    shapes["geometry"] = geometry
    lm.pp.extract_nuclei(sdata)
    obs = sdata["table"].obs.set_index("cell_id")
    lost = shapes["cell_id"].iloc[[0, 2]]
    assert (obs.loc[lost, "nucleus_qc"] == "no_nucleus").all()
    assert (obs["nucleus_qc"] == "no_nucleus").sum() == 2
    assert "cross themselves" in caplog.text


def test_nan_centroids_cost_only_their_cells(scene):
    sdata, xy = scene
    um = sdata["table"].obsm["spatial"].copy()
    um[[2, 5]] = np.nan
    frame = pd.DataFrame({"x": um[:, 0], "y": um[:, 1], "cell_id": sdata["table"].obs["cell_id"].to_numpy()})
    scale = {"global": Scale([1 / 0.2125] * 2, axes=("x", "y"))}
    sdata.points["centres"] = PointsModel.parse(frame, transformations=scale)
    lm.pp.extract_nuclei(sdata, shapes_key="centres")
    qc = sdata["table"].obs["nucleus_qc"]
    assert np.flatnonzero(qc == "no_nucleus").tolist() == [2, 5]
    found = sdata["table"].obsm["nucleus_xy"]
    np.testing.assert_allclose(np.delete(found, [2, 5], 0), np.delete(xy, [2, 5], 0), atol=1e-6)


def test_a_mask_needs_an_outline(scene):
    sdata, _ = scene
    frame = pd.DataFrame(sdata["table"].obsm["spatial"], columns=["x", "y"])
    frame["cell_id"] = sdata["table"].obs["cell_id"].to_numpy()
    scale = {"global": Scale([1 / 0.2125] * 2, axes=("x", "y"))}
    sdata.points["centres"] = PointsModel.parse(frame, transformations=scale)
    before = snapshot(sdata)
    with pytest.raises(ValueError, match="`mask` must be None for plain centroids"):
        lm.pp.extract_nuclei(sdata, shapes_key="centres", mask="ring")
    assert_untouched(sdata, before)


def test_transcripts_are_no_nuclei(scene):
    sdata, _ = scene
    frame = pd.DataFrame(np.repeat(sdata["table"].obsm["spatial"], 9, axis=0), columns=["x", "y"])
    frame["cell_id"] = np.repeat(sdata["table"].obs["cell_id"].to_numpy(dtype=object), 9)
    scale = {"global": Scale([1 / 0.2125] * 2, axes=("x", "y"))}
    sdata.points["transcripts"] = PointsModel.parse(frame, transformations=scale)
    with pytest.raises(ValueError, match="'transcripts' has 9 points per cell .*these are not nuclei"):
        lm.pp.extract_nuclei(sdata, shapes_key="transcripts")


@pytest.mark.parametrize("mask", ["nucleus", "ring"])
def test_a_mask_does_not_hide_defocus(scene, mask):
    sdata, _ = scene
    soft = gaussian_filter(np.asarray(sdata["he_image"].data), (0, 14, 14))
    sdata["he_image"].data = da.from_array(soft)
    found = []
    for option in (None, mask):
        lm.pp.extract_nuclei(sdata, store="memory", mask=option)
        found.append(sdata["table"].obs["nucleus_qc"].tolist())
    assert found[0] == found[1]
    assert found[0].count("blurred") + found[0].count("blank") > 20


def test_a_table_of_the_users_is_not_replaced(scene):
    sdata, _ = scene
    sdata.tables["nuclei"] = ad.AnnData(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="exists and was not made by this function"):
        lm.pp.extract_nuclei(sdata, multiple="all")
    assert sdata["nuclei"].n_obs == 2


def test_embeddings_of_an_earlier_extraction_are_pointed_out(scene, caplog):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata)
    assert "out of date" not in caplog.text
    lm.pp.extract_nuclei(sdata, mask="nucleus")
    assert "X_lemon" in caplog.text
    assert "mask: '' -> 'nucleus'" in caplog.text


def test_the_store_is_replaced_and_stale_crops_are_dropped(scene, tmp_path):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr", size_px=60)
    assert open_store(tmp_path / "c.zarr").size_px == 60
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr")
    assert open_store(tmp_path / "c.zarr").size_px == 40
    lm.pp.extract_nuclei(sdata, store="memory")
    lm.pp.extract_nuclei(sdata)
    assert "nuclei" not in sdata["table"].obsm


def test_a_store_of_an_older_extraction_is_noticed(scene, tmp_path):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr")
    old = sdata["table"].copy()
    lm.pp.extract_nuclei(sdata, store=tmp_path / "c.zarr", size_px=60)
    with pytest.raises(ValueError, match="is not the one these nuclei were extracted to"):
        lm.tl.embed(old)


def test_transformations_that_changed_meanwhile_are_noticed(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    set_transformation(sdata["nucleus_boundaries"], Scale([4.8, 4.8], axes=("x", "y")), "global")
    with pytest.raises(ValueError, match="have changed since the nuclei were extracted"):
        lm.tl.embed(sdata)
