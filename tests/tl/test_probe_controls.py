"""Leaks that are planted are caught; a buffer between blocks keeps neighbours apart."""

from __future__ import annotations

import numpy as np
import pytest
from probes import make, make_typed, stored
from scipy.ndimage import gaussian_filter

from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.analysis.probe import ridge_probe
from lemon_sc.analysis.protocol import ProbeProtocol
from lemon_sc.analysis.splits import leave_one_group_out
from lemon_sc.tl._probe import probe


def test_buffer_leaves_out_what_lies_between_blocks():
    adata = make(n=2000)
    adata.obs["type"] = np.where(np.arange(2000) % 2, "a", "b")
    plan = ProbeProtocol(buffer=30.0, n_null=1)
    probe(adata, target="type", protocol=plan, predictions="p")
    made = stored(adata)
    there = np.isfinite(adata.obsm["p"][:, 0])
    assert made["n_cells"] == there.sum()
    assert made["n_in_buffer"] == 2000 - there.sum() > 0
    assert made["protocol"]["buffer"] == 30
    assert made["n_overlapping"] == 0  # without it, crops at the borders overlap
    probe(adata, target="type", protocol=ProbeProtocol(n_null=1))
    assert (stored(adata)["n_in_buffer"], stored(adata)["n_overlapping"] > 0) == (0, True)


def test_buffer_goes_with_blocks_only():
    with pytest.raises(ValueError, match="`buffer` must be 0 unless folds are blocks of one slide"):
        probe(make(), target=["A"], groups="slide", protocol=ProbeProtocol(buffer=10))
    with pytest.raises(ValueError, match="`buffer` must be a finite number >= 0, got -1"):
        ProbeProtocol(buffer=-1)


def test_planted_duplicates_are_caught(caplog):
    """A region that was exported twice, once re-encoded: its crops lie in two slides."""
    adata = make(n=200)
    r = np.random.default_rng(0)
    crops = gaussian_filter(r.normal(130, 250, (200, 24, 24)), (0, 1.5, 1.5)).clip(0, 255)[..., None] * [1, 0.9, 1]
    slide = adata.obs["slide"].to_numpy()
    of, to = np.flatnonzero(slide == "s0")[:10], np.flatnonzero(slide == "s1")[:10]
    crops[to] = crops[of]
    crops[to[5:]] += r.normal(0, 3, crops[to[5:]].shape)
    adata.obsm["nuclei"] = crops.clip(0, 255).astype(np.uint8)
    probe(adata, target=["A"], groups="slide", protocol=ProbeProtocol(n_null=1))
    made = stored(adata)
    assert (made["n_duplicates"], made["n_near_duplicates"], made["n_crops_compared"]) == (10, 20, 200)
    assert "of 200 crops 10 are, pixel for pixel, that of a cell in another fold; 20 look the same" in caplog.text
    del adata.obsm["nuclei"]
    probe(adata, target=["A"], groups="slide", protocol=ProbeProtocol(n_null=1))
    assert np.isnan(stored(adata)["n_duplicates"])
    assert stored(adata)["n_crops_compared"] == 0


def shifted(kind):
    """What each probe predicts of held-out cells whose embedding is changed, and of a fit on nothing else."""
    adata = make_typed(n=240)
    x, folds = adata.obsm["X_lemon"].astype(float), leave_one_group_out(adata.obs["slide"])
    other = x[::-1] * 1.3 + 0.1
    options = {"rng": np.random.default_rng(0), "n_null": 0}
    if kind == "classes":
        labels = adata.obs["type"].astype(str).to_numpy(dtype=str)

        def run(a, b=None):
            return logistic_probe(a, labels, folds, held_out_ND=b, **options).probability
    else:

        def run(a, b=None):
            return ridge_probe(a, adata.X, folds, held_out_ND=b, alpha=10.0, **options).predictions

    return x, other, folds, run


@pytest.mark.parametrize("kind", ["classes", "genes"])
def test_held_out_cells_may_look_otherwise(kind):
    x, other, folds, run = shifted(kind)
    np.testing.assert_array_equal(run(x, x), run(x))
    got = run(x, other)
    for f in range(4):
        held = folds.codes == f
        mixed = np.where(held[:, None], other, x)  # the fold's model sees x, its held-out cells the other
        np.testing.assert_allclose(got[held], run(mixed)[held], rtol=1e-6, atol=1e-8)
    assert np.abs(got - run(x)).max() > 0.05
