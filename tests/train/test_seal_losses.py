"""Losses and networks of SEAL against loops, autograd, and values at random."""

import math

import numpy as np
import pytest
import torch

from lemon_sc.models.expression_network import ExpressionNetwork, PlanarFlow
from lemon_sc.train.seal_losses import contrast, correlations, reconstruction


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cross_entropy(score, own, left_out):
    kept = [j for j in range(len(score)) if j == own or not left_out[j]]
    return -score[own] + np.log(sum(np.exp(score[j]) for j in kept))


def test_contrast_leaves_out_units_that_touch():
    a, b = randn(6, 4), randn(6, 4, seed=1)
    apart = torch.rand(6, 6, generator=torch.Generator().manual_seed(2)) < 0.3
    apart = apart | apart.T | torch.eye(6, dtype=torch.bool)
    x, y = (v.numpy() / np.linalg.norm(v.numpy(), axis=1, keepdims=True) for v in (a, b))
    score = x @ y.T / 0.05
    rows = np.mean([cross_entropy(score[i], i, apart[i]) for i in range(6)])
    columns = np.mean([cross_entropy(score[:, i], i, apart[i]) for i in range(6)])
    made = contrast(a, b, apart_BB=apart, temperature=0.05)
    assert float(made) == pytest.approx((rows + columns) / 2)
    assert float(contrast(a * 7, b, apart_BB=apart, temperature=0.05)) == pytest.approx(float(made))
    assert made < contrast(a, b, apart_BB=torch.eye(6, dtype=torch.bool), temperature=0.05)
    alone = torch.ones(6, 6, dtype=torch.bool)
    assert float(contrast(a, b, apart_BB=alone, temperature=0.05)) == pytest.approx(0, abs=1e-12)


def test_contrast_at_random():
    same = torch.ones(384, 3)
    made = contrast(same, same, apart_BB=torch.zeros(384, 384, dtype=torch.bool), temperature=0.05)
    assert float(made) == pytest.approx(5.951, abs=1e-3), "ln 384"


def test_correlations_are_numpys_and_know_what_is_missing():
    x, y = randn(9, 5), randn(9, 5, seed=1)
    known = torch.rand(9, 5, generator=torch.Generator().manual_seed(3)) < 0.7
    known[:, 4] = False
    x[:, 2], y[:, 3] = 0.25, 1.0
    r, varies = correlations(x, y, known)
    assert varies.tolist() == [True, True, False, True, False]
    for g in range(2):
        at = known[:, g].numpy()
        assert float(r[g]) == pytest.approx(np.corrcoef(x[at, g], y[at, g])[0, 1])
    assert r[2:].tolist() == [0, 0, 0]


def test_reconstruction_is_the_published_sum():
    x, y = randn(8, 6), randn(8, 6, seed=1).requires_grad_()
    x[:, 1], x[:, 5] = 0.7, -0.3  # genes that are constant in the batch do not count
    known = torch.ones(8, 6, dtype=torch.bool)
    at = [0, 2, 3, 4]
    r = np.array([np.corrcoef(x[:, g], y[:, g].detach())[0, 1] for g in at])
    squares = ((x - y)[:, at] ** 2).mean().item()
    made = {kind: reconstruction(x, y, known_BP=known, kind=kind) for kind in ("seal", "mse", "huber", "pearson")}
    assert made["mse"].item() == pytest.approx(squares)
    assert made["pearson"].item() == pytest.approx((1 - r).mean())
    assert made["seal"].item() == pytest.approx(0.1 * (0.05 * ((1 - r) ** 2).sum() + 5 * squares))
    error = (x - y)[:, at].abs()
    assert made["huber"].item() == pytest.approx(torch.where(error < 1, error**2 / 2, error - 0.5).mean().item())
    made["seal"].backward()
    assert y.grad is not None
    assert torch.isfinite(y.grad).all()
    assert (y.grad[:, [1, 5]] == 0).all()
    assert reconstruction(x, x.clone(), known_BP=known).item() == pytest.approx(0)
    assert reconstruction(x, y, known_BP=~known).item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_flows_have_an_inverse_and_their_determinant(seed):
    flow = PlanarFlow(5, generator=torch.Generator().manual_seed(seed)).double()
    flow.u.data = -40 * flow.w.data * (1 + seed)  # far beyond what has an inverse
    assert float((flow.w @ flow.u).detach()) < -1
    assert float((flow.w @ flow.allowed_u()).detach()) >= -1
    z = randn(7, 5, seed=seed)
    moved, log_det = flow(z)
    for one, made in zip(z, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], one)
        sign, size = torch.linalg.slogdet(jacobian)
        assert sign > 0, "it never folds"
        assert made.item() == pytest.approx(size.item(), abs=1e-9)
    assert not torch.equal(moved, z)


def network(**changes):
    made = ExpressionNetwork(12, 6, hidden=(10, 8), n_flows=3, generator=torch.Generator().manual_seed(0), **changes)
    return made.double()


def test_latent_vectors_are_drawn_in_training_and_fixed_in_evaluation():
    made, x = network(), randn(9, 12)
    first, second = made.encode(x), made.encode(x)
    assert not torch.equal(first.z, second.z)
    made.eval()
    first, second = made.encode(x), made.encode(x)
    assert torch.equal(first.z, second.z)
    torch.testing.assert_close(made.encode(x[:2]).z, first.z[:2])  # nor does it depend on the batch
    h = made.body(x)
    z = made.mu(h)
    for flow in made.flows:
        z = flow(z)[0]
    assert torch.equal(first.z, z), "mu, then the flows"
    assert (made.decode(first.z) >= 0).all()
    assert made.decode(first.z).shape == (9, 12)


def test_the_divergence_is_that_of_two_normals():
    made = ExpressionNetwork(12, 6, hidden=(10,), n_flows=0, generator=torch.Generator().manual_seed(0)).double()
    x = randn(4, 12).repeat(20_000, 1)
    torch.manual_seed(0)
    excess = made.encode(x).excess.detach()
    h = made.body(x)
    mu, log_var = made.mu(h)[:4].detach(), made.log_var(h)[:4].detach()
    expected = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(dim=1)
    assert float(excess.mean()) == pytest.approx(float(expected.mean()), rel=0.03)
    assert math.isfinite(network().encode(randn(5, 12)).excess.sum().item())
