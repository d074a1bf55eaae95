import logging

import numpy as np
import pytest
import spatialdata as sd
from scenes import blob_scene, place
from spatialdata.transformations import get_transformation

import lemon_sc as lm
from lemon_sc.io.alignment import COLUMNS, check_direction, fit_keypoints, load_alignment, read_alignment

MATRIX = np.array([[1.7, 0.008, -3.6], [0.008, -1.7, 761.3], [0, 0, 1]])
PLACED = np.array([[0.3, -1.7, 20_000.0], [-1.7, -0.3, 40_000.0], [0, 0, 1]])


def pairs(n, *, error=0.0, seed=0):
    """n keypoints in morphology px and in image px, related by `PLACED` but for an error in morphology px."""
    rng = np.random.default_rng(seed)
    moving = rng.uniform(2000, 20_000, (n, 2))
    return moving @ PLACED[:2, :2].T + PLACED[:2, 2] + error * rng.standard_normal((n, 2)), moving


def write(path, fixed, moving, *, columns=COLUMNS, order=(0, 1, 2, 3), quote=""):
    values = np.column_stack([fixed, moving])
    lines = [",".join(f"{quote}{columns[k]}{quote}" for k in order)]
    lines += [",".join(repr(float(row[k])) for k in order) for row in values]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_matrix_is_read_as_written(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in MATRIX), encoding=encoding)
    np.testing.assert_array_equal(read_alignment(path), MATRIX)
    np.testing.assert_array_equal(read_alignment(str(path)), MATRIX)
    np.testing.assert_array_equal(read_alignment(MATRIX.tolist()), MATRIX)
    found = load_alignment(path)
    assert (found.kind, found.n_points, found.rms_um) == ("matrix", 0, 0.0)


def test_the_real_file(xenium_outs):
    assert np.linalg.det(read_alignment(xenium_outs / "he_imagealignment.csv")) < 0


@pytest.mark.parametrize("n", [3, 4, 12])
@pytest.mark.parametrize(("order", "quote"), [((0, 1, 2, 3), ""), ((2, 3, 0, 1), '"')])
def test_keypoints_give_the_matrix_they_came_from(tmp_path, n, order, quote):
    found = load_alignment(write(tmp_path / "keypoints.csv", *pairs(n), order=order, quote=quote))
    assert (found.kind, found.n_points) == ("keypoints", n)
    np.testing.assert_allclose(found.matrix, PLACED, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(found.residual_um, 0, atol=1e-6)


def test_all_keypoints_count(tmp_path):
    """Against the normal equations, solved; and better than the exact fit of the first three."""
    fixed, moving = pairs(12, error=15.0)
    found = load_alignment(write(tmp_path / "k.csv", fixed, moving))
    design = np.column_stack([moving, np.ones(12)])
    normal = np.linalg.solve(design.T @ design, design.T @ fixed).T
    np.testing.assert_allclose(found.matrix[:2], normal, rtol=1e-6)
    truth = design @ PLACED[:2].T
    of_all, of_three = (
        np.abs(design @ m[:2].T - truth).max() for m in (found.matrix, fit_keypoints(fixed[:3], moving[:3]).matrix)
    )
    assert of_all < of_three
    distance = np.hypot(*(moving @ found.matrix[:2, :2].T + found.matrix[:2, 2] - fixed).T)
    np.testing.assert_allclose(found.residual_um, distance * 0.2125, rtol=1e-6)
    np.testing.assert_allclose(load_alignment(tmp_path / "k.csv", mpp=0.5).residual_um, distance * 0.5, rtol=1e-6)
    assert found.rms_um == pytest.approx(np.sqrt((found.residual_um**2).mean()))


@pytest.mark.parametrize(
    ("n", "error", "level", "words"),
    [
        (10, 5.0, logging.INFO, "10 keypoints of 'keypoints': residual"),
        (3, 5.0, logging.WARNING, "fit exactly whatever their error"),
        (10, 80.0, logging.WARNING, "which fits worst"),
    ],
)
def test_residuals_are_told(caplog, n, error, level, words):
    with caplog.at_level(logging.INFO, logger="lemon_sc"):
        fit_keypoints(*pairs(n, error=error))
    (record,) = caplog.records
    assert record.levelno == level
    assert words in record.getMessage()


def test_the_pair_that_is_off_is_named(caplog):
    fixed, moving = pairs(8, error=1.0)
    fixed[5] += 150
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        fit_keypoints(fixed, moving)
    assert "Check pair 6" in caplog.text


def test_pairs_that_are_no_pairs_are_refused():
    fixed, moving = pairs(8)
    with pytest.raises(ValueError, match="some triangles of them are mirrored, others not .*Check pair"):
        fit_keypoints(fixed[[1, 0, 2, 3, 4, 5, 6, 7]], moving)
    # a tenth of the slide off, but nothing turned over
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float) * 20_000
    with pytest.raises(ValueError, match=r"No affine fits the 4 keypoints of 'keypoints'.*Check pair"):
        fit_keypoints(square + [[3000, 3000], [0, 0], [0, 0], [0, 0]], square)


@pytest.mark.parametrize("n", [3, 6])
def test_keypoints_on_a_line_are_refused(n):
    along = np.linspace(0, 9000, n)
    line = np.column_stack([along, 2 * along + np.random.default_rng(0).uniform(-5, 5, n)])
    with pytest.raises(ValueError, match=f"The {n} keypoints of 'keypoints' lie on a line in the aligned image"):
        fit_keypoints(pairs(n)[0], line)
    with pytest.raises(ValueError, match="lie on a line in the morphology image"):
        fit_keypoints(line, pairs(n)[1])
    with pytest.raises(ValueError, match="lie on a line"):
        fit_keypoints(np.ones((n, 2)), np.ones((n, 2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "not a 3 x 3 matrix of numbers.*nor keypoints with the columns fixedX"),
        ("1,0\n0,1\n", "finite 3 x 3"),
        ("1,0,0\n0,1,0\n", "finite 3 x 3"),
        ("1,0,0,0\n0,1,0,0\n0,0,1,0\n0,0,0,1\n", "finite 3 x 3"),
        ("1,0,0\n0,1\n0,0,1\n", "not a 3 x 3 matrix of numbers"),
        ("1,0,0\n0,nan,0\n0,0,1\n", "finite 3 x 3"),
        ("1,0,0\n0,1,0\n0,0,2\n", "last row"),
        ("1,0,0\n0,0,0\n0,0,1\n", "invertible"),
        ("", "finite 3 x 3"),
        ("fixedX,fixedY\n1,2\n", r"has no column \['alignmentX', 'alignmentY'\]"),
        ("fixedX,fixedY,alignmentX,alignmentY\n1,2,3,4\n1,3,3,5\n", "2 keypoints .* at least 3"),
        (
            "fixedX,fixedY,alignmentX,alignmentY\n10,10,5,5\n20,20,10,10\n50,50,25,25\n",
            "The 3 keypoints of 'a.csv' lie on a line in the aligned image. Add one away from it",
        ),
        ("fixedX,fixedY,alignmentX,alignmentY\n", "0 keypoints .* at least 3"),
        ("fixedX,fixedY,alignmentX,alignmentY\n1,2,3,4\n1,x,3,5\n1,,3,5\n", r"no finite numbers in row \['2', '3'\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_other_content_is_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_alignment(tmp_path / "a.csv")


def test_a_file_that_is_not_there_and_one_that_is_packed(tmp_path):
    with pytest.raises(FileNotFoundError, match="No alignment file"):
        read_alignment(tmp_path / "none.csv")
    (tmp_path / "alignment.zip").write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(ValueError, match="not a text file. Unpack the archive"):
        read_alignment(tmp_path / "alignment.zip")


@pytest.mark.parametrize("stated", [(0.2125 * 1.7, 0.2125 * 1.7), None])
def test_a_matrix_that_leads_the_other_way_is_noticed(stated):
    run = np.diag([1 / 0.2125, 1 / 0.2125, 1])
    of = {"shape": (440, 520), "run": run, "run_box": (0.0, 0.0, 185.0, 155.0), "stated_mpp": stated}
    check_direction(MATRIX, **of)
    with pytest.raises(ValueError, match=r"must lead from image px to px of the morphology image.*numpy.linalg.inv"):
        check_direction(np.linalg.inv(MATRIX), **of)


def test_a_small_image_of_a_large_run_is_no_mistake():
    run = np.diag([1 / 0.2125, 1 / 0.2125, 1])
    check_direction(PLACED, shape=(3000, 2000), run=run, run_box=(0.0, 0.0, 9000.0, 9000.0), stated_mpp=None)


def test_add_image_says_what_it_read(tmp_path):
    placed = place(0.2738, 12.0, flip=True)
    sdata, _ = blob_scene(placed, side=3)
    matrix = get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    pixels = np.asarray(sdata["he_image"])
    moving = np.array([[10, 20], [200, 30], [40, 250], [210, 240]], dtype=float)
    fixed = moving @ matrix[:2, :2].T + matrix[:2, 2]
    lm.pp.add_image(sdata, pixels, alignment=write(tmp_path / "k.csv", fixed, moving), key_added="keypoints")
    lm.pp.add_image(sdata, pixels, alignment=matrix, key_added="matrix")
    lm.pp.add_image(sdata, pixels, key_added="none")
    recorded = {name: image["alignment"] for name, image in sdata.attrs["lemon_sc"]["images"].items()}
    assert [recorded[name]["kind"] for name in ("keypoints", "matrix", "none")] == ["keypoints", "matrix", "none"]
    assert recorded["keypoints"]["n_points"] == 4
    np.testing.assert_allclose(recorded["keypoints"]["residual_um"], 0, atol=1e-6)
    again = get_transformation(sdata["keypoints"]).to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(again, matrix, rtol=1e-9, atol=1e-6)


def test_add_image_refuses_the_inverse(xenium_outs):
    spatialdata_io = pytest.importorskip("spatialdata_io")
    sdata = spatialdata_io.xenium(xenium_outs, transcripts=False, aligned_images=False, morphology_focus=False)
    matrix = np.linalg.inv(read_alignment(xenium_outs / "he_imagealignment.csv"))
    with pytest.raises(ValueError, match="lead the other way: only its inverse gives the pixel size"):
        lm.pp.add_image(sdata, xenium_outs / "he_image.ome.tif", alignment=matrix)
    with pytest.raises(ValueError, match="lead the other way: only its inverse lays the image over the nuclei"):
        lm.pp.add_image(sdata, np.zeros((448, 527, 3), np.uint8), alignment=matrix)
    assert "he_image" not in sdata.images
    assert sdata.attrs.get("lemon_sc") is None


def test_add_image_refuses_the_inverse_of_a_run_without_files():
    """The phantom's own alignment passes, its inverse does not, and nothing is kept of the attempt."""
    sdata = lm.datasets.phantom(n_cells=300)
    matrix = get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    pixels = np.asarray(sdata["he_image"]["scale0"]["image"])
    bare = sd.SpatialData(shapes=dict(sdata.shapes), tables=dict(sdata.tables))
    with pytest.raises(ValueError, match="lead the other way: only its inverse lays the image over the nuclei"):
        lm.pp.add_image(bare, pixels, alignment=np.linalg.inv(matrix))
    assert "he_image" not in bare.images
    lm.pp.add_image(bare, pixels, alignment=matrix)
    assert lm.pp.check_registration(bare).ok
