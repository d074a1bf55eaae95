"""The blob detector on planted nuclei."""

import numpy as np
import pytest

from lemon_sc.models.detect import APART_UM, detect_nuclei

H, E = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def planted(mpp, *, step_um=12.0, side_um=72.0, seed=0):
    """Ellipses of haematoxylin on eosin, and their centres in px."""
    rng = np.random.default_rng(seed)
    n = round(side_um / mpp)
    grid = (np.arange(step_um / 2, side_um, step_um)) / mpp
    xy = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2) + rng.uniform(-1, 1, (len(grid) ** 2, 2)) / mpp
    y, x = np.mgrid[:n, :n] + 0.5
    haematoxylin = np.full((n, n), 0.05)
    for (cx, cy), a, b, turn in zip(
        xy, rng.uniform(2.8, 4.5, len(xy)), rng.uniform(2.5, 3.5, len(xy)), rng.uniform(0, np.pi, len(xy)), strict=True
    ):
        u, v = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn), (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        haematoxylin[(u * mpp / a) ** 2 + (v * mpp / b) ** 2 < 1] = 0.6
    od = haematoxylin[..., None] * H + 0.25 * E + rng.normal(0, 0.02, (n, n, 1))
    return np.clip(256 * 10**-od - 1, 0, 255).round().astype(np.uint8), xy


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_planted_nuclei_are_found_once_each(mpp):
    pixels, xy = planted(mpp)
    found = detect_nuclei(pixels, mpp=mpp)
    distance = np.hypot(*(found[:, None] - xy[None]).transpose(2, 0, 1)) * mpp
    assert len(found) == len(xy)
    assert sorted(distance.argmin(axis=1)) == list(range(len(xy)))
    assert distance.min(axis=1).max() < 1.0
    assert distance.min(axis=1).mean() < 0.4


def test_a_turned_image_has_turned_centres():
    pixels, _ = planted(0.25)
    found = detect_nuclei(pixels, mpp=0.25)
    turned = detect_nuclei(np.ascontiguousarray(pixels[:, ::-1]), mpp=0.25)
    turned[:, 0] = pixels.shape[1] - turned[:, 0]
    assert len(found) == len(turned)
    distance = np.hypot(*(found[:, None] - turned[None]).transpose(2, 0, 1))
    assert distance.min(axis=1).max() < 1.5


def test_centres_keep_their_distance_and_empty_images_have_none():
    pixels, _ = planted(0.25, step_um=5.0)
    found = detect_nuclei(pixels, mpp=0.25)
    distance = np.hypot(*(found[:, None] - found[None]).transpose(2, 0, 1)) + 1e9 * np.eye(len(found))
    assert distance.min() * 0.25 > APART_UM
    glass = np.random.default_rng(0).normal(240, 3, (200, 200, 3)).clip(0, 255).astype(np.uint8)
    assert detect_nuclei(glass, mpp=0.25).shape == (0, 2)
    assert detect_nuclei(np.full((64, 64, 3), 255, dtype=np.uint8), mpp=0.25).shape == (0, 2)


def test_a_higher_threshold_leaves_the_clearest():
    pixels, _ = planted(0.25)
    found, strict = detect_nuclei(pixels, mpp=0.25), detect_nuclei(pixels, mpp=0.25, threshold=0.7)
    assert 0 < len(strict) < len(found)
    np.testing.assert_array_equal(strict, found[: len(strict)])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"`pixels` must be uint8 of shape \(h, w, 3\), got 'float64"):
        detect_nuclei(np.zeros((8, 8, 3)), mpp=0.25)
    with pytest.raises(ValueError, match="`mpp` must be"):
        detect_nuclei(np.zeros((8, 8, 3), dtype=np.uint8), mpp=0)
