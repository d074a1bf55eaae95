"""Quality of crops: border, glass, ink, focus, crowding; the same wherever crops are kept."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import shapely
from scenes import add_nuclei, blob_image, blob_scene, place
from scipy.ndimage import gaussian_filter
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

import lemon_sc as lm


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
