"""Recall and median rank on ranks that are known."""

import numpy as np
import pytest

from lemon_sc.metrics.retrieval import median_rank, recall_at


def test_by_hand():
    np.testing.assert_allclose(recall_at(np.array([1, 3, 5, 6, 51])), [0.2, 0.6, 0.8, 0.8])
    assert median_rank(np.array([1, 3, 5, 6, 51])) == 5
    assert np.isnan(recall_at(np.array([], int))).all()
    assert np.isnan(median_rank(np.array([], int)))


def test_chance_is_k_over_n():
    rank = np.random.default_rng(0).integers(1, 1001, 20_000)
    np.testing.assert_allclose(recall_at(rank, (10, 100, 500)), [0.01, 0.1, 0.5], atol=0.012)
    assert abs(median_rank(rank) - 500.5) < 15


def test_ranks_start_at_one():
    with pytest.raises(ValueError, match="must hold ranks from 1 on"):
        recall_at(np.array([0, 1]))
    for rank in ([0, 1], [2.0, np.nan]):
        with pytest.raises(ValueError, match="must hold ranks from 1 on, got (0|nan)"):
            median_rank(rank)
    with pytest.raises(ValueError, match="`rank` must have one rank for each query"):
        recall_at(3)
    with pytest.raises(ValueError, match="`ks` must hold ints >= 1"):
        recall_at(np.array([1]), (0,))
