"""Views against torchvision: sample by sample given the draws, and in distribution against its chain of transforms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from lemon_sc.crops.stain import REFERENCE
from lemon_sc.models.lemon import MEAN, STD
from lemon_sc.train import augment_color as color
from lemon_sc.train.policies import a0, a1
from lemon_sc.train.stain import StainMixture
from lemon_sc.train.views import Augmentation, apply, augment, draw

OPERATIONS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
MIXTURE = StainMixture(
    weights=np.ones(1),
    means=np.array([[55.0, 20.0, -15.0, 10.0, 6.0, 5.0]]),
    covariances=np.diag([36.0] + [4.0] * 5)[None],
)
RECIPES = {
    "a0": a0(),
    "a1": a1(),
    "a1+gray": a1(gray_p=0.2),
    "a1+gmm": a1(stain=MIXTURE),
    "macenko": a1(stain=REFERENCE),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def nuclei(n, *, seed=1):
    """Dark discs of purple on pink of many tints, with noise: uint8 (n, 60, 60, 3)."""
    rng = np.random.default_rng(seed)
    at = np.arange(60) + 0.5 - 30
    centre, radius = rng.uniform(-3, 3, (2, n, 1, 1)), rng.uniform(7, 14, (n, 1, 1))
    distance = np.hypot(at - centre[0], at[:, None] - centre[1])
    inside = (1 / (1 + np.exp(np.clip(distance - radius, -30, 30))))[..., None]
    dark, light = [v + rng.normal(0, 12, (n, 1, 1, 3)) for v in ([90, 50, 130], [215, 160, 200])]
    pixels = inside * dark + (1 - inside) * light + rng.normal(0, 10, (n, 60, 60, 3))
    return torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8))


def colours(n=32, side=20):
    return torch.rand(n, 3, side, side, generator=generator(2))


def test_jitter_is_torchvision_s_in_the_order_drawn():
    images, draws = colours(64), draw(64, a1(), generator=generator(7))
    got = color.jitter(images.clone(), draws.factors, draws.order)
    for i, image in enumerate(images):
        for operation in draws.order[i].tolist():
            image = OPERATIONS[operation](image, float(draws.factors[i, operation]))
        torch.testing.assert_close(got[i], image, atol=2e-3, rtol=0)  # theirs weighs red by .2989


def test_jitter_of_nothing_is_the_image():
    images = colours()
    neutral = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).expand(len(images), 4)
    order = draw(len(images), a1(), generator=generator()).order
    assert torch.equal(color.jitter(images.clone(), neutral, order), images)


@pytest.mark.parametrize("turns", [-0.5, -0.13, 0.02, 0.31])
def test_hue_agrees_with_torchvision(turns):
    images = colours(8)
    images[0] = images[0, :1]  # gray has no hue
    got = color.shift_hue(images, torch.full((8,), turns))
    torch.testing.assert_close(got, tv.adjust_hue(images, turns), atol=1e-5, rtol=0)


def test_a_third_of_a_turn_moves_red_to_green():
    red = torch.tensor([0.8, 0.1, 0.1])[None, :, None, None]
    np.testing.assert_allclose(color.shift_hue(red, torch.tensor([1 / 3])).ravel(), [0.1, 0.8, 0.1], atol=1e-6)


def test_gray_weights():
    primaries = torch.eye(3)[:, :, None, None]
    np.testing.assert_allclose(color.gray(primaries).ravel(), [0.299, 0.587, 0.114], rtol=1e-6)


def test_blur_agrees_with_torchvision_at_every_sigma():
    images, sigma = colours(12, side=40), torch.linspace(0.1, 2.0, 12)
    got = color.blur(images, sigma)
    for i, image in enumerate(images):
        torch.testing.assert_close(got[i], tv.gaussian_blur(image, [13, 13], float(sigma[i])), atol=2e-5, rtol=0)


def test_erasing_fills_the_box_and_nothing_else():
    images = colours(2)
    got = color.erase(images, torch.tensor([[3.0, 5.0, 4.0, 6.0], [0.0, 0.0, 0.0, 0.0]]), torch.tensor([0.1, 0.2, 0.3]))
    expected = images.clone()
    expected[0, :, 3:7, 5:11] = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert torch.equal(got, expected)


@pytest.mark.parametrize(("value", "expected"), [("black", -np.array(MEAN) / np.array(STD)), ("mean", np.zeros(3))])
def test_erased_pixels_after_normalisation(value, expected):
    recipe = Augmentation(erase_p=1.0, erase_value=value)
    draws = draw(1, recipe, generator=generator())
    top, left, height, width = (int(v) for v in draws.erased[0])
    patch = apply(nuclei(1), recipe, draws)[0, :, top : top + height, left : left + width]
    np.testing.assert_allclose(patch, np.broadcast_to(expected[:, None, None], patch.shape), atol=1e-5)
    if value == "black":
        np.testing.assert_allclose(expected, [-3.11, -2.31, -3.98], atol=0.005)


def chain_with(frame, draws, i, *, erase):
    """One sample through torchvision's functions, with what was drawn for it."""
    frame = tv.resized_crop(frame, *[int(v) for v in draws.box[i]], [40, 40], antialias=False)
    frame = tv.hflip(frame) if draws.flip[i] else frame
    if (draws.factors[i] != torch.tensor([1.0, 1.0, 1.0, 0.0])).any():
        for operation in draws.order[i].tolist():
            frame = OPERATIONS[operation](frame, float(draws.factors[i, operation]))
    frame = tv.rgb_to_grayscale(frame, 3) if draws.gray[i] else frame
    frame = tv.gaussian_blur(frame, [13, 13], float(draws.sigma[i])) if draws.sigma[i] > 0 else frame
    frame = tv.erase(frame, *[int(v) for v in draws.erased[i]], torch.zeros(3, 1, 1)) if erase else frame
    return tv.normalize(frame, MEAN, STD)


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("recipe", [a0(), replace(a1(gray_p=0.2), rotate=False)], ids=["a0", "a1 unrotated"])
def test_every_sample_equals_torchvision_s_chain(recipe, view):
    crops = nuclei(80)
    draws = draw(80, recipe, generator=generator(11), view=view)
    got = apply(crops, recipe, draws)
    frames = crops[:, 10:50, 10:50].permute(0, 3, 1, 2).float() / 255
    for i, frame in enumerate(frames):
        expected = chain_with(frame, draws, i, erase=bool(draws.erased[i].any()))
        torch.testing.assert_close(got[i], expected, atol=0.01, rtol=0)  # 0.01 is 0.4 levels of 255


def torchvision_chain(recipe, view):
    steps = [transforms.CenterCrop(40)]
    if recipe.rotate:
        steps.insert(0, transforms.RandomRotation(180, interpolation=InterpolationMode.BILINEAR))
    steps += [
        transforms.RandomResizedCrop(40, recipe.crop_scale, recipe.crop_ratio, antialias=False),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(*recipe.jitter)], recipe.jitter_p),
        transforms.RandomGrayscale(recipe.gray_p),
        transforms.RandomApply([transforms.GaussianBlur(13, recipe.blur_sigma)], recipe.blur_p[view]),
        transforms.RandomErasing(recipe.erase_p, recipe.erase_scale, recipe.erase_ratio),
        transforms.Normalize(recipe.mean, recipe.std),
    ]
    return transforms.Compose(steps)


def summaries(views):
    """Numbers per view that between them feel every step: (n, 9)."""
    pixels = views * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    mean, std = pixels.mean((2, 3)), pixels.std((2, 3))
    colourful = (pixels.amax(1) - pixels.amin(1)).mean((1, 2))
    middle = pixels[:, 1, 10:30, 10:30].mean((1, 2)) - mean[:, 1]
    sides = pixels[:, 1, :, :20].mean((1, 2)) - pixels[:, 1, :, 20:].mean((1, 2))
    return torch.column_stack([mean, std, colourful, middle, sides]).numpy()


@pytest.mark.parametrize("name", ["a0", "a1+gray"])
def test_views_are_distributed_as_torchvision_s(name):
    """No summary tells 800 views of either apart; each is drawn from nuclei of its own."""
    recipe, view = RECIPES[name], 1
    ours = summaries(augment(nuclei(800, seed=3), recipe, generator=generator(), view=view))
    torch.manual_seed(0)
    chain = torchvision_chain(recipe, view)
    images = nuclei(800, seed=4).permute(0, 3, 1, 2).float() / 255
    theirs = summaries(torch.stack([chain(image) for image in images]))
    pvalues = [ks_2samp(x, y).pvalue for x, y in zip(ours.T, theirs.T, strict=True)]
    assert min(pvalues) > 0.01 / len(pvalues)
    weaker = replace(recipe, jitter=(0.2, 0.2, 0.1, 0.05))
    other = summaries(augment(nuclei(800, seed=3), weaker, generator=generator(), view=view))
    assert min(ks_2samp(x, y).pvalue for x, y in zip(other.T, theirs.T, strict=True)) < 1e-6, "the test has power"


def rate(happened, p):
    n = len(happened)
    return abs(happened.double().mean() - p) <= 4 * math.sqrt(p * (1 - p) / n)


def test_how_often_and_how_much():
    n = 8000
    draws = draw(n, a1(gray_p=0.2), generator=generator())
    jittered = (draws.factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(1)
    assert rate(jittered, 0.8)
    assert rate(draws.gray, 0.2)
    assert rate(draws.flip, 0.5)
    assert rate(draws.sigma > 0, 0.1)
    for column, strength, middle in zip(
        draws.factors[jittered].numpy().T, (0.6, 0.7, 0.5, 0.2), (1, 1, 1, 0), strict=True
    ):
        assert kstest((column - middle + strength) / (2 * strength), "uniform").pvalue > 0.01 / 4
    sigma = draws.sigma[draws.sigma > 0].numpy()
    assert kstest((sigma - 0.1) / 1.9, "uniform").pvalue > 0.01
    assert not (draws.gray & ~draw(n, a1(gray_p=0.3), generator=generator()).gray).any(), "steps are drawn alike"


def test_a0_blurs_every_first_view_and_a_tenth_of_the_others():
    for view, p in ((0, 1.0), (1, 0.1), (5, 0.1)):
        assert rate(draw(4000, a0(), generator=generator(), view=view).sigma > 0, p)


def test_strong_jitter_never_turns_factors_negative():
    draws = draw(3000, Augmentation(jitter_p=1.0, jitter=(1.5, 0.0, 0.0, 0.0)), generator=generator())
    assert kstest(draws.factors[:, 0].numpy() / 2.5, "uniform").pvalue > 0.01
    assert draws.factors[:, 0].min() >= 0


def test_the_24_orders_are_equally_frequent():
    order = draw(12_000, a1(), generator=generator()).order
    assert (order.sort(1).values == torch.arange(4)).all()
    counts = np.unique(order.numpy() @ [64, 16, 4, 1], return_counts=True)[1]
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 0.01


def test_steps_are_independent():
    draws = draw(20_000, a1(gray_p=0.2), generator=generator())
    what = torch.stack([draws.flip, draws.gray, draws.sigma > 0, draws.erased[:, 2] > 0]).double()
    what = torch.cat([what, draws.angle[None], draws.box.T[:3], draws.factors.T]).numpy()
    correlation = np.corrcoef(what) - np.eye(len(what))
    correlation[8:, 8:] = 0  # factors are all neutral together
    correlation[4:8, 4:8] = 0  # a box that is large begins early
    assert np.abs(correlation).max() < 4.5 / math.sqrt(20_000)


@pytest.mark.parametrize("name", RECIPES)
def test_a_sample_depends_on_itself_alone(name):
    recipe, crops = RECIPES[name], nuclei(24)
    draws = draw(24, recipe, generator=generator(5))
    together = apply(crops, recipe, draws)
    assert together.shape == (24, 3, 40, 40)
    assert together.dtype == torch.float32
    assert torch.isfinite(together).all()
    for rows in (slice(0, 1), slice(5, 9), torch.tensor([20, 3])):
        torch.testing.assert_close(apply(crops[rows], recipe, draws[rows]), together[rows], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_state_gives_the_same_views(name):
    crops = nuclei(8)
    before = crops.clone()
    source = generator(1)
    one, two = (augment(crops, RECIPES[name], generator=source) for _ in range(2))
    assert torch.equal(augment(crops, RECIPES[name], generator=generator(1)), one)
    assert not torch.equal(one, two)
    assert torch.equal(crops, before)


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    augment(nuclei(2), a1(), generator=generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("name", RECIPES)
def test_flat_crops_give_finite_views(name, level):
    crops = torch.full((16, 60, 60, 3), level, dtype=torch.uint8)
    assert torch.isfinite(augment(crops, RECIPES[name], generator=generator())).all()


def test_no_crops_give_no_views():
    for recipe in RECIPES.values():
        views = augment(torch.zeros(0, 60, 60, 3, dtype=torch.uint8), recipe, generator=generator())
        assert views.shape == (0, 3, 40, 40)


def test_small_views():
    recipe = replace(a1(), out_px=24, crop_scale=(0.05, 0.32))
    assert augment(nuclei(4), recipe, generator=generator()).shape == (4, 3, 24, 24)


@pytest.mark.gpu
def test_devices_agree():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    crops = nuclei(64)
    for recipe in RECIPES.values():
        here, there = (augment(crops.to(d), recipe, generator=generator()) for d in ("cpu", "cuda"))
        assert (here - there.cpu()).abs().quantile(0.999) < 1e-2
        own = torch.Generator(device="cuda").manual_seed(0)
        assert torch.isfinite(augment(crops.cuda(), recipe, generator=own)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip_p": 1.5}, "`flip_p` must be a probability, got 1.5"),
        ({"blur_p": ()}, "`blur_p` must hold a probability per view"),
        ({"jitter": (0.1, 0.1, 0.1, 0.6)}, "hue <= 0.5"),
        ({"crop_scale": (0.5, 0.2)}, r"`crop_scale` must be \(low, high\) with 0 < low <= high <= 1"),
        ({"erase_ratio": (0.0, 1.0)}, "`erase_ratio` must be"),
        ({"crop_ratio": (1.2, 2.0)}, "`crop_ratio` must include 1"),
        ({"erase_value": "white"}, "`erase_value` must be one of"),
        ({"out_px": 6}, "`out_px` must be an int >= 7, got 6"),
        ({"std": (1.0, 0.0, 1.0)}, "`mean, std` must be three numbers each"),
    ],
)
def test_recipes_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**change)


def test_crops_that_cannot_be():
    with pytest.raises(ValueError, match=r"`crops` must be uint8 \(n, S, S, 3\), RGB, got 'torch.float32"):
        augment(torch.zeros(2, 60, 60, 3), a1(), generator=generator())
    with pytest.raises(
        ValueError, match="side of 57 px or more, so that no corner is empty after a rotation or a shift, got 40"
    ):
        augment(torch.zeros(2, 40, 40, 3, dtype=torch.uint8), a1(), generator=generator())
    with pytest.raises(ValueError, match="more by an even number, around the frame, got 59"):
        augment(torch.zeros(2, 59, 59, 3, dtype=torch.uint8), a1(), generator=generator())
    with pytest.raises(ValueError, match=r"`draws` must hold one draw per crop \(2\), got 3"):
        apply(nuclei(2), a1(), draw(3, a1(), generator=generator()))
    with pytest.raises(ValueError, match="`n, view` must be >= 0"):
        draw(3, a1(), generator=generator(), view=-1)
