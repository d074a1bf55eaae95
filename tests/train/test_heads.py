import numpy as np
import pytest
import torch
from torch import nn
from train_models import randn

from lemon_sc.train.heads import DINOHead, WeightNormLinear, moco_mlp


def normed(x, eps=1e-5):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + eps)


def test_projector_by_hand():
    head = moco_mlp((6, 8, 8, 4))
    assert [type(m).__name__ for m in head] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d",
    ]  # fmt: skip
    x = randn(10, 6)
    a = x.numpy()
    for i in (0, 3, 6):
        a = normed(a @ head[i].weight.detach().numpy().T)
        a = np.maximum(a, 0) if i < 6 else a
    np.testing.assert_allclose(head(x).detach().numpy(), a, atol=1e-5)
    assert not any(isinstance(m, nn.Linear) and m.bias is not None for m in head)
    assert [m.affine for m in head if isinstance(m, nn.BatchNorm1d)] == [True, True, False]


def test_heads_of_the_paper_have_its_parameters():
    assert sum(p.numel() for p in moco_mlp((384, 4096, 4096, 256)).parameters()) == (
        384 * 4096 + 4096 * 4096 + 4096 * 256 + 4 * 4096
    )
    resnet = moco_mlp((256, 4096, 256), last_norm=False)
    assert isinstance(resnet[-1], nn.Linear)
    with pytest.raises(ValueError, match="`widths` must name an input and an output"):
        moco_mlp((3,))


def test_initial_weights_are_torchs_law_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    weight = moco_mlp((400, 300)).get_parameter("0.weight").detach()
    assert weight.abs().max() <= 0.05
    assert weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.01)  # uniform
    head = DINOHead(400, 50, hidden=300, bottleneck=40)
    linears = [m for m in head.mlp if isinstance(m, nn.Linear)]
    assert all(m.bias.abs().max() == 0 for m in linears)
    assert linears[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert torch.equal(before, torch.get_rng_state())
    again = DINOHead(400, 50, hidden=300, bottleneck=40)
    other = DINOHead(400, 50, hidden=300, bottleneck=40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(head(randn(2, 400)), again(randn(2, 400)))
    assert not torch.equal(head(randn(2, 400)), other(randn(2, 400)))


def test_scores_of_a_new_dino_head_are_cosines():
    head = DINOHead(12, 7, hidden=16, bottleneck=5)
    x = randn(9, 12)
    z = head.mlp(x).detach().numpy().astype(float)
    v = head.last_layer.direction.detach().numpy().astype(float)
    cosines = z @ v.T / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(v, axis=1)
    np.testing.assert_allclose(head(x).detach().numpy(), cosines, atol=1e-5)


def test_weight_norm_is_torchs():
    own = WeightNormLinear(5, 3)
    theirs = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3, bias=False))
    with torch.no_grad():
        own.length.copy_(torch.tensor([0.5, 1.0, 2.0]))
        theirs.parametrizations.weight.original0.copy_(own.length[:, None])
        theirs.parametrizations.weight.original1.copy_(own.direction)
    x = randn(4, 5)
    torch.testing.assert_close(own(x), theirs(x))
    own(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(own.direction.grad, theirs.parametrizations.weight.original1.grad)
