import numpy as np
import pytest
import shapely
from scipy.ndimage import gaussian_filter

from lemon_sc.analysis import registration as reg
from lemon_sc.analysis.verdict import MIN_Z
from lemon_sc.geometry.affine import invert, transform
from lemon_sc.io.image import array_image

H_RGB = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])


def region(width=40.0, height=30.0, low=(100.0, 50.0), n=50):
    return reg.Region(low=low, size=(width, height), n_nuclei=n)


def affine(mpp, degrees, *, flip=False, shift=(80.0, 40.0)):
    t = np.deg2rad(degrees)
    m = np.eye(3)
    m[:2, :2] = (
        np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) @ np.diag([-1.0 if flip else 1.0, 1.0]) * mpp
    )
    m[:2, 2] = shift
    return m


def test_contrast_is_the_difference_of_means_at_every_shift(monkeypatch):
    monkeypatch.setattr(reg, "REACH_UM", 2.0)
    rng = np.random.default_rng(0)
    nuclei = np.zeros((30, 26), bool)
    nuclei[10:16, 8:13] = nuclei[20:24, 15:22] = True
    stain = rng.normal(0.3, 0.2, (38, 34))
    stain[:3] = np.nan
    found = reg.contrast_by_shift(nuclei, stain)
    r, c = np.nonzero(nuclei)
    away = np.min(np.hypot(*(np.indices(nuclei.shape)[:, None] - np.array([r, c])[..., None, None])), axis=0) * 0.5
    ring = (away > 0.5) & (away <= 3.0)
    assert found.shape == (9, 9)
    for dy in range(9):
        for dx in range(9):
            part = stain[dy : dy + 30, dx : dx + 26]
            expected = np.nanmean(part[nuclei]) - np.nanmean(part[ring])
            assert found[dy, dx] == pytest.approx(expected, abs=1e-10)


def test_shifts_that_leave_the_image_are_unknown():
    nuclei = np.zeros((20, 20), bool)
    nuclei[8:12, 8:12] = True
    m = reg.reach_px()
    stain = np.full((20 + 2 * m, 20 + 2 * m), np.nan)
    stain[:, : m + 10] = 0.2
    found = reg.contrast_by_shift(nuclei, stain)
    assert np.isnan(found[:, -1]).all()
    np.testing.assert_allclose(found[:, : m - 10], 0, atol=1e-10)
    assert reg.match(np.where(np.arange(2 * m + 1) > m - 10, np.nan, found)) is reg.UNKNOWN


@pytest.mark.parametrize("shift", [(0.0, 0.0), (5.0, 0.0), (-3.3, 7.6), (0.2, -20.4)])
def test_a_peak_is_found_below_the_grid(shift):
    m = reg.reach_px()
    y, x = np.mgrid[-m : m + 1, -m : m + 1] * reg.STEP_UM
    noise = np.random.default_rng(0).normal(0, 1e-3, x.shape)
    hill = 0.2 * np.exp(-((x - shift[0]) ** 2 + (y - shift[1]) ** 2) / 8) + noise
    found = reg.match(hill)
    np.testing.assert_allclose(found.offset_um, np.negative(shift), atol=0.05)
    assert found.z > 50
    assert found.best_contrast == pytest.approx(0.2, abs=0.02)
    assert found.contrast == pytest.approx(hill[m, m])


def test_noise_has_no_peak_and_a_constant_no_offset():
    m = reg.reach_px()
    for seed in range(20):
        noise = gaussian_filter(np.random.default_rng(seed).standard_normal((2 * m + 1, 2 * m + 1)), 4)
        assert reg.match(noise).z < MIN_Z
    assert reg.match(np.zeros((2 * m + 1, 2 * m + 1))).z == 0


def test_a_saddle_is_not_refined():
    y, x = np.mgrid[-2:3, -2:3]
    assert reg.refine(x.ravel(), y.ravel(), (x * x - y * y).ravel().astype(float)) == (0.0, 0.0)
    dx, dy = reg.refine(x.ravel(), y.ravel(), (-((x - 0.3) ** 2) - 2 * (y + 0.4) ** 2).ravel())
    assert (dx, dy) == pytest.approx((0.3, -0.4))


@pytest.mark.parametrize(
    ("mpp", "degrees", "flip", "levels"),
    [(0.25, 0, False, 1), (0.3, 25, True, 1), (0.2, -100, False, 2), (0.9, 5, True, 1)],
)
def test_haematoxylin_is_sampled_where_it_lies(mpp, degrees, flip, levels):
    """A stain that is a smooth function of the place in um, evaluated per pixel, and read back on the grid."""
    where, placed = region(), affine(mpp, degrees, flip=flip)
    middle = transform(invert(placed), np.array([where.centre]))[0]
    side = int(130 / mpp)
    placed = placed @ np.array([[1, 0, middle[0] - side / 2], [0, 1, middle[1] - side / 2], [0, 0, 1.0]])

    def stain(xy):
        return 0.5 + 0.2 * np.sin(xy[..., 0] / 6) + 0.2 * np.cos(xy[..., 1] / 9)

    def render(down):
        n = side // down
        at = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) + 0.5
        od = stain(transform(placed, at * down)).reshape(n, n, 1) * H_RGB
        return np.clip(np.round(256 * 10**-od - 1), 0, 255).astype(np.uint8)

    found = reg.haematoxylin(array_image(*(render(2**k) for k in range(levels))), placed, where)
    margin = reg.reach_px()
    assert found.shape == (60 + 2 * margin, 80 + 2 * margin)
    rows, cols = np.indices(found.shape)
    um = np.stack([100 + (cols - margin + 0.5) * 0.5, 50 + (rows - margin + 0.5) * 0.5], -1)
    px = transform(invert(placed), um.reshape(-1, 2)).reshape(um.shape)
    inside = ((px > 0.1) & (px < side - side % levels - 0.1)).all(-1)
    np.testing.assert_array_equal(np.isfinite(found)[inside], True)
    assert np.isnan(found[((px < -0.1) | (px > side + 0.1)).any(-1)]).all()
    deep = ((px > 6) & (px < side - 6)).all(-1)
    assert np.abs(found - stain(um))[deep].max() < 0.02


def test_an_image_elsewhere_is_unknown():
    image = array_image(np.full((20, 20, 3), 200, np.uint8))
    assert np.isnan(reg.haematoxylin(image, affine(0.25, 0, shift=(1e4, 1e4)), region())).all()


def test_outlines_cover_their_area():
    where = region()
    whole, cut = shapely.box(110, 60, 120, 65), shapely.box(95, 45, 105, 55)
    mask = reg.rasterise(np.array([whole, cut, shapely.Polygon()], dtype=object), where)
    assert mask.sum() * reg.STEP_UM**2 == pytest.approx(50 + 25, rel=0.02)
    assert mask[25, 30]
    assert not mask[25, 15]
    assert mask[:9, :9].all()


def test_regions_spread_over_the_run():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, [6000, 4000], (60_000, 2))
    found = reg.choose_regions(xy)
    assert len(found) == reg.MAX_REGIONS
    centre = np.array([r.centre for r in found])
    assert np.ptp(centre[:, 0]) > 5000
    assert np.ptp(centre[:, 1]) > 3000
    gaps = np.hypot(*(centre[:, None] - centre[None]).transpose(2, 0, 1)) + 1e9 * np.eye(len(found))
    assert gaps.min() > 600
    for r in found:
        low = np.array(r.low)
        assert ((xy >= low) & (xy < low + r.size)).all(axis=1).sum() == r.n_nuclei
        assert max(r.size) <= reg.REGION_UM


def test_a_small_run_is_divided_and_few_nuclei_are_not():
    rng = np.random.default_rng(0)
    assert len(reg.choose_regions(rng.uniform(0, 150, (200, 2)))) == 4
    assert len(reg.choose_regions(rng.uniform(0, 150, (40, 2)))) == 1
    assert reg.choose_regions(rng.uniform(0, 150, (19, 2))) == []
    assert reg.choose_regions(rng.uniform(0, 9000, (100, 2))) == []
