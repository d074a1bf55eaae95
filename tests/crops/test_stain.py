"""Macenko's stains against slides whose stains are known."""

import numpy as np
import pytest

from lemon_sc.crops.stain import LIGHT, REFERENCE, StainEstimate, estimate_stains, normalize_stains

TRUE = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]).T
TRUE = TRUE / np.linalg.norm(TRUE, axis=0)


def slide(vectors=TRUE, *, n=40_000, seed=0):
    """Pixels by Beer and Lambert with gamma-distributed amounts."""
    amounts = np.random.default_rng(seed).gamma(1.0, 0.6, (n, 2))
    return np.clip(np.rint(LIGHT * np.exp(-amounts @ vectors.T) - 1), 0, 255).astype(np.uint8)


def degrees(a, b):
    return np.degrees(np.arccos(np.clip(np.sum(a * b, axis=0), -1, 1)))


def test_planted_stains_are_recovered():
    found = estimate_stains(slide())
    assert degrees(found.vectors, TRUE).max() < 2
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(found.strength, 0.6 * np.log(100), rtol=0.1)  # the 99th percentile of Gamma(1, .6)


def test_the_order_of_pixels_and_their_shape_do_not_matter():
    pixels = slide(n=3600 * 10)
    found = estimate_stains(pixels)
    again = estimate_stains(np.random.default_rng(1).permutation(pixels).reshape(10, 60, 60, 3))
    np.testing.assert_allclose(again.vectors, found.vectors, atol=1e-9)


def test_own_reference_changes_nothing():
    pixels = slide(REFERENCE.vectors).reshape(200, 200, 3)
    own = estimate_stains(pixels)
    change = normalize_stains(pixels, own, reference=own).astype(int) - pixels
    assert normalize_stains(pixels, own).shape == pixels.shape
    assert np.abs(change[pixels.min(axis=-1) > 5]).max() <= 2  # a channel near black has lost how much stain there was


def test_a_slide_normalised_to_another_shows_its_stains():
    pixels = slide()
    shown = estimate_stains(normalize_stains(pixels, estimate_stains(pixels)))
    assert degrees(shown.vectors, REFERENCE.vectors / np.linalg.norm(REFERENCE.vectors, axis=0)).max() < 2
    np.testing.assert_allclose(shown.strength, REFERENCE.strength, rtol=0.05)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((50, 50, 3), 255, np.uint8),
        np.zeros((0, 3), np.uint8),
        slide(n=60),
        slide(np.repeat(TRUE[:, :1], 2, axis=1)),
        np.full((50, 50, 3), (100, 80, 120), np.uint8),
    ],
    ids=["white", "empty", "few", "one stain", "one colour"],
)
def test_no_estimate(pixels):
    assert estimate_stains(pixels) is None


def test_white_stays_white():
    white = np.full((4, 4, 3), 255, np.uint8)
    assert normalize_stains(white, estimate_stains(slide())).min() >= 245


def test_errors():
    with pytest.raises(ValueError, match=r"`pixels` must be uint8 \(..., 3\) in RGB, got 'float64 \(5, 3\)'"):
        estimate_stains(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="`vectors` must be two independent stains"):
        StainEstimate(vectors=np.ones((3, 2)), strength=np.ones(2))
    with pytest.raises(ValueError, match="`strength` must be two finite numbers > 0"):
        StainEstimate(vectors=TRUE, strength=np.array([1.0, 0.0]))
