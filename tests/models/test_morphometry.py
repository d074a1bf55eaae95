import numpy as np
import pandas as pd
import pytest
from real_data import there
from scipy.stats import spearmanr
from skimage.io import imread

from lemon_sc.models.morphometry import CARD, FEATURES, measure, surroundings

VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # Ruifrok and Johnston
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def paint(h, e):
    """H&E crops from stain amounts (n, 40, 40)."""
    od = np.stack([h, e], axis=-1) @ VECTORS
    return np.clip(np.round(256 * 10**-od - 1), 0, 255).astype(np.uint8)


def column(z, name):
    return z[:, FEATURES.index(name)]


@pytest.fixture(scope="module")
def planted():
    """Ellipses of known size, elongation and stain, drawn with soft outlines and noise."""
    rng = np.random.default_rng(0)
    n = 300
    truth = pd.DataFrame(
        {
            "major": rng.uniform(5, 8.5, n),
            "ratio": rng.uniform(0.5, 1, n),
            "h": rng.uniform(0.3, 0.8, n),
            "grain": rng.uniform(0, 0.15, n),
        }
    )
    at = (np.arange(40) - 19.5) / 4
    angle = rng.uniform(0, np.pi, n)[:, None, None]
    x, y = at[None, None, :], at[None, :, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    a = truth["major"].to_numpy()[:, None, None] / 2
    b = a * truth["ratio"].to_numpy()[:, None, None]
    depth = (1 - np.hypot(u / a, v / b)) * b
    inside = np.clip(depth / 0.3 + 0.5, 0, 1)
    texture = 1 + truth["grain"].to_numpy()[:, None, None] * rng.standard_normal(inside.shape)
    h = 0.05 + inside * texture * (truth["h"].to_numpy()[:, None, None] - 0.05)
    e = 0.25 - 0.2 * inside + 0.01 * rng.standard_normal(inside.shape)
    return paint(np.maximum(h, 0), np.maximum(e, 0)), truth


@pytest.fixture(scope="module")
def noisy():
    """Smooth random crops: odd shapes, cut and touching nuclei."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(1).standard_normal((200, 40, 40, 3)), (0, 3, 3, 0.5))
    noise /= noise.std()
    return np.clip(150 + 50 * noise, 0, 255).astype(np.uint8)


def test_planted_size_shape_and_stain_are_measured(planted):
    crops, truth = planted
    z = measure(crops)
    assert column(z, "found").mean() == 1
    area = np.pi / 4 * truth["major"] ** 2 * truth["ratio"]
    assert np.median(np.abs(column(z, "area_um2") / area - 1)) < 0.08
    assert spearmanr(column(z, "area_um2"), area).statistic > 0.98
    assert np.median(np.abs(column(z, "major_axis_um") / truth["major"] - 1)) < 0.04
    assert np.median(np.abs(column(z, "axis_ratio") - truth["ratio"])) < 0.04
    assert np.median(np.abs(column(z, "h_p75") - truth["h"])) < 0.05
    assert np.median(np.abs(column(z, "h_ring_mean") - 0.05)) < 0.05
    assert np.median(np.abs(column(z, "e_ring_mean") - 0.25)) < 0.03
    assert np.median(column(z, "centre_offset_um")) < 0.1
    assert spearmanr(column(z, "grain_1"), truth["grain"] * truth["h"]).statistic > 0.95


def test_rows_do_not_depend_on_the_batch(planted, noisy):
    crops = np.concatenate([planted[0], noisy])
    z = measure(crops)
    order = np.random.default_rng(0).permutation(len(crops))
    np.testing.assert_array_equal(measure(crops[order]), z[order])
    np.testing.assert_array_equal(np.concatenate([measure(crop[None]) for crop in crops[::25]]), z[::25])


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: np.rot90(x, 1, (1, 2)),
        lambda x: np.rot90(x, 2, (1, 2)),
        lambda x: x[:, ::-1],
        lambda x: x[:, :, ::-1],
        lambda x: x.transpose(0, 2, 1, 3),
    ],
    ids=["90", "180", "flip rows", "flip columns", "transpose"],
)
def test_orientation_does_not_matter(planted, noisy, turn):
    crops = np.concatenate([planted[0], noisy])
    z = measure(crops)
    np.testing.assert_allclose(measure(turn(crops)), z, rtol=1e-4, atol=1e-4 * z.std(axis=0).max())


def test_blank_and_extreme_crops_are_finite_and_say_so():
    flat = np.stack([np.full((40, 40, 3), v, np.uint8) for v in (0, 1, 128, 254, 255)])
    noise = np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
    half = flat[:1].repeat(1, axis=0).copy()
    half[:, :20] = 255
    z = measure(np.concatenate([flat, noise, half]))
    assert np.isfinite(z).all()
    assert not column(z, "found")[:5].any()


def test_names_and_width_agree():
    assert CARD.features == FEATURES
    assert measure(np.zeros((0, 40, 40, 3), np.uint8)).shape == (0, CARD.dim)
    assert measure(np.full((1, 40, 40, 3), 255, np.uint8)).shape == (1, CARD.dim)


def test_surroundings_of_a_square_and_of_slivers():
    nucleus = np.zeros((3, 40, 40), bool)
    nucleus[0, 12:28, 12:28] = True
    nucleus[1, 20, 10:30] = True
    nucleus[2] = True
    others = nucleus.copy()
    others[0, :, 30:] = True
    ring, core = surroundings(nucleus, others)
    assert core[0].sum() == 12 * 12
    assert np.array_equal(core[1], nucleus[1])
    assert not ring[2].any()
    assert not (ring & nucleus).any()
    assert not (ring[0] & others[0]).any()
    assert ring[0, 20, 8:11].all()  # 2 to 4 px away
    assert not ring[0, 20, [7, 11]].any()


def test_areas_of_real_nuclei_follow_the_annotation(data_dir):
    """TNBC (Naylor 2018): instance masks at 0.25 um/px. All nuclei of ten images whose window lies inside."""
    home = there(data_dir / "nuclei" / "tnbc", "annotated nuclei")
    nuclei = pd.read_csv(home / "nuclei.csv")
    crops, areas = [], []
    for image, group in nuclei.groupby("image"):
        if image not in sorted(nuclei["image"].unique())[::5]:
            continue
        rgb = imread(home / "images" / f"{image}.jpg")
        labels = imread(home / "masks" / f"{image}.png")
        for x, y, label in zip(group["x"], group["y"], group["id"], strict=True):
            window = np.s_[int(y + 0.5) - 20 : int(y + 0.5) + 20, int(x + 0.5) - 20 : int(x + 0.5) + 20]
            if 20 <= x < 492 and 20 <= y < 492:
                crops.append(rgb[window])
                areas.append((labels[window] == label).sum() / 16)
    z = measure(np.stack(crops))
    assert len(z) > 400
    assert column(z, "found").mean() > 0.95
    assert spearmanr(column(z, "area_um2"), areas).statistic > 0.7
    assert np.median(column(z, "area_um2") / areas) == pytest.approx(1.1, abs=0.15)
