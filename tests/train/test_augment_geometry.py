"""Geometry of the views against torchvision, and the law of the boxes."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import InterpolationMode, RandomErasing, RandomResizedCrop
from torchvision.transforms import functional as tv

from lemon_sc.train.augment_geometry import TRIES, draw_boxes, resample
from lemon_sc.train.policies import a0, a1
from lemon_sc.train.views import Augmentation, apply, augment, draw

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, side=60):
    return torch.randint(0, 256, (n, side, side, 3), generator=generator(1), dtype=torch.uint8)


def ramp(side=60):
    """A plane, which bilinear sampling reproduces: channels x, y and x + y in px from the centre."""
    at = torch.arange(side) + 0.5 - side / 2
    x, y = at.expand(side, side), at[:, None].expand(side, side)
    return torch.stack([x, y, x + y])[None]


def test_nothing_asked_gives_the_centre():
    crops = noise(3)
    views = augment(crops, Augmentation(**PLAIN), generator=generator())
    torch.testing.assert_close(views, crops[:, 10:50, 10:50].permute(0, 3, 1, 2).float() / 255, atol=1e-5, rtol=0)


def test_normalisation_is_of_the_recipe():
    recipe = Augmentation(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    views = augment(torch.full((1, 40, 40, 3), 255, dtype=torch.uint8), recipe, generator=generator())
    np.testing.assert_allclose(views[0, :, 0, 0], [1.8, 3.2, 0.35], rtol=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 137.0, 301.0])
@pytest.mark.parametrize("flip", [False, True])
def test_one_resampling_is_the_composed_affine(degrees, flip):
    """On a plane every output pixel tells where it looked."""
    box = torch.tensor([[3.0, 8.0, 25.0, 20.0]])
    angle = torch.tensor([math.radians(degrees)])
    got = resample(ramp(), angle=angle, box=box, flip=torch.tensor([flip]), frame_px=40, out_px=40)[0].double()
    at = np.arange(40) + 0.5
    u, v = np.meshgrid(40 - at if flip else at, at)
    x = np.clip(8 + u * 20 / 40, 8.5, 27.5) - 20  # the outermost half pixel of a box is repeated
    y = np.clip(3 + v * 25 / 40, 3.5, 27.5) - 20
    turn = np.exp(-1j * np.radians(degrees))  # y points down, so counter-clockwise is negative; look back along it
    place = (x + 1j * y) / turn
    np.testing.assert_allclose(got[0], place.real, atol=2e-5)
    np.testing.assert_allclose(got[1], place.imag, atol=2e-5)


@pytest.mark.parametrize("degrees", [17.0, 90.0, 200.0])
def test_rotation_agrees_with_torchvision(degrees):
    images = noise(2).permute(0, 3, 1, 2).float() / 255
    whole = torch.tensor([[0.0, 0.0, 40.0, 40.0]]).expand(2, 4)
    angle = torch.full((2,), math.radians(degrees))
    got = resample(images, angle=angle, box=whole, flip=torch.zeros(2, dtype=torch.bool), frame_px=40, out_px=40)
    expected = tv.rotate(images, degrees, interpolation=InterpolationMode.BILINEAR)[..., 10:50, 10:50]
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


def test_no_rotation_leaves_an_empty_corner():
    """White crops stay white under every angle and box."""
    recipe = Augmentation(rotate=True, crop_scale=(0.32, 1.0), **PLAIN)
    for side in (58, 60):
        views = augment(torch.full((500, side, side, 3), 255, dtype=torch.uint8), recipe, generator=generator())
        assert views.min() > 1 - 1e-5


def test_the_margin_is_not_seen_without_rotation():
    crops = noise(50)
    other = crops.clone()
    other[:, :10], other[:, 50:], other[:, :, :10], other[:, :, 50:] = 0, 0, 0, 0
    views = [augment(c, a0(), generator=generator(4)) for c in (crops, other)]
    assert torch.equal(*views)


@pytest.mark.parametrize("out_px", [40, 24])
def test_box_and_flip_agree_with_torchvision(out_px):
    crops = noise(40)
    recipe = Augmentation(crop_scale=(0.08, 0.3), flip_p=0.5, out_px=out_px, **PLAIN)
    draws = draw(40, recipe, generator=generator(3))
    got = apply(crops, recipe, draws)
    assert 5 < int(draws.flip.sum()) < 35
    frames = crops[:, 10:50, 10:50].permute(0, 3, 1, 2).float() / 255
    for i, frame in enumerate(frames):
        box = [int(v) for v in draws.box[i]]
        expected = tv.resized_crop(frame, *box, [out_px, out_px], antialias=False)
        expected = tv.hflip(expected) if draws.flip[i] else expected
        torch.testing.assert_close(got[i], expected, atol=1e-4, rtol=0)


def torchvision_boxes(law, n):
    torch.manual_seed(0)
    frame = torch.zeros(3, 40, 40)
    return np.array([law(frame)[:4] for _ in range(n)], dtype=float)


def same_law(ours, theirs):
    """No column of top, left, height, width, area or ratio tells the two apart (1 % level over six tests)."""
    wide = [np.column_stack([b, b[:, 2] * b[:, 3], b[:, 3] / b[:, 2]]) for b in (np.asarray(ours, float), theirs)]
    return min(ks_2samp(x, y).pvalue for x, y in zip(wide[0].T, wide[1].T, strict=True)) > 0.01 / 6


@pytest.mark.parametrize("recipe", [a0(), a1()], ids=["a0", "a1"])
def test_boxes_follow_random_resized_crop(recipe):
    scale, ratio = list(recipe.crop_scale), list(recipe.crop_ratio)
    theirs = torchvision_boxes(lambda f: RandomResizedCrop.get_params(f, scale, ratio), 4000)
    assert same_law(draw(4000, recipe, generator=generator()).box, theirs)
    other = a1() if recipe.crop_scale == (0.08, 1.0) else a0()
    assert not same_law(draw(4000, other, generator=generator()).box, theirs), "the test tells the recipes apart"


def test_the_first_attempt_that_fits_is_taken_and_none_falls_back_to_the_whole():
    """Ratio 1.3 with the whole area is too wide; area 1/4 with ratio 1 is a box of 20."""
    areas, ratios = torch.full((2, TRIES), 1.0), torch.full((2, TRIES), 1.0)
    areas[0, 3], ratios[0, 3] = (0.25 - 0.08) / 0.92, 0.5
    places = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    law = {"side": 40, "largest": 40, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
    boxes, found = draw_boxes((areas, ratios, places), **law)
    assert boxes.tolist() == [[0, 20, 20, 20], [0, 0, 0, 0]]
    assert found.tolist() == [True, False]
    recipe = Augmentation(crop_scale=(0.99, 1.0), crop_ratio=(0.2, 5.0))
    boxes = draw(3000, recipe, generator=generator()).box
    whole = (boxes == torch.tensor([0.0, 0.0, 40.0, 40.0])).all(1).double().mean()
    expected = np.mean(
        torchvision_boxes(lambda f: RandomResizedCrop.get_params(f, [0.99, 1.0], [0.2, 5.0]), 3000)[:, 2] == 40
    )
    assert abs(whole - expected) < 4 * math.sqrt(2 * 0.25 / 3000)


def test_rectangles_follow_random_erasing():
    draws = draw(14000, a1(), generator=generator())
    boxes = draws.erased[draws.erased[:, 2] > 0].numpy()
    assert abs(len(boxes) / 14000 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 14000)
    theirs = torchvision_boxes(lambda f: RandomErasing.get_params(f, (0.1, 0.3), (0.8, 1.2), [0.0]), len(boxes))
    assert same_law(boxes, theirs)
    assert not same_law(boxes[:, [0, 1, 3, 2]], theirs), "the ratio is height over width"
    assert (boxes[:, :2] + boxes[:, 2:] <= 40).all()


def test_angles_are_uniform():
    angle = draw(5000, a1(), generator=generator()).angle.numpy() / (2 * np.pi)
    assert kstest(angle, "uniform").pvalue > 0.01
    assert not draw(5, a0(), generator=generator()).angle.any()
