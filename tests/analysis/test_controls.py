from __future__ import annotations

import numpy as np
import pytest

from lemon_sc.analysis.controls import label_shuffled
from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.analysis.splits import leave_one_group_out
from lemon_sc.metrics.classification import METRICS


def test_shuffled_labels_are_at_chance_where_the_true_ones_are_found():
    r = np.random.default_rng(0)
    slide = np.repeat(np.arange(4), 150)
    labels = r.choice(["a", "b", "c"], 600)
    x = np.eye(3)[np.searchsorted(["a", "b", "c"], labels)] @ r.standard_normal((3, 8)) + 0.3 * r.standard_normal(
        (600, 8)
    )
    folds = leave_one_group_out(slide)
    found = logistic_probe(x, labels, folds, rng=r, n_null=0).metrics.mean(axis=0)
    control = label_shuffled(x, labels, folds, rng=np.random.default_rng(0), n_shuffles=3)
    assert control.shape == (3, len(METRICS))
    scores = dict(zip(METRICS, control.mean(axis=0), strict=True))
    assert found[METRICS.index("balanced_accuracy")] > 0.9
    assert scores["balanced_accuracy"] == pytest.approx(1 / 3, abs=0.06)
    assert scores["auc"] == pytest.approx(0.5, abs=0.05)
    assert len(np.unique(control[:, 0])) == 3
