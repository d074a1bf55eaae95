import numpy as np
import pytest
import torch
from train_models import at, randn, small_moco, tiny_vit
from train_runs import pixels

from lemon_sc.models.lemon import MEAN, STD
from lemon_sc.models.morphometry import FEATURES, measure
from lemon_sc.models.nucleus_mask import UNIT, optical_density, stains
from lemon_sc.train.guide import N_ORDERS, N_RINGS, N_TARGETS, Guide, quantiles, rings, targets
from lemon_sc.train.guided import Guided
from lemon_sc.train.moco import MoCoV3
from lemon_sc.train.policies import light
from lemon_sc.train.views import Augmentation, augment

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.fixture(scope="module")
def crops():
    return pixels(40, np.random.default_rng(0))[:, 10:50, 10:50]


def normalised(crops):
    mean, std = np.float32(MEAN), np.float32(STD)
    return torch.from_numpy((np.float32(crops) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def test_rings_pixel_by_pixel(crops):
    """Of one crop, the sums of waves over the pixels of each ring."""
    one = crops[3:4]
    expected = []
    for stain in stains(optical_density(one)):
        for ring in range(N_RINGS):
            inside = [
                (np.arctan2(y - 19.5, x - 19.5), stain[0, y, x] / UNIT)
                for y in range(40)
                for x in range(40)
                if 4 * ring <= np.hypot(x - 19.5, y - 19.5) < 4 * (ring + 1)
            ]
            for order in range(N_ORDERS):
                c, s = (np.mean([v * f(order * a) for a, v in inside]) for f in (np.cos, np.sin))
                expected.append(np.hypot(c, s))
    np.testing.assert_allclose(rings(one)[0], expected, atol=1e-5)


def test_rings_do_not_turn_and_know_two_plates(crops):
    found = rings(crops)
    for turned in (np.rot90(crops, axes=(1, 2)), crops[:, ::-1], crops.transpose(0, 2, 1, 3)):
        np.testing.assert_allclose(rings(np.ascontiguousarray(turned)), found, atol=1e-5)
    plates = np.full((1, 40, 40, 3), 230, np.uint8)
    plates[0, 10:14, 12:28] = plates[0, 26:30, 12:28] = (60, 30, 120)
    by_order = rings(plates).reshape(2, N_RINGS, N_ORDERS)[0]
    at_the_plates = by_order[2]
    assert at_the_plates[2] > 5 * at_the_plates[[1, 3]].max()


def test_quantiles_are_pixels_in_order(crops):
    found = quantiles(crops).reshape(len(crops), 7, 3)
    expected = np.percentile(crops.reshape(len(crops), -1, 3), (2, 10, 25, 50, 75, 90, 98), axis=1, method="higher")
    np.testing.assert_array_equal(found, expected.transpose(1, 0, 2))
    ramp = (np.arange(1600) * 256 // 1600).astype(np.uint8).reshape(1, 40, 40, 1).repeat(3, axis=3)
    assert quantiles(ramp).reshape(7, 3)[:, 1].tolist() == [5, 25, 64, 128, 192, 230, 250]


def test_targets_are_measured_on_the_view(crops):
    guide = Guide(8, statistics=(MEAN, STD))
    guide.fit_scales(crops[:30])
    found = guide.targets_of(normalised(crops)).numpy()
    raw = np.concatenate([measure(crops), rings(crops), quantiles(crops)], axis=1).astype(float)
    assert raw.shape == (40, N_TARGETS)
    low, high = np.percentile(raw[:30], (0.5, 99.5), axis=0)
    known = raw[:30].clip(low, high)
    spread = known.std(axis=0)
    np.testing.assert_allclose(found, (raw.clip(low, high) - known.mean(axis=0)) / (spread + 1e-6), atol=2e-3)
    constant = FEATURES.index("found")
    assert spread[constant] == 0
    assert (found[:, constant] == 0).all()


def test_loss_is_the_squared_error_of_a_linear_layer(crops):
    guide = Guide(8, statistics=(MEAN, STD))
    guide.fit_scales(crops)
    tokens, views = randn(40, 8).requires_grad_(), normalised(crops)
    loss, metrics = guide(tokens, views)
    loss.backward()
    wanted = guide.targets_of(views).numpy()
    told = tokens.detach().numpy() @ guide.head.weight.detach().numpy().T + guide.head.bias.detach().numpy()
    assert loss.item() == pytest.approx(((told - wanted) ** 2).mean(), rel=1e-4)
    share = 1 - ((told - wanted) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert metrics["explained"].item() == pytest.approx(share, rel=1e-3)
    assert tokens.grad.abs().sum() > 0


def test_an_encoder_learns_to_measure(crops):
    method, views = Guided(tiny_vit()).train(), normalised(crops)
    method.prepare(crops)
    optimizer = torch.optim.AdamW(method.parameter_groups(0.05), lr=3e-3)
    told = []
    for step in range(30):
        loss, metrics = method([views], at(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(metrics["explained"].item())
    assert told[0] < 0.1
    assert told[-1] > 0.3
    encoder = tiny_vit()
    encoder.load_state_dict(method.encoder_state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(encoder(views), method.encoder(views))
    with pytest.raises(ValueError, match="`views` must be one view"):
        method([views, views], at(0))


def test_moco_with_guidance_adds_it(crops):
    pair, measured = [normalised(crops)[k : k + 20] for k in (0, 20)], normalised(crops)[:20]
    plain = small_moco()
    guided = MoCoV3(tiny_vit(), hidden=24, out=16, guide=0.3).eval()
    guided.load_state_dict(plain.state_dict(), strict=False)
    guided.prepare(crops)
    first, metrics = plain(pair, at(1))
    both, more = guided([*pair, measured], at(1))
    assert both.item() == pytest.approx(first.item() + 0.3 * more["guide"].item(), rel=1e-5)
    assert set(more) - set(metrics) == {"guide", "explained"} == set(guided.metric_names) - set(plain.metric_names)
    with pytest.raises(ValueError, match="`views` must be two views and one to be measured"):
        guided(pair, at(1))
    with pytest.raises(ValueError, match="`guide` must be >= 0, got -1"):
        MoCoV3(tiny_vit(), guide=-1)


def test_light_views_are_pixels_of_the_crop_in_another_place():
    """Without colour jitter every view is one of 8 turned and flipped windows at 25 places; all of these occur."""
    noise = np.random.default_rng(0).integers(0, 256, (1, 60, 60, 3), dtype=np.uint8)
    recipe = Augmentation(turn=True, flip_p=0.5, shift_px=2, **PLAIN)
    many = torch.from_numpy(noise).expand(600, -1, -1, -1)
    views = augment(many, recipe, generator=torch.Generator().manual_seed(0))
    seen = {np.round(v.permute(1, 2, 0).numpy() * 255).astype(np.uint8).tobytes() for v in views}
    possible = set()
    for turns in range(4):
        turned = np.rot90(noise[0], turns)
        for y in range(8, 13):
            for x in range(8, 13):
                window = turned[y : y + 40, x : x + 40]
                possible |= {window.tobytes(), window[:, ::-1].tobytes()}
    assert len(possible) == 200
    assert seen <= possible
    assert len(seen) > 170
    assert light().jitter_p > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift_px": -1}, "`shift_px` must be an int >= 0, got -1"),
        ({"turn": True, "rotate": True}, "`turn, shift_px` must not be set together"),
        ({"shift_px": 2, "crop_scale": (0.5, 1.0)}, "`turn, shift_px` must not be set together"),
    ],
)
def test_what_views_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**changes)


def test_a_shift_needs_a_margin():
    small = torch.zeros(2, 42, 42, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="have a side of 44 px or more, so that no corner is empty"):
        augment(small, Augmentation(shift_px=2), generator=torch.Generator())


def test_targets_of_any_batch_are_finite():
    flat = np.stack([np.full((40, 40, 3), value, np.uint8) for value in (0, 128, 255)])
    assert np.isfinite(targets(flat)).all()
