"""Colours of a slide, against a computation with scikit-image and against planted ones."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from lemon_sc.crops.color import REFERENCE_COLORS, ColorStatistics, estimate_colors, match_colors, stained
from lemon_sc.crops.stain import estimate_stains, normalize_stains
from lemon_sc.crops.stain_references import COLORS, REFERENCES


def slide(seed=0, n=20_000, glass=5_000):
    """Tissue of a range of colours, and glass."""
    r = np.random.default_rng(seed)
    tissue = np.clip(r.normal([150, 90, 150], [25, 25, 20], (n, 3)), 20, 200)
    return np.concatenate([tissue, np.full((glass, 3), 243.0)]).astype(np.uint8)


def test_statistics_are_those_of_the_tissue():
    pixels = slide()
    lab = rgb2lab(pixels[:20_000][None])[0]
    for shape in ((25_000, 3), (100, 250, 3)):
        found = estimate_colors(pixels.reshape(shape))
        np.testing.assert_allclose(found.mean, lab.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(found.std, lab.std(axis=0), rtol=1e-9)


def test_own_colours_change_nothing_and_glass_never_does():
    pixels = slide()
    own = estimate_colors(pixels)
    assert np.abs(match_colors(pixels, own, reference=own).astype(int) - pixels).max() <= 1
    shown = match_colors(pixels, own)
    assert (shown[20_000:] == 243).all()
    assert np.abs(shown[:20_000].astype(int) - pixels[:20_000]).mean() > 5


def test_a_slide_shows_the_colours_of_its_reference():
    pixels, target = slide(), ColorStatistics(mean=np.array([60.0, 20, -15]), std=np.array([7.0, 5, 5]))
    lab = rgb2lab(match_colors(pixels, estimate_colors(pixels), reference=target)[:20_000][None])[0]
    np.testing.assert_allclose(lab.mean(axis=0), target.mean, atol=0.5)
    np.testing.assert_allclose(lab.std(axis=0), target.std, rtol=0.05)


def test_colours_that_do_not_exist_are_clipped(recwarn):
    """Far yellow of a dark pixel has a negative z, of which scikit-image warns."""
    target = ColorStatistics(mean=np.array([20.0, 0, 90]), std=np.array([15.0, 5, 40]))
    assert match_colors(slide(), estimate_colors(slide()), reference=target).dtype == np.uint8
    assert not recwarn.list


def test_no_estimate_without_tissue():
    assert estimate_colors(np.full((50, 50, 3), 250, np.uint8)) is None
    assert estimate_colors(np.full((50, 50, 3), 90, np.uint8)) is None  # one colour
    assert not stained(np.full((2, 2, 3), 206, np.uint8)).any()
    assert stained(np.array([[205, 230, 230]], np.uint8)).all()


@pytest.mark.parametrize("name", REFERENCES)
def test_references_are_stains_that_slides_can_be_shown_in(name):
    """What is shown in a reference has its stains; glass stays white; no image is burnt or blackened by it."""
    from numpy.linalg import norm

    reference = REFERENCES[name]
    np.testing.assert_allclose(norm(reference.vectors, axis=0), 1, atol=1e-3)
    assert reference.vectors[0, 0] > reference.vectors[0, 1]  # haematoxylin absorbs more red
    amounts = np.random.default_rng(0).gamma(1.0, 0.25, (40_000, 2))
    own = REFERENCES["tcga" if name != "tcga" else "tnbc"]
    pixels = np.clip(np.rint(240 * np.exp(-amounts @ own.vectors.T) - 1), 0, 255).astype(np.uint8)
    shown = normalize_stains(pixels, estimate_stains(pixels), reference=reference)
    found = estimate_stains(shown)
    cosine = (found.vectors * reference.vectors).sum(axis=0) / norm(reference.vectors, axis=0)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 3
    white = np.full((4, 4, 3), 255, np.uint8)
    assert normalize_stains(white, estimate_stains(pixels), reference=reference).min() >= 240
    assert set(COLORS) == set(REFERENCES)
    assert 0 < COLORS[name].mean[0] < 100


def test_published_colours_are_in_cie_units():
    """8-bit files hold L * 255 / 100, a + 128 and b + 128."""
    np.testing.assert_allclose(REFERENCE_COLORS.mean, [61.97, 23.19, -11.19], atol=0.01)
    np.testing.assert_allclose(REFERENCE_COLORS.std, [14.47, 8.13, 6.13], atol=0.01)


def test_errors():
    with pytest.raises(ValueError, match=r"`pixels` must be uint8 \(..., 3\) in RGB, got 'float64 \(5, 3\)'"):
        estimate_colors(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="`std` must be three finite numbers >= 0.0001"):
        ColorStatistics(mean=np.zeros(3), std=np.zeros(3))
