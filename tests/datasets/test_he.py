import numpy as np
import pytest
import shapely
from scipy.ndimage import binary_fill_holes, center_of_mass

from lemon_sc.datasets import _he, _looks
from lemon_sc.datasets import _tissue as ti
from lemon_sc.datasets._cells import grow

SIDE_PX = 520


@pytest.fixture(scope="module")
def parts():
    tissue = ti.make_tissue(np.random.default_rng(4), 100, multinucleate=True)
    return tissue, grow(tissue), _looks.draw_details(np.random.default_rng(5), tissue)


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(_he, "SCANNER_NOISE", 0.0)


def straight(pixel=0.3):
    return np.array([[pixel, 0, -2.0], [0, pixel, -2.0], [0, 0, 1]])


def whole(parts, pixel):
    return (round((parts[0].side + 4) / pixel),) * 2


def draw(parts, to_um, shape=(SIDE_PX, SIDE_PX)):
    return _he.render_he(*parts, to_um=to_um, shape=shape, rng=np.random.default_rng(0))


def stains(image):
    """Amounts of haematoxylin and eosin per pixel, by least squares on the optical density."""
    density = -np.log(np.maximum(image, 1.0) / _he.WHITE)
    return density @ np.linalg.pinv(_he.STAINS.astype(float))


@pytest.mark.usefixtures("quiet")
def test_tiles_leave_no_seams(parts, monkeypatch):
    in_one = draw(parts, straight())
    monkeypatch.setattr(_he, "TILE", 130)
    assert np.abs(draw(parts, straight()).astype(int) - in_one).max() <= 1


@pytest.mark.usefixtures("quiet")
def test_a_quarter_turn_of_the_grid_turns_the_picture(parts):
    turn = np.array([[0, -1, SIDE_PX], [1, 0, 0], [0, 0, 1.0]])  # px of the turned image to px of the straight one
    turned = draw(parts, straight() @ turn)
    assert np.abs(turned.astype(int) - np.rot90(draw(parts, straight()))).max() <= 3


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("pixel", [0.137, 0.25, 0.37])
def test_mean_haematoxylin_of_a_nucleus_is_the_planted_one(parts, pixel):
    tissue = parts[0]
    amounts = stains(draw(parts, straight(pixel), whole(parts, pixel)))[..., 0]
    y, x = np.mgrid[: amounts.shape[0], : amounts.shape[1]] + 0.5
    core = shapely.buffer(shapely.polygons((tissue.nuclei.polygons()[: tissue.n_nuclei] + 2.0) / pixel), -0.5 / pixel)
    fits = [p for p, q in enumerate(core) if q.area * pixel**2 > 12]
    seen = np.array([amounts[shapely.contains_xy(core[p], x, y)].mean() for p in fits])
    planted = tissue.chromatin[fits]
    assert len(fits) > 40
    assert np.corrcoef(seen, planted)[0, 1] > 0.95
    assert np.median(seen / planted) == pytest.approx(1, abs=0.12)


@pytest.mark.usefixtures("quiet")
def test_haematoxylin_is_centred_on_the_outline(parts):
    tissue, pixel = parts[0], 0.2738
    amounts = stains(draw(parts, straight(pixel), whole(parts, pixel)))[..., 0]
    centre = (tissue.nuclei.centre[: tissue.n_nuclei] + 2.0) / pixel
    y, x = np.mgrid[: amounts.shape[0], : amounts.shape[1]] + 0.5
    wide = shapely.buffer(shapely.polygons((tissue.nuclei.polygons()[: tissue.n_nuclei] + 2.0) / pixel), 1.5)

    def offsets(image):
        at = []
        for outline, level in zip(wide, tissue.chromatin[: tissue.n_nuclei], strict=True):
            dark = binary_fill_holes(shapely.contains_xy(outline, x, y) & (image > 0.5 * level))
            at.append(np.array(center_of_mass(dark))[::-1] + 0.5)
        return np.array(at) - centre

    off = offsets(amounts)
    assert np.median(np.hypot(*off.T)) < 0.3
    assert np.abs(np.median(off, axis=0)).max() < 0.08
    assert np.median(offsets(np.roll(amounts, 2, axis=1))[:, 0]) > 1.0  # the measure sees a shift


def test_glass_is_white_and_the_scanner_is_noisy(parts):
    image = draw(parts, straight())
    glass = image[:6, :6].astype(float)
    np.testing.assert_allclose(glass.mean(axis=(0, 1)), _he.WHITE, atol=2)
    assert 1 < glass.std(axis=(0, 1)).mean() < 2.5
    assert image.dtype == np.uint8


def test_tissue_has_the_colours_of_the_stains(parts):
    amounts = stains(draw(parts, straight()).astype(float)).reshape(-1, 2)
    tissue = amounts[amounts.sum(axis=1) > 0.15]
    assert 0.4 < np.median(tissue[:, 1]) < 0.8
    assert np.quantile(tissue[:, 0], 0.99) > 1.5
    assert np.quantile(amounts, 0.001) > -0.1
