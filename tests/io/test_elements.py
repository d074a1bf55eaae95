import numpy as np
import pandas as pd
import pytest
from scenes import XENIUM_PX, blob_scene, place
from spatialdata.models import Image2DModel, Labels2DModel, PointsModel
from spatialdata.transformations import Affine, Identity, Scale, set_transformation

from lemon_sc._core.errors import MissingKeyError
from lemon_sc.io.elements import resolve


@pytest.mark.parametrize("mpp", [0.137, 0.2125, 0.3639])
@pytest.mark.parametrize("flip", [False, True])
def test_pixel_size_and_handedness_follow_from_the_chain(mpp, flip):
    sdata, _ = blob_scene(place(mpp, 33.0, flip=flip), side=3)
    size = resolve(sdata).pixel_size
    assert size.mpp == pytest.approx((mpp, mpp))
    assert size.mirrored is flip


def test_nuclei_land_on_their_pixels(scene):
    sdata, xy = scene
    found = resolve(sdata)
    cells = sdata["nucleus_boundaries"].set_index("cell_id").loc[sdata["table"].obs["cell_id"]]
    c = cells.geometry.centroid
    um = np.column_stack([c.x, c.y, np.ones(len(c))])
    np.testing.assert_allclose((um @ found.to_pixel.T)[:, :2], xy, atol=1e-6)


def test_a_pyramid_has_its_levels():
    sdata, _ = blob_scene(place(), side=3, multiscale=True)
    image = resolve(sdata).image
    assert image.downsamples == [(1, 1), (2, 2), (4, 4)]
    full = np.moveaxis(np.asarray(sdata["he_image"]["scale1"].ds["image"]), 0, 2)
    np.testing.assert_array_equal(image.levels[1].read(5, 40, 7, 60), full[5:40, 7:60])


def test_any_shared_coordinate_system_serves(scene):
    sdata, xy = scene
    before = resolve(sdata)
    for name in ("he_image", "nucleus_boundaries"):
        element = sdata[name]
        matrix = np.diag([3.0, 3.0, 1.0]) @ np.array(
            element.attrs["transform"]["global"].to_affine_matrix(("x", "y"), ("x", "y"))
        )
        placed = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
        set_transformation(element, placed, "aligned", set_all=False)
        element.attrs["transform"].pop("global")
    after = resolve(sdata)
    assert after.coordinate_system == "aligned"
    np.testing.assert_allclose(after.to_pixel, before.to_pixel)


def labelled(sdata):
    """Add a label image in global px."""
    labels = np.zeros((600, 700), dtype=np.int32)
    labels[100:130, 100:130] = 1
    placed = {"global": Identity()}
    sdata.labels["nucleus_labels"] = Labels2DModel.parse(labels, dims=("y", "x"), transformations=placed)


def test_the_px_of_label_images_get_their_size_from_outlines_in_um(scene):
    sdata, _ = scene
    by_shapes = resolve(sdata)
    labelled(sdata)
    by_labels = resolve(sdata, shapes_key="nucleus_labels")
    assert by_labels.kind == "labels"
    assert by_labels.mpp == pytest.approx(by_shapes.mpp)
    del sdata.shapes["nucleus_boundaries"]
    with pytest.raises(ValueError, match=r"size of a pixel of 'global' in um is unknown.*Pass `mpp=`"):
        resolve(sdata, shapes_key="nucleus_labels")
    assert resolve(sdata, shapes_key="nucleus_labels", mpp=0.3).mpp == pytest.approx((0.3, 0.3))


def test_outlines_that_disagree_on_the_pixel_size(scene):
    sdata, _ = scene
    labelled(sdata)
    sdata.shapes["other"] = sdata["nucleus_boundaries"].copy()
    set_transformation(sdata["other"], Scale([2.0, 2.0], axes=("x", "y")), "global")
    with pytest.raises(ValueError, match="disagree on the size of a pixel"):
        resolve(sdata, shapes_key="nucleus_labels")


def test_nuclei_in_image_px_need_mpp(scene):
    sdata, _ = scene
    set_transformation(sdata["he_image"], Identity(), "global")
    set_transformation(sdata["nucleus_boundaries"], Identity(), "global")
    with pytest.raises(ValueError, match=r"in the pixels of the image.*Pass `mpp=`"):
        resolve(sdata)
    assert resolve(sdata, mpp=(0.2, 0.25)).mpp == pytest.approx((0.2, 0.25))


def test_a_given_pixel_size_keeps_rotation_and_handedness(scene):
    sdata, _ = scene
    derived, given = resolve(sdata).pixel_size, resolve(sdata, mpp=(0.3, 0.31)).pixel_size
    assert given.mpp == pytest.approx((0.3, 0.31))
    assert given.mirrored is derived.mirrored is True
    assert given.rotation_deg == pytest.approx(derived.rotation_deg)


def test_nuclei_that_are_not_in_um_contradict_the_transcripts(scene):
    """Nuclei in units of 0.5 um, placed correctly: only the run's points in um can tell."""
    sdata, _ = scene
    um = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    to_global = {"global": Scale([1 / XENIUM_PX] * 2, axes=("x", "y"))}
    sdata.points["transcripts"] = PointsModel.parse(um, transformations=to_global)
    assert resolve(sdata).mpp[0] == pytest.approx(0.2738, rel=0.01)
    shapes = sdata["nucleus_boundaries"]
    shapes["geometry"] = shapes.geometry.scale(2, 2, origin=(0, 0))
    set_transformation(shapes, Scale([0.5 / XENIUM_PX] * 2, axes=("x", "y")), "global")
    with pytest.raises(ValueError, match=r"The nuclei say .*0.54\d+ .*'transcripts' say 0.27\d+ .*not in um"):
        resolve(sdata)


def test_no_common_coordinate_system(scene):
    sdata, _ = scene
    set_transformation(sdata["he_image"], {"slide": Identity()}, set_all=True)
    with pytest.raises(ValueError, match=r"share no coordinate system.*'slide'.*'global'.*alignment="):
        resolve(sdata)


def test_a_stated_pixel_size_that_contradicts_the_chain(scene):
    sdata, _ = scene
    sdata.attrs["lemon_sc"] = {"images": {"he_image": {"mpp": [0.2125, 0.2125]}}}
    with pytest.raises(ValueError, match=r"0.27\d+ x 0.27\d+ um by the transformations, but its file states 0.2125"):
        resolve(sdata)
    assert resolve(sdata, mpp=XENIUM_PX).mpp == pytest.approx((XENIUM_PX, XENIUM_PX))


def test_missing_elements_are_named_with_what_is_there(scene):
    sdata, _ = scene
    with pytest.raises(MissingKeyError, match=r"'he_imag' not found in `sdata.images` .*Did you mean 'he_image'"):
        resolve(sdata, image_key="he_imag")
    with pytest.raises(MissingKeyError, match=r"'nuclei' not found in .*found: \['nucleus_boundaries'\]"):
        resolve(sdata, shapes_key="nuclei")
    with pytest.raises(TypeError, match="must be a SpatialData, got AnnData"):
        resolve(sdata["table"])


def put_image(sdata, array, **kwargs):
    placed = sdata["he_image"].attrs["transform"]
    sdata.images["he_image"] = Image2DModel.parse(array, dims=("c", "y", "x"), transformations=dict(placed), **kwargs)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((4, 50, 60), np.uint8, r"has 4 channels .*isel\(c=slice\(0, 3\)\)"),
        ((1, 50, 60), np.uint8, r"has 1 channel .*an H&E has 3"),
        ((5, 50, 60), np.uint16, r"has 5 channels"),
        ((3, 50, 60), np.uint16, r"is uint16; an H&E is uint8.*// 257"),
        ((3, 50, 60), np.float32, r"is float32; an H&E is uint8"),
        ((50, 60, 3), np.uint8, r"looks channel-last.*dims=\(\"y\", \"x\", \"c\"\)"),
        ((50, 60, 4), np.uint8, r"looks channel-last"),
    ],
)
def test_an_image_that_is_no_rgb(scene, shape, dtype, message):
    sdata, _ = scene
    put_image(sdata, np.zeros(shape, dtype=dtype))
    with pytest.raises(ValueError, match=message):
        resolve(sdata)
