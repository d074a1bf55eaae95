"""Clusters against groups: counts by hand, and groups that are there or are not."""

from itertools import combinations

import numpy as np
import pytest

import lemon_sc as lm


def planted(n_groups, *, gap, n=40, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), n)
    return rng.normal(size=(len(groups), 5)) + gap * np.eye(5)[groups % 5], groups


def test_groups_that_are_clusters_give_the_largest_values():
    made = lm.metrics.group_clustering(*planted(5, gap=20.0))
    assert made.ari == pytest.approx(1.0)
    assert made.mutual_information == pytest.approx(made.most)
    assert made.most == pytest.approx(1.609, abs=1e-3)


def test_groups_that_are_not_there_give_chance():
    made = lm.metrics.group_clustering(*planted(5, gap=0.0))
    assert abs(made.ari) < 0.05
    assert made.mutual_information < 0.15


def test_values_are_those_of_counts_by_hand():
    """Two clear clusters that the groups cut across: the contingency table is known."""
    x = np.repeat([[0.0], [100.0]], 8, axis=0) + np.linspace(0, 1, 16)[:, None]
    cluster = np.repeat([0, 1], 8)
    group = np.array([0] * 6 + [1] * 2 + [0] * 3 + [1] * 5)
    made = lm.metrics.group_clustering(x, group)
    joint = np.array([[np.sum((cluster == a) & (group == b)) for b in (0, 1)] for a in (0, 1)]) / 16
    margin = joint.sum(1)[:, None] * joint.sum(0)
    assert made.mutual_information == pytest.approx(float((joint * np.log(joint / margin)).sum()))
    pairs = list(combinations(range(16), 2))
    same_c, same_g = ([v[i] == v[j] for i, j in pairs] for v in (cluster, group))
    both, chance = np.sum(np.array(same_c) & same_g), sum(same_c) * sum(same_g) / len(pairs)
    assert made.ari == pytest.approx((both - chance) / ((sum(same_c) + sum(same_g)) / 2 - chance))


@pytest.mark.parametrize(
    ("x", "groups", "says"),
    [
        (np.zeros((4, 2)), ["a"] * 4, "at least two groups"),
        (np.zeros((4, 2)), ["a", "b"], r"got shapes \(4, 2\) and \(2,\)"),
        (np.full((4, 2), np.nan), list("abab"), "4 rows that are not"),
        (np.eye(4), ["a", "b", None, np.nan], "`groups` must name every row, got '2 missing'"),
        (np.zeros((4, 2)), list("abab"), "4 rows of `embedding`, 1 of them distinct, cannot be clustered into 2"),
        (np.eye(3), list("abc"), "cannot be clustered into 3 groups"),
    ],
)
def test_bad_input(x, groups, says):
    with pytest.raises(ValueError, match=says):
        lm.metrics.group_clustering(x, groups)
