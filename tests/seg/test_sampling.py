"""Weights against the formula written as loops, and against what they are for."""

import numpy as np
import pytest

from lemon_sc.seg.sampling import sampling_weights


def looped(present, tissue=None, gamma=0.85):
    counts = [sum(row[k] for row in present) for k in range(len(present[0]))]
    total = sum(counts)
    w = [total / (gamma * c + (1 - gamma) * total) for c in counts]
    found = [(1 - gamma) * max(row) + gamma * sum(b * wk for b, wk in zip(row, w, strict=True)) for row in present]
    least = min(v for v in found if v > 0)
    found = [v or least for v in found]
    found = [v / max(found) for v in found]
    if tissue is not None:
        count = {t: tissue.count(t) for t in tissue}
        by = {t: len(tissue) / (gamma * c + (1 - gamma) * len(tissue)) for t, c in count.items()}
        found = [v + by[t] / max(by.values()) for v, t in zip(found, tissue, strict=True)]
    return found


def test_weights_equal_the_formula():
    rng = np.random.default_rng(0)
    present = (rng.random((40, 5)) < [0.9, 0.5, 0.2, 0.1, 0.05]).astype(int)
    present[3] = 0
    tissue = [("skin", "lung", "colon")[k] for k in rng.choice(3, 40, p=[0.7, 0.2, 0.1])]
    np.testing.assert_allclose(sampling_weights(present), looped(present.tolist()))
    np.testing.assert_allclose(sampling_weights(present, tissue=np.array(tissue)), looped(present.tolist(), tissue))


def test_rare_types_and_tissues_come_more_often_and_gamma_says_how_much():
    present = np.zeros((100, 2), bool)
    present[:, 0] = True
    present[:4, 1] = True
    weights = sampling_weights(present)
    assert weights[0] == 1
    assert weights[0] > 2 * weights[50]
    np.testing.assert_allclose(sampling_weights(present, gamma=0), 1)
    shares = [sampling_weights(present, gamma=g)[50] for g in (0.2, 0.5, 0.85, 1)]
    assert shares == sorted(shares, reverse=True)


def test_without_types_only_tissues_count():
    found = sampling_weights(np.zeros((5, 0), bool), tissue=np.array(["a", "a", "a", "a", "b"]))
    assert found[:4] == pytest.approx(found[0])
    assert found[4] > found[0]
    assert sampling_weights(np.zeros((3, 2), bool)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"present": np.zeros((0, 2))}, "at least one image"),
        ({"present": np.ones((2, 2)), "gamma": 1.5}, "`gamma` must be from 0 to 1"),
        ({"present": np.ones((2, 2)), "tissue": np.array(["a"])}, "one tissue for each of 2 images"),
    ],
)
def test_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        sampling_weights(**arguments)
