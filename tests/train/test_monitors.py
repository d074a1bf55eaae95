import numpy as np
import pytest
import torch
from train_models import randn

from lemon_sc.train.monitors import collapse_metrics, mean_cosine, rankme


def test_rank_counts_equal_directions():
    assert rankme(torch.eye(8)).item() == pytest.approx(8, rel=1e-5)
    assert rankme(torch.ones(5, 7)).item() == pytest.approx(1, rel=1e-3)
    assert rankme(torch.zeros(5, 7)).isfinite()


def test_rank_by_eigenvalues():
    z = randn(30, 6).double() * torch.tensor([5.0, 3, 2, 1, 0.5, 0.1])
    s = np.sqrt(np.linalg.eigvalsh((z.T @ z).numpy()))
    p = s / s.sum()
    assert rankme(z).item() == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_cosine_by_pairs():
    z = randn(9, 4).numpy()
    cosines = [z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]) for i in range(9) for j in range(9) if i != j]
    assert mean_cosine(torch.from_numpy(z)).item() == pytest.approx(np.mean(cosines), abs=1e-6)
    assert mean_cosine(torch.ones(5, 7)).item() == pytest.approx(1, abs=1e-6)


def test_many_rows_are_cut():
    z = torch.cat([torch.ones(1024, 3), randn(500, 3)])
    assert collapse_metrics(z)["cosine"].item() == pytest.approx(1, abs=1e-4)
