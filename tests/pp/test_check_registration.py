import re

import numpy as np
import pytest
import spatialdata as sd
from geopandas import GeoDataFrame
from spatialdata.models import Image2DModel, Labels2DModel, PointsModel, ShapesModel
from spatialdata.transformations import (
    Affine,
    Identity,
    Scale,
    Sequence,
    Translation,
    get_transformation,
    set_transformation,
)

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.analysis import registration
from lemon_sc.io.image import DaskLevel

AXES = ("x", "y")
PX = 0.2125


@pytest.fixture(scope="module")
def phantom():
    return lm.datasets.phantom(n_cells=300)


@pytest.fixture(scope="module")
def real(xenium_outs):
    spatialdata_io = pytest.importorskip("spatialdata_io")
    return spatialdata_io.xenium(xenium_outs, transcripts=False, cells_boundaries=False)


def shifted(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def turned(degrees):
    t = np.deg2rad(degrees)
    return np.array([[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1.0]])


def size_of(sdata):
    return sdata["he_image"]["scale0"]["image"].shape[1:]


def placed(sdata, change):
    """The same elements with the H&E placed by ``change(matrix, middle in global, (height, width))``."""
    matrix = get_transformation(sdata["he_image"]).to_affine_matrix(AXES, AXES)
    height, width = size_of(sdata)
    moved = change(matrix, shifted(*(matrix @ [width / 2, height / 2, 1])[:2]), (height, width))
    image = sdata["he_image"].copy()
    for scale in image.children:
        factor = width / image[scale]["image"].shape[2]
        image[scale]["image"].attrs["transform"] = {
            "global": Sequence([Scale([factor, factor], axes=AXES), Affine(moved, AXES, AXES)])
        }
    return sd.SpatialData(
        images={"he_image": image}, labels=dict(sdata.labels), shapes=dict(sdata.shapes), tables=dict(sdata.tables)
    )


def about(middle, change):
    return middle @ change @ np.linalg.inv(middle)


CORRUPTED = {
    "no alignment": lambda m, middle, size: np.eye(3),
    "flip of y": lambda m, middle, size: m @ np.diag([1, -1, 1]) @ shifted(0, -size[0]),
    "flip of x": lambda m, middle, size: m @ np.diag([-1, 1, 1]) @ shifted(-size[1], 0),
    "flip of the run": lambda m, middle, size: about(middle, np.diag([1, -1, 1])) @ m,
    "swapped axes": lambda m, middle, size: m @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "inverse": lambda m, middle, size: np.linalg.inv(m),
    "half a turn": lambda m, middle, size: about(middle, turned(180)) @ m,
    "2 degrees": lambda m, middle, size: turned(2) @ m,
    "2 degrees about the middle": lambda m, middle, size: about(middle, turned(2)) @ m,
    "pixel size 10 % off": lambda m, middle, size: np.diag([1.1, 1.1, 1]) @ m,
    "pixel size 5 % off about the middle": lambda m, middle, size: about(middle, np.diag([1.05, 1.05, 1])) @ m,
}
SHIFTS = [(5, 0), (0, -5), (-3.5, 3.5), (12, -16), (-20, 0)]


NOWHERE = r"match in 0 of \d regions only.*flipped, transposed, inverted, far off in scale or rotation"
WORDS = {
    "2 degrees": r"off in rotation, scale or shear.*turned by -(1\.[7-9]|2\.[0-3]) degrees",
    "2 degrees about the middle": r"off in rotation, scale or shear.*turned by -(1\.[7-9]|2\.[0-3]) degrees",
    "pixel size 5 % off about the middle": r"off in rotation, scale or shear.*scaled by 0\.9[45]",
}
"""What the report says of each; whatever is not here matches nowhere."""
WORDS_REAL = {
    "inverse": "undecided, because no region holds 20 nuclei that lie in the image",  # it lies almost beside the run
    # one half of 150 um matches
    "pixel size 10 % off": "must be moved by .* as found in 1 of 2 regions.*from a wrong pixel size or rotation",
}


@pytest.mark.parametrize("name", CORRUPTED)
@pytest.mark.parametrize("data", ["phantom", "real"])
def test_wrong_alignments_are_caught_and_named(request, data, name):
    found = lm.pp.check_registration(placed(request.getfixturevalue(data), CORRUPTED[name]))
    assert not found.ok
    assert "NOT ok" in str(found)
    words = WORDS | (WORDS_REAL if data == "real" else {})
    assert re.search(words.get(name, NOWHERE), found.verdict)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("data", ["phantom", "real"])
def test_shifts_are_measured(request, data, shift):
    sdata = request.getfixturevalue(data)
    before = lm.pp.check_registration(sdata)
    moved = placed(sdata, lambda m, middle, size: shifted(shift[0] / PX, shift[1] / PX) @ m)
    found = lm.pp.check_registration(moved)
    assert not found.ok
    assert "must be moved by" in found.verdict
    assert "turned" not in found.verdict
    np.testing.assert_allclose(found.offset_um, np.subtract(before.offset_um, shift), atol=0.5)
    if data == "phantom":  # of the real crop it is not known how well its own alignment is
        np.testing.assert_allclose(found.offset_um, np.negative(shift), atol=0.5)


@pytest.mark.parametrize("data", ["phantom", "real"])
def test_right_alignments_pass(request, data):
    found = lm.pp.check_registration(request.getfixturevalue(data))
    assert found.ok
    assert np.hypot(*found.offset_um) < {"phantom": 0.1, "real": 1.0}[data]
    assert found.regions["ok"].all()
    assert found.regions["contrast"].gt(0.1).all()
    assert str(found).startswith("Registration ok: ")
    assert "of 120 nuclei lie in the image" in str(found) or data == "phantom"


@pytest.mark.parametrize("options", [{"rotation": 0.0, "flip": False}, {"rotation": -40.0, "shear": 0.05, "mpp": 0.4}])
def test_other_placements_pass_and_their_shift_is_measured_in_the_frame_of_the_nuclei(options):
    sdata = lm.datasets.phantom(n_cells=200, **options)
    assert lm.pp.check_registration(sdata).ok
    moved = placed(sdata, lambda m, middle, size: shifted(5 / PX, 2 / PX) @ m)
    np.testing.assert_allclose(lm.pp.check_registration(moved).offset_um, (-5, -2), atol=0.5)


def test_moving_the_image_by_the_offset_repairs_it(phantom):
    moved = placed(phantom, lambda m, middle, size: shifted(31, -17) @ m)
    dx, dy = lm.pp.check_registration(moved).offset_um
    now = Sequence([get_transformation(moved["he_image"]), Translation([dx / PX, dy / PX], axes=AXES)])
    set_transformation(moved["he_image"], now)
    found = lm.pp.check_registration(moved)
    assert found.ok
    np.testing.assert_allclose(found.offset_um, 0, atol=0.1)


def test_nuclei_of_every_kind(phantom):
    outlines = phantom["nucleus_boundaries"]
    centre = outlines.geometry.centroid
    to_global = {"global": Scale([1 / PX] * 2, axes=AXES)}
    xy = np.column_stack([centre.x, centre.y])
    radius = np.sqrt(outlines.geometry.area / np.pi).to_numpy()
    moved = placed(phantom, lambda m, middle, size: shifted(5 / PX, 0) @ m)
    moved.shapes["circles"] = ShapesModel.parse(xy, geometry=0, radius=radius, transformations=to_global)
    moved.points["centres"] = PointsModel.parse(xy, transformations=to_global)
    for key in ("nucleus_labels", "circles", "centres"):
        found = lm.pp.check_registration(moved, shapes_key=key)
        np.testing.assert_allclose(found.offset_um, (-5, 0), atol=0.5)
        assert not found.ok


def test_nuclei_in_px_of_the_image(phantom):
    """As in converted slides: the um frame has the axes of the image."""
    to_px = np.linalg.inv(get_transformation(phantom["he_image"]).to_affine_matrix(AXES, AXES)) @ np.diag(
        [1 / PX, 1 / PX, 1]
    )
    geometry = phantom["nucleus_boundaries"].geometry.affine_transform(to_px[[0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 2, 2]])
    image = Image2DModel.parse(
        np.asarray(phantom["he_image"]["scale0"]["image"]), dims=("c", "y", "x"), transformations={"global": Identity()}
    )
    for shift, ok in ((0.0, True), (6.0, False)):
        frame = GeoDataFrame(geometry=geometry.translate(shift / 0.2738, 0).to_numpy())
        shapes = ShapesModel.parse(frame, transformations={"global": Identity()})
        sdata = sd.SpatialData(images={"he_image": image}, shapes={"nucleus_boundaries": shapes})
        with pytest.raises(ValueError, match="Pass `mpp=`"):
            lm.pp.check_registration(sdata)
        found = lm.pp.check_registration(sdata, mpp=0.2738)
        assert found.ok is ok
        np.testing.assert_allclose(found.offset_um, (shift, 0), atol=0.3)


def test_the_tolerance_decides(phantom):
    moved = placed(phantom, lambda m, middle, size: shifted(3 / PX, 0) @ m)
    assert not lm.pp.check_registration(moved).ok
    assert lm.pp.check_registration(moved, tolerance_um=4).ok


def test_few_nuclei_are_undecided(phantom):
    few = sd.SpatialData(
        images=dict(phantom.images), shapes={"nucleus_boundaries": phantom["nucleus_boundaries"].iloc[:15]}
    )
    found = lm.pp.check_registration(few)
    assert not found.ok
    assert "undecided" in found.verdict
    assert found.n_nuclei == 15
    assert np.isnan(found.offset_um).all()
    assert list(found.regions.columns[:3]) == ["x_um", "y_um", "n_nuclei"]


def test_an_image_beside_the_nuclei_says_so(phantom):
    found = lm.pp.check_registration(placed(phantom, lambda m, middle, size: shifted(1e5, 0) @ m))
    assert not found.ok
    assert found.n_in_image == 0
    assert "0 of" in str(found)


def test_a_white_image_matches_nowhere(phantom):
    white = np.full((3, *size_of(phantom)), 240, np.uint8)
    placement = {"global": get_transformation(phantom["he_image"])}
    image = Image2DModel.parse(white, dims=("c", "y", "x"), transformations=placement)
    found = lm.pp.check_registration(sd.SpatialData(images={"he_image": image}, shapes=dict(phantom.shapes)))
    assert not found.ok
    assert "match in 0 of" in found.verdict


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_key": "HE"}, MissingKeyError, "'HE' not found in `sdata.images`"),
        ({"shapes_key": "nuclei"}, MissingKeyError, "'nuclei' not found"),
        ({"tolerance_um": 0}, ValueError, "`tolerance_um` must be a finite number > 0, got 0"),
        ({"tolerance_um": "2"}, ValueError, "`tolerance_um` must be a finite number > 0, got '2'"),
        ({"tolerance_um": np.nan}, ValueError, "`tolerance_um` must be a finite number > 0, got nan"),
    ],
)
def test_bad_input(phantom, options, error, message):
    with pytest.raises(error, match=message):
        lm.pp.check_registration(phantom, **options)


def test_only_a_spatialdata_can_be_checked(phantom):
    with pytest.raises(TypeError, match="must be a SpatialData, got AnnData"):
        lm.pp.check_registration(phantom["table"])


def test_no_nuclei_at_all(phantom):
    none = Labels2DModel.parse(np.zeros((50, 50), int), dims=("y", "x"), transformations={"global": Identity()})
    sdata = sd.SpatialData(images=dict(phantom.images), shapes=dict(phantom.shapes), labels={"none": none})
    with pytest.raises(ValueError, match="'none' holds no nuclei"):
        lm.pp.check_registration(sdata, shapes_key="none")


def test_only_the_regions_are_read(phantom, monkeypatch):
    read, whole = [], DaskLevel.read

    def watched(self, y0, y1, x0, x1):
        read.append((y1 - y0) * (x1 - x0) / np.prod(self.shape))
        return whole(self, y0, y1, x0, x1)

    monkeypatch.setattr(DaskLevel, "read", watched)
    monkeypatch.setattr(registration, "MAX_REGIONS", 1)
    assert len(lm.pp.check_registration(phantom).regions) == 1
    assert len(read) == 1
    assert read[0] < 0.8
