"""Baselines, and what encoders are known by."""

import numpy as np
import pytest
import torch

import lemon_sc as lm
from lemon_sc.bench import encoders


def crops(n=7):
    return np.random.default_rng(0).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)


def mean_colour(images):
    return images.mean(axis=(1, 2)).astype(np.float32)


def card(name="mine", **fields):
    return lm.models.ModelCard(name=name, **{"dim": 3, **fields})


def test_histograms_are_those_of_numpy():
    images = crops()
    for row, image in zip(encoders.histograms(images), images, strict=True):
        truth = [np.histogram(image[..., k], bins=16, range=(0, 256))[0] / 1600 for k in range(3)]
        np.testing.assert_allclose(row, np.concatenate(truth), atol=1e-6)


def test_pixels_are_means_of_two_by_two():
    images = crops(2).astype(float)
    truth = (images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(encoders.pixels(crops(2)), truth.reshape(2, -1), rtol=1e-6)


def test_the_untrained_network_is_the_same_each_time_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = encoders.untrained(), encoders.untrained()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))
    assert encoders.identity(first) == encoders.identity(second)


def test_names_paths_objects_and_pairs(tmp_path):
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    found = encoders.resolve(["histogram", "morphometry", (mean_colour, card("a")), (module, card("b"))])
    assert list(found) == ["histogram", "morphometry", "a", "b"]
    assert list(encoders.resolve("pixel_pca")) == ["pixel_pca"]
    with pytest.raises(ValueError, match="`encoders` must name at least one"):
        encoders.resolve([])
    with pytest.raises(ValueError, match="Did you mean 'morphometry'"):
        encoders.resolve(["morphometri"])


def test_equal_names_of_different_encoders_stay_apart_and_one_is_not_measured_twice():
    wide = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    again = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    assert list(encoders.resolve([(wide, card()), (again, card()), (wide, card())])) == ["mine", "mine-2"]
    assert list(encoders.resolve(["morphometry", "morphometry"])) == ["morphometry"]


def test_the_defaults_are_the_baselines_and_what_has_weights():
    names = encoders.default_encoders()
    assert names[:3] == ["histogram", "pixel_pca", "random_vit_s8"]
    assert "morphometry" in names
    assert "uni" not in names


def test_identity_follows_weights_and_card_and_not_names_of_functions():
    def own(images):
        return mean_colour(images)

    assert encoders.identity(lm.models.as_encoder(own, card())) is None
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    plain = encoders.identity(lm.models.as_encoder(module, card()))
    assert plain != encoders.identity(lm.models.as_encoder(module, card(mean=(0.5, 0.5, 0.5))))
    with torch.no_grad():
        module[2].weight[0, 0] += 1e-3
    assert plain != encoders.identity(lm.models.as_encoder(module, card()))
