"""Patches around spots and bins against slices of the image."""

import logging

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from scenes import blob_scene, place
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, set_transformation
from spot_scenes import he_pixels, spot_scene

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.crops.qc import PATCH_PX, judge_patches
from lemon_sc.models import ModelCard

AT = np.array([[150, 120], [250, 200], [300, 260], [380, 288], [120, 250]])
MEAN = (lambda crops: crops.mean(axis=(1, 2)) / 255, ModelCard(name="mean-rgb", dim=3, input_px=224, mpp=0.5))


def slices(at, pixels, size=224):
    half = size // 2
    return np.stack([pixels[y - half : y + half, x - half : x + half] for x, y in at])


def by_name(table, values):
    """Rows in the order in which the units were given."""
    return np.asarray(values)[[table.obs_names.get_loc(f"spot{i}") for i in range(table.n_obs)]]


@pytest.mark.parametrize("kind", ["circles", "polygons", "points", "labels"])
def test_patches_are_what_the_image_shows_around_each_unit(kind):
    sdata = spot_scene(AT, kind=kind)
    # nothing of a label image or of points in um says how large a px is, so they are told
    lm.pp.extract_patches(sdata, store="memory", mpp=0.5 if kind == "labels" else None)
    table = sdata["table"]
    np.testing.assert_array_equal(by_name(table, table.obsm["nuclei"]), slices(AT, he_pixels()))
    np.testing.assert_allclose(by_name(table, table.obsm["nucleus_xy"]), AT, atol=1e-9)
    assert (table.obs["nucleus_qc"] == "ok").all()
    record = table.uns["lemon_sc"]["nuclei"]
    assert (record["unit"], record["size_px"], record["target_mpp"], record["size_um"]) == ("patch", 224, 0.5, 112.0)
    assert [step["step"] for step in lm.tl.provenance(sdata)] == ["nuclei"]


@pytest.mark.parametrize("store", ["memory", "path", None])
def test_they_are_embedded_wherever_they_are_kept(store, tmp_path):
    sdata = spot_scene(AT)
    lm.pp.extract_patches(sdata, store=tmp_path / "patches.zarr" if store == "path" else store)
    lm.tl.embed(sdata, model=MEAN)
    table = sdata["table"]
    np.testing.assert_allclose(
        by_name(table, table.obsm["X_lemon"]), slices(AT, he_pixels()).mean(axis=(1, 2)) / 255, atol=1e-6
    )
    assert table.uns["lemon_sc"]["embed"]["X_lemon"]["crops_from"] == {"path": "store", None: "image"}.get(store, store)


def test_a_network_of_224_px_takes_them():
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    card = ModelCard(name="tiles", dim=16, input_px=224, mpp=0.5, mean=(0.5,) * 3, std=(0.25,) * 3)
    sdata = spot_scene(AT)
    lm.pp.extract_patches(sdata)
    lm.tl.embed(sdata, model=(net, card), dtype="fp32")
    x = torch.from_numpy(slices(AT, he_pixels()) / 255.0).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = net((x - 0.5) / 0.25).numpy()
    table = sdata["table"]
    np.testing.assert_allclose(by_name(table, table.obsm["X_lemon"]), expected, atol=1e-4)


def test_a_model_that_sees_another_square_is_named(caplog):
    sdata = spot_scene(AT)
    lm.pp.extract_patches(sdata)
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        lm.tl.embed(sdata, model=(MEAN[0], ModelCard(name="small", dim=3)))
    assert "small sees squares of 10 um, the patches have 112 um" in caplog.text


def test_what_cannot_be_used_keeps_its_row_and_says_why():
    pixels = he_pixels()
    pixels[:, 330:] = 245  # glass on the right
    at = [[120, 120], [330, 120], [440, 200], [60, 200], [-30, 100], [380, 200]]
    sdata = spot_scene(at, pixels=pixels)
    sdata.shapes["units"] = sdata["units"].iloc[[0, 1, 2, 3, 4]]  # the sixth has none
    lm.pp.extract_patches(sdata, size_um=80.0, store="memory")
    table = sdata["table"]
    assert list(by_name(table, table.obs["nucleus_qc"])) == [
        "ok", "ok", "border", "border", "outside_image", "no_nucleus",
    ]  # fmt: skip
    share = by_name(table, table.obs["tissue_share"])
    np.testing.assert_allclose(share[:2], [1.0, 0.5], atol=0.02)
    assert np.isnan(share[2:]).all()
    assert not by_name(table, table.obsm["nuclei"])[2:].any()


def test_patches_without_tissue_are_told_apart():
    pixels = he_pixels()
    pixels[:, 250:] = 245
    at = np.array([[150, 200], [290, 200], [305, 200], [400, 200]])  # of 160 px: 100, 25, 16 and 0 % tissue
    sdata = spot_scene(at, pixels=pixels)
    lm.pp.extract_patches(sdata, size_um=80.0)
    table = sdata["table"]
    assert list(by_name(table, table.obs["nucleus_qc"])) == ["ok", "off_tissue", "off_tissue", "blank"]
    np.testing.assert_allclose(by_name(table, table.obs["tissue_share"]), [1, 0.25, 25 / 160, 0], atol=0.015)
    assert table.obs["tissue_share"].dtype == np.float32
    lm.tl.embed(sdata, model=(MEAN[0], ModelCard(name="m", dim=3, input_px=160, mpp=0.5)))
    assert list(by_name(table, np.isfinite(table.obsm["X_lemon"]).all(axis=1))) == [True, False, False, False]


def test_ink_and_clipping_are_judged_over_the_whole_patch():
    base = np.full((5, PATCH_PX, PATCH_PX, 3), (200, 140, 190), dtype=np.uint8)
    base[1, :, :20] = (40, 90, 200)  # blue pen on a third
    base[2, :20] = (0, 0, 0)  # black pen, which is clipped as well
    base[3, : PATCH_PX // 2] = 250
    base[4, ::2, :, 0] = 255
    verdict, share = judge_patches(base)
    assert verdict.tolist() == ["ok", "pen", "pen", "ok", "saturated"]
    np.testing.assert_allclose(share, [1, 1, 1, 0.5, 1])


def test_turned_images_are_honoured():
    """Blobs lie in the middle of their patches, whatever the placement of the image."""
    sdata, xy = blob_scene(place(0.2738, 97, flip=True, shear=0.05), side=4, spacing=30.0)
    rows = sdata["table"].obs_names
    spots = gpd.GeoDataFrame(
        {"geometry": shapely.points(sdata["table"].obsm["spatial"]), "radius": 5.0},
        index=sdata["table"].obs["cell_labels"].to_numpy(),
    )
    sdata.shapes["spots"] = ShapesModel.parse(spots, transformations={"global": Scale([1 / 0.2125] * 2, ("x", "y"))})
    table = sdata["table"].copy()
    table.obs["region"] = pd.Categorical(["spots"] * table.n_obs)
    sdata["spots_table"] = TableModel.parse(
        table, region="spots", region_key="region", instance_key="cell_labels", overwrite_metadata=True
    )
    lm.pp.extract_patches(sdata, table_key="spots_table", store="memory", size_um=16.0, target_mpp=0.25)
    made = sdata["spots_table"]
    np.testing.assert_allclose(made.obsm["nucleus_xy"], xy, atol=1e-6)
    dark = 255.0 - made[rows].obsm["nuclei"].astype(float).mean(axis=-1)
    dark = np.where(dark > 60, dark, 0)
    at = np.arange(64) + 0.5
    centre = [(dark * w).sum(axis=(1, 2)) / dark.sum(axis=(1, 2)) for w in (at[None, :, None], at[None, None])]
    np.testing.assert_allclose(centre, 32, atol=0.1)


def test_another_size_marks_the_embedding_as_out_of_date(caplog):
    sdata = spot_scene(AT)
    lm.pp.extract_patches(sdata)
    lm.tl.embed(sdata, model=MEAN)
    lm.pp.extract_patches(sdata)
    assert "stale" not in sdata["table"].uns["lemon_sc"]["embed"]["X_lemon"]
    lm.pp.extract_patches(sdata, size_um=56.0)
    assert "size_um: 112.0 -> 56.0" in sdata["table"].uns["lemon_sc"]["embed"]["X_lemon"]["stale"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_um": 0}, "`size_um` must be a finite number of um > 0"),
        ({"size_um": 112.3}, r"even number of px \(8 or more\) of 0.5 um, got 112.3. 112 um make 224 px"),
        ({"size_um": 2.0}, "4 um make 8 px"),
        ({"target_mpp": -1}, "`target_mpp` must be one or two finite numbers > 0"),
        ({"store": 3}, "`store` must be None"),
        ({"image_key": "hematoxylin"}, "'hematoxylin' not found in `sdata.images`"),
        ({"shapes_key": "unit"}, "'unit' not found in `sdata.shapes, .labels, .points`.*Did you mean 'units'"),
        ({"table_key": "tables"}, "'tables' not found in `sdata.tables`"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises((ValueError, MissingKeyError), match=message):
        lm.pp.extract_patches(spot_scene(AT), **options)


def test_units_in_px_need_the_pixel_size():
    sdata = spot_scene(AT)
    frame = sdata["units"]
    px = gpd.GeoDataFrame({"geometry": shapely.points(AT), "radius": 55.0}, index=frame.index)
    sdata.shapes["units"] = ShapesModel.parse(px, transformations={"global": Identity()})
    with pytest.raises(ValueError, match="so the pixel size cannot be derived from it.*Pass `mpp=`"):
        lm.pp.extract_patches(sdata)
    lm.pp.extract_patches(sdata, store="memory", mpp=0.5)
    np.testing.assert_array_equal(by_name(sdata["table"], sdata["table"].obsm["nuclei"]), slices(AT, he_pixels()))


def test_what_relates_nothing_is_refused():
    sdata = spot_scene(AT)
    set_transformation(sdata["units"], {"elsewhere": Identity()}, set_all=True)
    with pytest.raises(ValueError, match="share no coordinate system"):
        lm.pp.extract_patches(sdata)
    far = spot_scene(AT + 5000)
    with pytest.raises(ValueError, match="All units of 'units' lie outside the image"):
        lm.pp.extract_patches(far)
    with pytest.raises(ValueError, match="median diameter of 800 um .* which no units have"):
        lm.pp.extract_patches(spot_scene(AT, radius=400.0))
    many = spot_scene(AT)
    many["table"].uns["spatialdata_attrs"]["region"] = ["units", "other"]
    with pytest.raises(ValueError, match="annotates .*'units', 'other'.* Pass the element"):
        lm.pp.extract_patches(many)


def test_nuclei_are_not_overwritten():
    sdata, _ = blob_scene(place(), side=4)
    lm.pp.extract_nuclei(sdata)
    with pytest.raises(ValueError, match="holds what `lm.pp.extract_nuclei` found"):
        lm.pp.extract_patches(sdata, shapes_key="nucleus_boundaries", size_um=10.0)


def test_galleries_call_them_patches_and_show_what_was_not_kept():
    pixels = he_pixels()
    pixels[:, 250:] = 240
    sdata = spot_scene([[130, 200], [370, 200]], pixels=pixels)
    lm.pp.extract_patches(sdata, store="memory")
    table = sdata["table"]
    ok, blank = np.argsort(table.obs["nucleus_qc"] != "ok")
    ax = lm.pl.nuclei(sdata, by="nucleus_qc", n=1)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["ok\n1 patches", "blank\n1 patches"]
    shown = np.asarray(ax.images[1].get_array())
    np.testing.assert_array_equal(shown, slices([[370, 200]], pixels)[0])  # from the image: it was not kept
    ax = lm.pl.nuclei(table, by="nucleus_qc", n=1)  # the table alone does not have it
    assert [text.get_text() for text in ax.get_yticklabels()] == ["ok\n1 patches"]


def test_nuclei_that_replace_patches_take_their_column_away(caplog):
    sdata = spot_scene(AT)
    lm.pp.extract_patches(sdata)
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        lm.pp.extract_nuclei(sdata, shapes_key="units")
    assert "replaced by nuclei" in caplog.text
    assert "tissue_share" not in sdata["table"].obs


def test_no_usable_patch_at_all_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        lm.pp.extract_patches(spot_scene(AT), size_um=400.0)
    assert "0 of 5 units have a usable patch of 400 um" in caplog.text


def test_ids_that_do_not_match_are_those_of_units():
    sdata = spot_scene(AT)
    sdata["table"].obs["unit"] = sdata["table"].obs["unit"] + 1000
    with pytest.raises(ValueError, match="No unit of 'units' belongs to a row of the table") as caught:
        lm.pp.extract_patches(sdata)
    said = str(caught.value)
    assert "Give the units a `cell_id` column with the ids of their rows" in said
    assert "n_units  n_rows" in said
    sdata["table"].obs["unit"] = 100
    with pytest.raises(ValueError, match="`table.unit` names 1 rows more than once .*let the table annotate the units"):
        lm.pp.extract_patches(sdata)
    with pytest.raises(ValueError, match="names 1 cells more than once .*let the table annotate the nuclei"):
        lm.pp.extract_nuclei(sdata, shapes_key="units")
    assert not any(word in said for word in ("nucle", "cells"))
