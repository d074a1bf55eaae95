"""Colour statistics against numpy."""

import numpy as np
import pytest

from lemon_sc.train.stats import norm_stats


@pytest.fixture
def crops():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 200, (11, 1, 1, 3))
    return (base + rng.integers(0, 56, (11, 12, 12, 3))).astype(np.uint8)


def in_batches(crops, size):
    return [crops[i : i + size] for i in range(0, len(crops), size)]


@pytest.mark.parametrize("size", [1, 4, 11])
def test_per_image_is_the_mean_over_images_also_with_a_ragged_last_batch(crops, size):
    found = norm_stats(in_batches(crops, size), kind="per_image")
    scaled = crops / 255
    np.testing.assert_allclose(found.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, scaled.std(axis=(1, 2), ddof=1).mean(axis=0), rtol=1e-12)
    assert found.n == 11


@pytest.mark.parametrize("size", [1, 4, 11])
def test_pooled_takes_all_pixels_together_and_is_larger(crops, size):
    found = norm_stats(in_batches(crops, size), kind="pooled")
    np.testing.assert_allclose(found.mean, (crops / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, (crops / 255).std(axis=(0, 1, 2), ddof=1), rtol=1e-12)
    assert (np.array(found.std) > norm_stats([crops]).std).all()


def test_what_are_no_crops_is_refused(crops):
    nan = np.full((1, 12, 12, 3), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="must be uint8, 0 to 255, got float32 .* that holds NaN"):
        norm_stats([nan])
    with pytest.raises(ValueError, match="Crops of 10 px among crops of 12 px"):
        norm_stats([crops, crops[:, :10, :10]])
    with pytest.raises(ValueError, match=r"shape \(n, S, S, 3\)"):
        norm_stats(crops)
    with pytest.raises(ValueError, match="no crops"):
        norm_stats([crops[:0]])
    with pytest.raises(ValueError, match="`kind` must be one of"):
        norm_stats([crops], kind="image")
