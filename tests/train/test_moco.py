import math

import numpy as np
import pytest
import torch
import train_models
from children import children
from scipy.special import log_softmax
from torch import nn
from train_models import at, randn, tiny_vit

from lemon_sc.train.dino import DINOv2
from lemon_sc.train.losses import Centre, sinkhorn
from lemon_sc.train.moco import MoCoV3, contrastive_loss


@pytest.mark.parametrize("n", [8, 64])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_closed_forms(n, temperature):
    """Both terms of the loss: collapsed 4 T ln N, orthogonal negatives 4 T ln(1 + (N - 1) exp(-1 / T))."""
    same, apart = torch.ones(n, n), torch.eye(n)
    collapsed = 2 * contrastive_loss(same, same, temperature=temperature)[0]
    assert collapsed.item() == pytest.approx(4 * temperature * math.log(n), rel=1e-5)
    floor, hits = contrastive_loss(apart, 7 * apart, temperature=temperature)
    assert 2 * floor.item() == pytest.approx(4 * temperature * math.log(1 + (n - 1) * math.exp(-1 / temperature)))
    assert hits == 1


def test_published_anchors():
    assert 2 * contrastive_loss(torch.eye(64), torch.eye(64))[0].item() == pytest.approx(0.283, abs=1e-3)
    assert 2 * contrastive_loss(torch.ones(64, 2), torch.ones(64, 2))[0].item() == pytest.approx(3.327, abs=1e-3)


def test_loss_and_gradient_by_numpy():
    q, k = randn(6, 4).requires_grad_(), randn(6, 4, seed=1).requires_grad_()
    loss, hits = contrastive_loss(q, k)
    loss.backward()
    assert k.grad is None

    def by_hand(a):
        a = a / np.linalg.norm(a, axis=1, keepdims=True)
        b = k.detach().numpy() / np.linalg.norm(k.detach().numpy(), axis=1, keepdims=True)
        return -0.4 * np.diag(log_softmax(a @ b.T / 0.2, axis=1)).mean(), (a @ b.T).argmax(1)

    at_q = q.detach().numpy().astype(float)
    expected, nearest = by_hand(at_q)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert hits.item() == pytest.approx((nearest == np.arange(6)).mean())
    for i, j in ((0, 0), (3, 2), (5, 3)):
        step = np.zeros((6, 4))
        step[i, j] = 1e-5
        slope = (by_hand(at_q + step)[0] - by_hand(at_q - step)[0]) / 2e-5
        assert q.grad[i, j].item() == pytest.approx(slope, abs=1e-5)
    with pytest.raises(ValueError, match="`temperature` must be > 0, got 0"):
        contrastive_loss(q, k, temperature=0)


def test_the_teacher_is_updated_before_its_keys_are_taken():
    """The keys of a step are those of ``m xi + (1 - m) theta``, and running statistics are the teacher's own."""
    method, views = MoCoV3(tiny_vit(), hidden=24, out=16), [randn(6, 3, 40, 40, seed=s) for s in (1, 2)]
    with torch.no_grad():
        for p in method.base_encoder.parameters():
            p.add_(0.1)
    xi, theta = (dict(m.named_parameters()) for m in (method.momentum_encoder, method.base_encoder))
    m = 1 - 0.01 * (1 + math.cos(math.pi * 0.25)) / 2
    expected = {k: m * xi[k].detach().clone() + (1 - m) * theta[k].detach() for k in xi}
    seen = {}
    method.momentum_encoder.head[0].register_forward_pre_hook(
        lambda *_: seen.update({k: v.detach().clone() for k, v in method.momentum_encoder.named_parameters()})
    )
    loss, metrics = method(views, at(25))
    loss.backward()
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value)
    assert metrics["momentum"].item() == pytest.approx(m)
    learning = {k for k, p in method.named_parameters() if p.requires_grad}
    assert {k for k, p in method.named_parameters() if p.grad is not None} == learning
    assert not any(k.startswith("momentum_encoder.") for k in learning)
    own, teachers = (e.head[1].running_mean for e in (method.base_encoder, method.momentum_encoder))
    assert not torch.allclose(own, teachers)  # each saw its own activations
    before = {k: v.clone() for k, v in method.momentum_encoder.state_dict().items()}
    method.update_teacher(0.0)
    now = method.momentum_encoder.state_dict()
    assert {k for k in now if not torch.equal(now[k], before[k])} <= set(theta)
    with pytest.raises(ValueError, match="`momentum` must be from 0 to 1, got 1.5"):
        method.update_teacher(1.5)


def test_the_loss_is_of_both_crossed_pairs():
    method, views = train_models.small_moco(), [randn(6, 3, 40, 40, seed=s) for s in (1, 2)]
    with torch.no_grad():
        q1, q2 = (method.predictor(method.base_encoder(x)) for x in views)
        k1, k2 = (method.momentum_encoder(x) for x in views)
        expected = contrastive_loss(q1, k2)[0] + contrastive_loss(q2, k1)[0]
    loss, metrics = method(views, at(0))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(metrics) == {"accuracy", "momentum", "rank", "cosine"}
    assert set(method(views, at(1))[1]) == {"accuracy", "momentum"}


def test_weights_have_the_published_layout():
    vit = tiny_vit()
    method = MoCoV3(vit, hidden=24, out=16)
    state = {k: v for k, v in method.state_dict().items() if k.startswith("base_encoder.")}
    kept = {k.removeprefix("base_encoder."): v for k, v in state.items() if not k.startswith("base_encoder.head.")}
    assert kept.keys() == vit.state_dict().keys() == method.encoder_state_dict().keys()
    assert "base_encoder.head.0.weight" in state
    assert isinstance(vit.head, nn.Identity)  # the encoder passed is left as it was
    vit.load_state_dict(method.encoder_state_dict(), strict=True)


def test_any_module_with_a_width():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    net.dim = 10
    method = MoCoV3(net, heads="resnet", hidden=24, out=16, temperature=1.0)
    assert (len(method.base_encoder.head), len(method.predictor)) == (5, 4)
    loss, _ = method([randn(6, 3, 4, 4), randn(6, 3, 4, 4, seed=1)], at())
    loss.backward()
    assert net[1].weight.grad is None
    assert method.base_encoder.trunk[1].weight.grad.abs().sum() > 0
    net.load_state_dict(method.encoder_state_dict(), strict=True)


def test_parameter_groups():
    method = MoCoV3(tiny_vit(), hidden=24, out=16)
    groups = method.parameter_groups(0.1)
    assert sorted((g["weight_decay"], g["lr_scale"], g["frozen_epochs"]) for g in groups) == [(0, 1, 0), (0.1, 1, 0)]
    names = {id(p): k for k, p in method.named_parameters()}
    plain, decayed = ({names[id(p)] for p in g["params"]} for g in sorted(groups, key=lambda g: g["weight_decay"]))
    assert {"base_encoder.cls_token", "base_encoder.norm.weight", "base_encoder.blocks.0.attn.qkv.bias"} <= plain
    assert {"base_encoder.blocks.0.attn.qkv.weight", "predictor.0.weight", "base_encoder.head.0.weight"} <= decayed
    frozen = {"base_encoder.pos_embed", "base_encoder.patch_embed.proj.weight", "base_encoder.patch_embed.proj.bias"}
    online = {k for k in names.values() if not k.startswith("momentum_encoder.")}
    assert plain | decayed == online - frozen
    assert MoCoV3(
        tiny_vit(), hidden=8, out=8, freeze_patch_embed=False
    ).base_encoder.patch_embed.proj.weight.requires_grad


def test_what_cannot_be():
    classifier = tiny_vit()
    classifier.head = nn.Linear(32, 2)
    with pytest.raises(
        ValueError, match="`encoder` must have no classifier, got 'Linear'. Build it with num_classes=0"
    ):
        MoCoV3(classifier)
    with pytest.raises(ValueError, match="`encoder` must say its width as `dim` or `num_features`, got 'Flatten'"):
        MoCoV3(nn.Flatten())
    net = nn.Flatten()
    net.dim = 3
    with pytest.raises(ValueError, match="`freeze_patch_embed` must be False or None"):
        MoCoV3(net, hidden=8, out=8, freeze_patch_embed=True)
    with pytest.raises(ValueError, match="`heads` must be one of"):
        MoCoV3(net, heads="vjt")
    method = train_models.small_moco()
    for views in ([randn(4, 3, 40, 40)], [randn(4, 3, 40, 40), randn(3, 3, 40, 40)], [randn(1, 3, 40, 40)] * 2):
        with pytest.raises(ValueError, match="`views` must be two views"):
            method(views, at())


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    other = children().Process(target=train_models.one_of_two, args=(1, tmp_path / "store", tmp_path))
    other.start()
    train_models.one_of_two(0, tmp_path / "store", tmp_path)
    other.join()
    assert other.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    loss, gradients = train_models.moco_step([randn(8, 3, 40, 40, seed=s) for s in (1, 2)])
    assert (first[0] + second[0]) / 2 == pytest.approx(loss, rel=1e-5)
    assert first[0] != pytest.approx(loss, rel=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close((first[1][name] + second[1][name]) / 2, gradient, rtol=1e-3, atol=1e-5)
    scores = randn(9, 6, seed=3)
    torch.testing.assert_close(torch.cat([first[2], second[2]]), sinkhorn(scores, 0.1))
    centre = Centre(6)
    centre(scores, 0.1)
    torch.testing.assert_close(first[3], centre.value)
    torch.testing.assert_close(second[3], centre.value)


@pytest.mark.slow
def test_the_loss_falls_below_that_of_collapse_on_nuclei():
    """ViT of width 96 and depth 4, 64 nuclei a step: below 4 T ln 64 = 3.327, the loss of collapsed features."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    crops = train_models.nuclei(512, rng)
    method = MoCoV3(tiny_vit(96, 4, 4), hidden=256, out=64).train()
    optimizer = torch.optim.AdamW(method.parameter_groups(0.1), lr=5e-4)
    losses = []
    for step in range(30):
        views = train_models.two_views(crops[rng.choice(512, 64, replace=False)], rng)
        loss, metrics = method(views, at(step, 30, 8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(at(step, 30, 8))
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 4 * 0.2 * math.log(64)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert metrics["accuracy"] > 10 / 64


def test_both_methods_are_of_one_kind():
    assert DINOv2.__mro__[1] is MoCoV3.__mro__[1]
