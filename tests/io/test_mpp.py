"""Pixel size: what transformations, file and user say, and whether they agree to 2 %."""

import numpy as np
import pandas as pd
import pytest
from scenes import XENIUM_PX
from spatialdata.models import PointsModel
from spatialdata.transformations import Identity, Scale, get_transformation, set_transformation

from lemon_sc.io.elements import resolve

MPP = 0.2738  # of the scene along x


def along(sdata):
    return resolve(sdata).mpp


def state(sdata, mpp):
    """What `lm.pp.add_image` writes of a file that states its pixel size."""
    sdata.attrs["lemon_sc"] = {"images": {"he_image": {"mpp": list(mpp)}}}


def add_transcripts(sdata, um_per_px=XENIUM_PX):
    um = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    sdata.points["transcripts"] = PointsModel.parse(
        um, transformations={"global": Scale([1 / um_per_px] * 2, axes=("x", "y"))}
    )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("factor", [0.9, 0.975, 1.025, 1.3])
def test_a_file_that_contradicts_the_chain_by_more_than_two_per_cent(scene, axis, factor):
    sdata, _ = scene
    derived = along(sdata)
    stated = list(derived)
    stated[axis] *= factor
    state(sdata, stated)
    with pytest.raises(ValueError, match=r"by the transformations, but its file states .* off\)\. One is wrong"):
        resolve(sdata)


@pytest.mark.parametrize("factor", [0.985, 1.0, 1.015])
def test_a_file_that_agrees_to_two_per_cent(scene, factor):
    sdata, _ = scene
    derived = along(sdata)
    state(sdata, np.multiply(derived, factor))
    assert along(sdata) == derived
    assert resolve(sdata).doubt == ""


@pytest.mark.parametrize(("factor", "fails"), [(0.97, True), (0.985, False), (1.015, False), (1.03, True)])
def test_transcripts_that_contradict_the_nuclei(scene, factor, fails):
    sdata, _ = scene
    derived = along(sdata)
    add_transcripts(sdata, XENIUM_PX * factor)
    if fails:
        with pytest.raises(ValueError, match=r"The nuclei say .*'transcripts' say .*3% off\)\. One of the two"):
            resolve(sdata)
    else:
        assert along(sdata) == derived


def test_a_given_pixel_size_is_used_and_doubted(scene):
    sdata, _ = scene
    x, y = along(sdata)
    given = resolve(sdata, mpp=0.2125)
    assert given.mpp == pytest.approx((0.2125, 0.2125))
    assert "'he_image' 0.2125 x 0.2125 um per px and is used" in given.doubt
    assert f"'nucleus_boundaries' says {x:.4f} x {y:.4f} um per px" in given.doubt
    assert "22% off" in given.doubt
    assert "its file" not in given.doubt


def test_a_given_pixel_size_that_agrees_is_not_doubted(scene):
    sdata, _ = scene
    derived = along(sdata)
    state(sdata, derived)
    add_transcripts(sdata)
    assert resolve(sdata, mpp=np.multiply(derived, 1.015)).doubt == ""


def test_everything_that_contradicts_a_given_pixel_size_is_named(scene):
    sdata, _ = scene
    state(sdata, (0.5, 0.5))
    add_transcripts(sdata)
    doubt = resolve(sdata, mpp=0.35).doubt
    for said in ("'nucleus_boundaries' says 0.27", "'transcripts' says 0.27", "its file says 0.5000 x 0.5000"):
        assert said in doubt


def test_nuclei_by_an_identity_are_in_px_where_others_are_in_um(scene):
    """As `spatialdata.to_polygons` makes them of a label image."""
    sdata, _ = scene
    derived = along(sdata)
    shapes = sdata["nucleus_boundaries"]
    shapes["geometry"] = shapes.geometry.scale(1 / XENIUM_PX, 1 / XENIUM_PX, origin=(0, 0))
    set_transformation(shapes, Identity(), "global")
    add_transcripts(sdata)
    assert along(sdata) == pytest.approx(derived)


def test_nuclei_by_an_identity_are_in_um_where_the_system_is(scene):
    """Nothing else says that the system is in px: other platforms keep a system in um."""
    sdata, _ = scene
    derived = along(sdata)
    matrix = get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    from spatialdata.transformations import Affine

    in_um = Affine(np.diag([XENIUM_PX, XENIUM_PX, 1.0]) @ matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    set_transformation(sdata["he_image"], in_um, "global")
    set_transformation(sdata["nucleus_boundaries"], Identity(), "global")
    assert along(sdata) == pytest.approx(derived)


def test_without_a_chain_all_that_is_known_is_named(scene):
    sdata, _ = scene
    set_transformation(sdata["he_image"], Identity(), "global")
    set_transformation(sdata["nucleus_boundaries"], Identity(), "global")
    with pytest.raises(ValueError, match=r"cannot be derived from it\. Pass `mpp=`, the um per px of the image"):
        resolve(sdata)
    state(sdata, (0.2738, 0.2738))
    with pytest.raises(ValueError, match=r"\(its file says 0.2738 x 0.2738 um per px\)\. Pass `mpp=`"):
        resolve(sdata)
    assert "its file says 0.2738" in resolve(sdata, mpp=0.2125).doubt
    assert resolve(sdata, mpp=0.2738).doubt == ""
