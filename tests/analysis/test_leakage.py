from __future__ import annotations

import numpy as np
import pytest

from lemon_sc.analysis.leakage import group_identity, overlapping_windows, shared_rows


def rng():
    return np.random.default_rng(0)


def test_identity_is_read_where_it_is_planted_and_at_chance_elsewhere():
    r = rng()
    group = r.choice(4, 3000, p=[0.7, 0.1, 0.1, 0.1])
    noise = r.standard_normal((3000, 6))
    blind = group_identity(noise, group, rng=rng())
    assert blind.chance == 0.25
    assert blind.balanced_accuracy == pytest.approx(0.25, abs=0.05)
    assert group_identity(noise + 8 * np.eye(4, 6)[group], group, rng=rng()).balanced_accuracy > 0.99


def test_groups_of_one_cell_have_no_identity():
    assert np.isnan(group_identity(np.ones((3, 2)), np.array([0, 0, 1]), rng=rng()).balanced_accuracy)


def test_shared_rows_are_those_with_a_twin_on_the_other_side():
    x = rng().standard_normal((8, 5)).astype(np.float32)
    x[4] = x[0]  # across
    x[1] = x[2]  # within one side
    x[5] = np.nextafter(x[3], 1)  # near is not the same
    side = np.repeat([0, 1], 4)
    assert np.flatnonzero(shared_rows(x, side)).tolist() == [0, 4]
    assert not shared_rows(x, np.zeros(8, dtype=int)).any()


def test_overlap_equals_a_comparison_of_all_pairs():
    r = rng()
    xy = r.uniform(0, 300, (400, 2))
    slide, apart, side = r.integers(2, size=400), r.integers(3, size=400), np.array([12.0, 20.0])
    near = (np.abs(xy[:, None] - xy[None]) < side).all(axis=2)
    expected = (near & (slide[:, None] == slide) & (apart[:, None] != apart)).any(axis=1)
    got = overlapping_windows(xy, slide, apart, side=side)
    assert 0 < expected.sum() < 400
    assert (got == expected).all()


def test_windows_that_touch_do_not_overlap():
    xy = np.array([[0.0, 0], [10, 0], [15, 0]])
    got = overlapping_windows(xy, np.zeros(3, dtype=int), np.arange(3), side=np.array([10.0, 10]))
    assert got.tolist() == [False, True, True]


def test_labels_of_any_kind_name_groups():
    r = rng()
    group = r.choice(3, 600)
    x = r.standard_normal((600, 3)) + np.eye(3)[group]
    by_code = group_identity(x, group)
    assert group_identity(x, np.array(["a", "b", "c"], dtype=object)[group]) == by_code
    assert by_code.balanced_accuracy > 0.5


def test_errors_of_identity():
    with pytest.raises(
        ValueError, match=r"`x_ND` must be \(N, D\) and `groups` \(N,\), got shapes \(3, 2\) and \(2,\)"
    ):
        group_identity(np.ones((3, 2)), [0, 1])
    with pytest.raises(ValueError, match="`x_ND` must be finite, got '3 rows that are not'"):
        group_identity(np.full((3, 2), np.nan), [0, 1, 1])
