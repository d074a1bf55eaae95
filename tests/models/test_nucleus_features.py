import numpy as np
import pytest
from scipy import stats
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import regionprops

from lemon_sc.models.nucleus_features import (
    GREY_LEVELS,
    context_columns,
    cooccurrence_columns,
    derivatives,
    shape_columns,
    stain_columns,
    texture_columns,
)


def test_axes_as_in_skimage(masks):
    made = shape_columns(masks, mpp=0.25)
    for i, mask in enumerate(masks):
        props = regionprops(mask.astype(int))[0]
        assert made["area_um2"][i] == pytest.approx(props.area / 16)
        # skimage takes pixels as points; a square of side 1 adds 1/12 to each variance, 16/12 to each squared axis
        axes = [np.sqrt(a**2 + 16 / 12) for a in (props.axis_major_length, props.axis_minor_length)]
        assert made["major_axis_um"][i] == pytest.approx(axes[0] / 4, rel=1e-6)
        assert made["minor_axis_um"][i] == pytest.approx(axes[1] / 4, rel=1e-6)
        assert made["axis_ratio"][i] == pytest.approx(axes[1] / axes[0], rel=1e-6)
        assert made["eccentricity"][i] == pytest.approx(np.sqrt(1 - (axes[1] / axes[0]) ** 2), rel=1e-6)
        assert made["equivalent_diameter_um"][i] == pytest.approx(props.equivalent_diameter_area / 4)
        offset = np.hypot(*(np.array(props.centroid) - 19.5)) / 4
        assert made["centre_offset_um"][i] == pytest.approx(offset, abs=1e-9)


def test_shape_of_planted_discs_squares_and_crescents():
    at = np.arange(40) - 19.5
    disc = at[None] ** 2 + at[:, None] ** 2 <= 12**2
    square = (np.abs(at)[None] < 10) & (np.abs(at)[:, None] < 10)
    crescent = disc & ((at[None] - 6) ** 2 + at[:, None] ** 2 > 9**2)
    cut = np.broadcast_to(at < -10, (40, 40))
    made = shape_columns(np.stack([disc, square, crescent, cut]), mpp=0.25)
    assert made["area_um2"][0] == pytest.approx(np.pi * 3**2, rel=0.02)
    assert made["perimeter_um"][0] == pytest.approx(2 * np.pi * 3, rel=0.02)
    assert made["max_feret_um"][0] == pytest.approx(6, rel=0.05)
    assert made["circularity"][0] > 0.96
    assert made["solidity"][1] == 1
    assert made["extent"][1] > 0.9
    assert made["solidity"][2] < 0.8 < made["solidity"][0]
    assert list(made["cut_fraction"] > 0) == [False, False, False, True]


def test_cooccurrence_as_in_skimage():
    """On a square the four offsets of skimage cover the same pairs."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, GREY_LEVELS, (40, 40))
    square = np.zeros((40, 40), bool)
    square[10:30, 10:30] = True
    made = cooccurrence_columns(((grey + 0.5) * 1.2 / GREY_LEVELS).astype(np.float32)[None], square[None])
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    counts = graycomatrix(grey[10:30, 10:30].astype(np.uint8), [1], angles, levels=GREY_LEVELS, symmetric=True)
    pooled = counts.sum(axis=3, keepdims=True).astype(float)
    pooled /= pooled.sum()
    names = {"glcm_contrast": "contrast", "glcm_homogeneity": "homogeneity", "glcm_energy": "ASM",
             "glcm_correlation": "correlation"}  # fmt: skip
    for name, theirs in names.items():
        assert made[name][0] == pytest.approx(graycoprops(pooled, theirs).item(), rel=1e-6)
    assert made["glcm_entropy"][0] == pytest.approx(stats.entropy(pooled.ravel()), rel=1e-6)


def test_cooccurrence_of_one_level_and_of_a_single_pixel():
    mask = np.zeros((2, 40, 40), bool)
    mask[0, 10:20, 10:20] = mask[1, 20, 20] = True
    made = cooccurrence_columns(np.full((2, 40, 40), 0.5, np.float32), mask)
    assert made["glcm_energy"].tolist() == [1, 0]
    assert made["glcm_correlation"].tolist() == [0, 0]
    assert all(np.isfinite(values).all() for values in made.values())


def test_derivatives_of_a_paraboloid():
    at = np.arange(40) - 19.5
    image = (0.5 * at[None, :, None] ** 2 + 1.5 * at[None, None] ** 2).astype(np.float32)
    gradient, laplacian = derivatives(image)
    inside = (0, slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(gradient[inside], np.hypot(at[:, None], 3 * at)[1:-1, 1:-1], rtol=1e-5)
    np.testing.assert_allclose(laplacian[inside], 4, rtol=1e-3)


def test_stain_and_context_of_planted_values():
    at = np.arange(40) - 19.5
    radius = np.hypot(at[None], at[:, None])[None]
    nucleus, ring, neighbour = radius < 8, (radius > 10) & (radius < 14), radius > 24
    h = np.where(nucleus, 0.5, 0.1).astype(np.float32)
    e = np.where(nucleus, 0.05, 0.3).astype(np.float32)
    od = np.stack([h, h + e, h / 2], axis=-1)
    od[:, :, :5] = 0
    made = stain_columns(h, e, od, nucleus, ring, mpp=0.25)
    expected = {
        "h_mean": 0.5, "h_sd": 0, "h_skewness": 0, "h_p05": 0.5, "h_p95": 0.5, "h_ring_mean": 0.1, "h_contrast": 0.4,
        "e_mean": 0.05, "e_ring_mean": 0.3, "e_contrast": -0.25, "od_red_mean": 0.5, "od_green_mean": 0.55,
        "od_blue_mean": 0.25, "h_total_um2": 0.5 * nucleus.sum() / 16,
    }  # fmt: skip
    for name, value in expected.items():
        assert made[name][0] == pytest.approx(value, abs=1e-5), name
    context = context_columns(od, e, nucleus, nucleus | neighbour)
    outside = ~nucleus
    assert context["neighbour_fraction"][0] == pytest.approx(neighbour.sum() / outside.sum())
    assert context["pale_fraction"][0] == pytest.approx(200 / outside.sum())
    assert context["e_outside_mean"][0] == pytest.approx(0.3, abs=1e-5)


def test_grain_tells_fine_from_coarse_chromatin():
    from lemon_sc.models.nucleus_mask import smooth

    at = np.arange(40)
    waves = [np.add.outer(np.sin(2 * np.pi * at / p), np.sin(2 * np.pi * at / p)) for p in (3, 20)]
    h = np.stack([np.round(300 + 100 * w) for w in waves]).astype(np.int32)
    scales = [smooth(h)]
    scales += [smooth(scales[0], spacing=2)]
    scales += [smooth(scales[1], spacing=4)]
    inside = np.zeros((2, 40, 40), bool)
    inside[:, 8:32, 8:32] = True
    core = np.zeros_like(inside)
    core[:, 10:30, 10:30] = True
    made = texture_columns(*(x / np.float32(1000) for x in (h,)), [s / np.float32(1000) for s in scales], inside, core)
    fine, coarse = made["grain_1"], made["grain_3"]
    assert fine[0] > 5 * fine[1]
    assert coarse[1] > 5 * coarse[0]
    assert made["h_range"][1] == pytest.approx(0.4, rel=0.15)
