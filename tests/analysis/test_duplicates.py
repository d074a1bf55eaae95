from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift
from skimage.transform import resize_local_mean

from lemon_sc.analysis.duplicates import duplicate_crops, small_pictures


def pictures(n=60, size=40, seed=0):
    """Smooth pictures, each of its own."""
    r = np.random.default_rng(seed)
    field = gaussian_filter(r.standard_normal((n, size, size)), (0, 4, 4))
    field = 60 * field / field.std(axis=(1, 2), keepdims=True) + 130
    return np.clip(field[..., None] * [1.0, 0.8, 1.1], 0, 255).astype(np.uint8)


def test_small_pictures_equal_a_resize_by_area():
    crops = pictures(5, size=41)
    grey = crops @ [0.299, 0.587, 0.114]
    expected = np.stack([resize_local_mean(g, (12, 12)).ravel() for g in grey])
    expected -= expected.mean(axis=1, keepdims=True)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(small_pictures(crops), expected, atol=1e-5)


def test_planted_twins_are_found_across_the_split_and_nowhere_else():
    crops = pictures()
    side = np.repeat([0, 1, 2], 20)
    crops[25] = crops[3]  # the same pixels, across
    crops[8] = crops[9]  # the same pixels, on one side
    crops[50] = np.clip(0.8 * crops[30].astype(float) + 20, 0, 255).astype(np.uint8)  # another exposure, across
    moved = shift(crops[12].astype(float), (0.5, 0.5, 0), order=1, mode="nearest")
    crops[45] = (moved + np.random.default_rng(1).normal(0, 4, moved.shape)).clip(0, 255).astype(np.uint8)
    found = duplicate_crops(crops, side)
    assert np.flatnonzero(found.exact).tolist() == [3, 25]
    assert np.flatnonzero(found.near).tolist() == [3, 12, 25, 30, 45, 50]
    assert found.twin[[3, 25, 30, 50, 12, 45]].tolist() == [25, 3, 50, 30, 45, 12]
    assert found.similarity[3] == pytest.approx(1, abs=1e-5)
    assert found.similarity[np.setdiff1d(np.arange(60), np.flatnonzero(found.near))].max() < 0.95


def test_one_side_has_no_twins():
    crops = pictures(6)
    crops[1] = crops[0]
    found = duplicate_crops(crops, np.zeros(6, dtype=int))
    assert not found.exact.any()
    assert not found.near.any()
    assert (found.twin == -1).all()
    assert np.isnan(found.similarity).all()


def test_blank_crops_are_no_twins_unless_their_pixels_are_equal():
    crops = pictures(4)
    crops[0], crops[2] = 240, 241
    found = duplicate_crops(crops, np.array([0, 0, 1, 1]))
    assert not found.near.any()
    crops[2] = 240
    assert duplicate_crops(crops, np.array([0, 0, 1, 1])).exact.tolist() == [True, False, True, False]


def test_errors():
    with pytest.raises(
        ValueError, match=r"`crops` must be uint8 \(N, S, S, 3\) with S >= 12, got 'uint8 \(2, 8, 8, 3\)'"
    ):
        duplicate_crops(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2))
    with pytest.raises(ValueError, match="`apart` must have one entry for each of the 3 crops"):
        duplicate_crops(pictures(3), np.arange(2))
    with pytest.raises(ValueError, match="`alike` must lie above 0"):
        duplicate_crops(pictures(3), np.arange(3), alike=0)
