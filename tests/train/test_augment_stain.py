"""CIELAB against scikit-image, mixtures against planted ones, and what restaining keeps."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from skimage import color

from lemon_sc.crops.stain import LIGHT, REFERENCE, normalize_stains
from lemon_sc.train.lab import lab_to_rgb, rgb_to_lab
from lemon_sc.train.policies import a1
from lemon_sc.train.stain import StainMixture, channel_statistics, lab_statistics, restain, vary_stains
from lemon_sc.train.views import Augmentation, augment, draw

MEANS = np.array([[45.0, 25.0, -20.0, 12.0, 6.0, 5.0], [70.0, 10.0, -5.0, 9.0, 4.0, 3.0]])
WEIGHTS = np.array([0.3, 0.7])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planted():
    root = np.random.default_rng(0).normal(0, 0.4, (2, 6, 6))
    return StainMixture(weights=WEIGHTS, means=MEANS, covariances=root @ root.transpose(0, 2, 1) + 0.3 * np.eye(6))


def colours(n=6, side=16):
    return torch.rand(n, 3, side, side, generator=generator(5))


def test_lab_is_that_of_scikit_image():
    images = colours()
    images[0] *= 0.03  # the linear foot of the curves
    lab = rgb_to_lab(images)
    expected = color.rgb2lab(images.double().permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(lab.permute(0, 2, 3, 1), expected, atol=2e-3)
    torch.testing.assert_close(lab_to_rgb(lab), images, atol=1e-4, rtol=0)


def test_colours_beyond_srgb_are_clipped_not_lost():
    rgb = lab_to_rgb(torch.tensor([[100.0, 127.0, -128.0], [0.0, 0.0, -60.0]])[:, :, None, None])
    assert torch.isfinite(rgb).all()
    assert rgb.min() >= 0
    assert rgb.max() <= 1


def test_statistics_of_the_centre():
    crops = torch.randint(0, 256, (3, 60, 60, 3), generator=generator(), dtype=torch.uint8)
    lab = color.rgb2lab(crops[:, 10:50, 10:50].numpy() / 255.0).reshape(3, -1, 3)
    np.testing.assert_allclose(lab_statistics(crops), np.hstack([lab.mean(1), lab.std(1)]), atol=2e-3)
    with pytest.raises(ValueError, match="`crops` must be uint8"):
        lab_statistics(crops.float())
    with pytest.raises(ValueError, match="squares of 64 px or more"):
        lab_statistics(crops, size_px=64)


def drawn(mixture, n=20_000, seed=0):
    g = generator(seed)
    return mixture.sample(torch.rand(n, generator=g), torch.randn(n, 6, generator=g)).double().numpy()


def test_draws_have_the_moments_of_the_mixture():
    mixture, n = planted(), 20_000
    values = drawn(mixture, n)
    first = values[:, 0] < 57.5  # 25 apart, with a standard deviation of about 1
    assert abs(first.mean() - 0.3) < 4 * np.sqrt(0.21 / n)
    for k, rows in enumerate((values[first], values[~first])):
        spread = np.sqrt(np.diag(mixture.covariances[k]))
        assert (np.abs(rows.mean(0) - MEANS[k]) < 4.5 * spread / np.sqrt(len(rows))).all()
        error = np.abs(np.cov(rows.T) - mixture.covariances[k]) / np.outer(spread, spread)
        assert error.max() < 5 * np.sqrt(2 / len(rows))


def test_a_fit_finds_the_planted_mixture():
    mixture = StainMixture.fit(torch.from_numpy(drawn(planted())), n_components=2)
    order = np.argsort(mixture.means[:, 0])
    np.testing.assert_allclose(mixture.weights[order], WEIGHTS, atol=0.02)
    np.testing.assert_allclose(mixture.means[order], MEANS, atol=0.1)
    np.testing.assert_allclose(mixture.covariances[order], planted().covariances, atol=0.12)


def test_one_component_is_mean_and_covariance_and_diag_drops_the_correlation():
    values = drawn(planted(), 2000)
    full, independent = (StainMixture.fit(values, n_components=1, covariance=c) for c in ("full", "diag"))
    np.testing.assert_allclose(full.means[0], values.mean(0), rtol=1e-9)
    np.testing.assert_allclose(full.covariances[0], np.cov(values.T, bias=True), atol=1e-3)
    np.testing.assert_allclose(independent.covariances[0], np.diag(values.var(0)), atol=1e-3)


def test_a_mixture_survives_as_a_dict():
    again = StainMixture(**{k: v.tolist() for k, v in asdict(planted()).items()})
    np.testing.assert_array_equal(drawn(again, 50), drawn(planted(), 50))


def test_draws_stay_within_cielab():
    wild = replace(planted(), covariances=np.stack([1e4 * np.eye(6)] * 2))
    values = drawn(wild, 2000)
    assert values[:, 0].min() == 0
    assert values[:, 0].max() == 100
    assert values[:, 1:3].min() == -128
    assert values[:, 1:3].max() == 127
    assert values[:, 3:].min() == pytest.approx(1e-4)


def test_restained_images_have_the_statistics_asked_for():
    images = 0.3 + 0.4 * colours()
    target = torch.tensor([[55.0, 12.0, -10.0, 6.0, 4.0, 3.0]]).expand(6, 6)
    torch.testing.assert_close(channel_statistics(rgb_to_lab(restain(images, target))), target, atol=0.02, rtol=0)
    same = restain(images, channel_statistics(rgb_to_lab(images)))
    torch.testing.assert_close(same, images, atol=1e-3, rtol=0)


def test_a_constant_image_takes_the_mean_and_no_nan():
    target = torch.tensor([[55.0, 12.0, -10.0, 6.0, 4.0, 3.0]])
    got = restain(torch.full((1, 3, 8, 8), 1.0), target)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(channel_statistics(rgb_to_lab(got))[:, :3], target[:, :3], atol=0.5, rtol=0)


def test_every_view_gets_a_draw_of_its_own():
    recipe = Augmentation(stain=planted(), mean=(0, 0, 0), std=(1, 1, 1))
    crops = torch.randint(100, 156, (600, 40, 40, 3), generator=generator(), dtype=torch.uint8)
    light = channel_statistics(rgb_to_lab(augment(crops, recipe, generator=generator())))[:, 0].numpy()
    assert ks_2samp(light, drawn(planted(), 600, seed=9)[:, 0]).pvalue > 0.01


def macenko_slide(amounts):
    """Images (1, 3, 20, 20) by Beer and Lambert from amounts (400, 2) of the reference stains."""
    levels = LIGHT * np.exp(-amounts @ REFERENCE.vectors.T) - 1
    return torch.from_numpy(levels / 255).float().T.reshape(1, 3, 20, 20)


def test_varied_stains_are_those_of_varied_amounts():
    amounts = np.random.default_rng(0).uniform(0.4, 1.0, (400, 2))
    vectors = torch.from_numpy(REFERENCE.vectors).float()
    got = vary_stains(macenko_slide(amounts), vectors, torch.tensor([[1.2, 0.8, 0.1, -0.1]]))
    expected = macenko_slide(amounts * [1.2, 0.8] + [0.1, -0.1])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_no_change_is_the_image_and_glass_stays_glass():
    images = colours()
    vectors = torch.from_numpy(REFERENCE.vectors).float()
    none = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(6, 4)
    torch.testing.assert_close(vary_stains(images, vectors, none), images, atol=1e-5, rtol=0)
    glass = torch.full((1, 3, 4, 4), 0.9)
    assert torch.equal(vary_stains(glass, vectors, torch.tensor([[1.2, 1.2, 0.2, 0.2]])), glass)


def test_macenko_stains_as_a_recipe():
    draws = draw(4000, a1(stain=REFERENCE), generator=generator())
    for column, middle in zip(draws.stain.numpy().T, (1, 1, 0, 0), strict=True):
        assert kstest((column - middle + 0.2) / 0.4, "uniform").pvalue > 0.01 / 4
    crops = normalize_stains(np.random.default_rng(0).integers(60, 200, (4, 40, 40, 3), dtype=np.uint8), REFERENCE)
    recipe = Augmentation(stain=REFERENCE, mean=(0, 0, 0), std=(1, 1, 1))
    change = augment(torch.from_numpy(crops), recipe, generator=generator()) * 255
    assert 1 < (change - torch.from_numpy(crops).permute(0, 3, 1, 2)).abs().mean() < 60


def test_errors():
    with pytest.raises(ValueError, match=r"`statistics` must be finite \(n, 6\)"):
        StainMixture.fit(np.zeros((100, 5)))
    with pytest.raises(ValueError, match=r"30 nuclei or more per component \(300\), got 100"):
        StainMixture.fit(np.random.default_rng(0).normal(size=(100, 6)))
    with pytest.raises(ValueError, match="`n_components` must be an int >= 1, got 0"):
        StainMixture.fit(np.zeros((100, 6)), n_components=0)
    with pytest.raises(ValueError, match="`covariance` must be one of"):
        StainMixture.fit(np.zeros((100, 6)), covariance="tied")
    with pytest.raises(ValueError, match="sum to 1"):
        replace(planted(), weights=np.array([0.3, 0.3]))
    with pytest.raises(ValueError, match=r"`means` must be \(2, 6\)"):
        replace(planted(), means=MEANS[:1])
    with pytest.raises(ValueError, match=r"`covariances` must be \(2, 6, 6\)"):
        replace(planted(), covariances=np.eye(6))
    with pytest.raises(ValueError, match="positive definite"):
        replace(planted(), covariances=-planted().covariances)
    with pytest.raises(ValueError, match="`means` must be finite"):
        replace(planted(), means=MEANS * np.nan)
