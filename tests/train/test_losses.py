import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.special import log_softmax, logsumexp, softmax
from train_models import randn

from lemon_sc.train.losses import Centre, kde, koleo, masked_loss, pairs_loss, sinkhorn


def unit(n=9, d=5, seed=0):
    z = randn(n, d, seed=seed).double().numpy()
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_kde_by_numpy():
    z = unit()
    others = [logsumexp([5 * z[i] @ z[j] for j in range(9) if j != i]) - math.log(8) for i in range(9)]
    assert kde(torch.from_numpy(3 * z)).item() == pytest.approx(np.mean(others), rel=1e-5)


def test_kde_anchors_and_bounded_gradient():
    assert kde(torch.ones(6, 4)).item() == pytest.approx(5, abs=1e-5)
    assert kde(torch.eye(6)).item() == pytest.approx(0, abs=1e-6)
    assert kde(torch.tensor([[1.0, 0], [-1, 0]])).item() == pytest.approx(-5, abs=1e-5)
    duplicates = (torch.ones(6, 4) + 1e-6 * randn(6, 4)).requires_grad_()
    kde(duplicates).backward()
    assert duplicates.grad.norm(dim=1).max() <= 5
    assert kde(randn(6, 4).half()).dtype == torch.float32


def test_koleo_by_distances():
    z = unit()
    distances = squareform(pdist(z))
    np.fill_diagonal(distances, np.inf)
    expected = -np.log(distances.min(1) + 1e-8).mean()
    assert koleo(torch.from_numpy(2 * z)).item() == pytest.approx(expected, rel=1e-5)
    duplicates = torch.ones(4, 3, requires_grad=True)
    loss = koleo(duplicates)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-4)
    assert duplicates.grad.isfinite().all()


@pytest.mark.parametrize("term", [kde, koleo])
def test_gradients_spread_the_embeddings(term):
    z = (torch.ones(8, 4) + 0.2 * randn(8, 4)).requires_grad_()
    before = term(z)
    before.backward()
    assert term(z - 0.05 * z.grad / z.grad.norm()) < before
    step = 1e-2 * randn(8, 4, seed=1)
    slope = (term((z + step).detach()) - term((z - step).detach())) / 2
    assert slope.item() == pytest.approx((z.grad * step).sum().item(), rel=0.05)


def test_sinkhorn_by_numpy():
    t = randn(7, 4)
    q = np.exp(t.numpy().astype(float) / 0.3).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdims=True) * 4
        q /= q.sum(0, keepdims=True) * 7
    np.testing.assert_allclose(sinkhorn(t, 0.3).numpy(), (q * 7).T, atol=1e-6)


def test_sinkhorn_marginals_and_large_scores():
    q = sinkhorn(randn(64, 8), 0.5, iterations=200)
    torch.testing.assert_close(q.sum(1), torch.ones(64))
    torch.testing.assert_close(q.sum(0), torch.full((8,), 8.0), rtol=1e-4, atol=1e-4)
    large = sinkhorn(200 * randn(6, 3), 0.04)  # exp(200 / 0.04) is far beyond float32
    assert large.isfinite().all()
    assert sinkhorn(torch.zeros(0, 3), 0.04).shape == (0, 3)


def test_centre_acts_one_batch_later():
    centre, first, second = Centre(3), randn(5, 3), randn(5, 3, seed=1)
    np.testing.assert_allclose(centre(first, 0.04), softmax(first.numpy() / 0.04, axis=1), atol=1e-5)
    c = 0.1 * first.numpy().mean(0)
    np.testing.assert_allclose(centre(second, 0.04), softmax((second.numpy() - c) / 0.04, axis=1), atol=1e-5)
    expected = 0.9 * c + 0.1 * second.numpy().mean(0)
    np.testing.assert_allclose(centre.value[0], expected, atol=1e-6)
    centre(torch.zeros(0, 3), 0.04)
    centre.eval()(first, 0.04)
    np.testing.assert_allclose(centre.value[0], expected, atol=1e-6)


@pytest.mark.parametrize(("skip", "pairs"), [(True, 2), (False, 4)])
def test_pairs_by_loops(skip, pairs):
    targets, scores = randn(2, 3, 6).softmax(-1), randn(2, 3, 6, seed=1)
    expected = 0.0
    for i in range(2):
        for j in range(2):
            if not (skip and i == j):
                log_p = log_softmax(scores[j].numpy() / 0.1, axis=1)
                expected += np.mean([-np.dot(targets[i, s].numpy(), log_p[s]) for s in range(3)])
    loss, count = pairs_loss(targets, scores, skip_same=skip)
    assert (loss.item(), count) == (pytest.approx(expected, rel=1e-5), pairs)


def test_uniform_student_gives_ln_k():
    loss, count = pairs_loss(randn(2, 3, 64).softmax(-1), torch.zeros(2, 3, 64), skip_same=True)
    assert loss.item() / count == pytest.approx(math.log(64), rel=1e-5)


def test_masked_patches_by_loops():
    mask = torch.zeros(3, 25, dtype=torch.bool)
    mask[0, :4] = mask[2, 20] = True
    targets, scores = randn(5, 6).softmax(-1), randn(5, 6, seed=1)
    ce = -(targets.numpy() * log_softmax(scores.numpy() / 0.1, axis=1)).sum(1)
    assert masked_loss(targets, scores, mask).item() == pytest.approx((ce[:4].mean() + 0 + ce[4]) / 3, rel=1e-5)
    assert masked_loss(targets[:0], scores[:0], torch.zeros(3, 25, dtype=torch.bool)).item() == 0
