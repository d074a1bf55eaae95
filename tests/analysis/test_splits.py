from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lemon_sc.analysis.splits import leave_one_group_out, spatial_blocks, stratified


def test_groups_are_sorted_by_name_whatever_the_order_of_cells():
    folds = leave_one_group_out(["s10", "s2", "s10", "a", "s2", "a", "a", "s2", "s10"])
    assert folds.names == ("a", "s10", "s2")
    assert folds.codes.tolist() == [1, 2, 1, 0, 2, 0, 0, 2, 1]
    assert folds.sizes.tolist() == [3, 3, 3]


@pytest.mark.parametrize("labels", [["a"] * 9, []])
def test_one_group_is_an_error_that_names_the_way_out(labels):
    with pytest.raises(ValueError, match=r"at least two groups.*spatial blocks"):
        leave_one_group_out(labels)


def test_an_identifier_is_not_a_group():
    with pytest.raises(ValueError, match="50 groups for 100 cells: is this column an identifier"):
        leave_one_group_out(np.arange(100) // 2)


def test_blocks_are_whole_balanced_and_follow_the_cells():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 1000, (4000, 2)) * [2, 1] + [50, -300]
    folds = spatial_blocks(xy, rng=np.random.default_rng(3))
    assert folds.sizes.min() > 0.6 * 800
    cell = np.floor((xy - xy.min(axis=0)) / folds.block_side).astype(int)
    for block in np.unique(cell, axis=0):
        assert len(set(folds.codes[(cell == block).all(axis=1)])) == 1  # a block is never cut
    assert folds.block_side == pytest.approx(np.sqrt(np.ptp(xy, axis=0).prod() / 25))
    order = rng.permutation(len(xy))
    assert (spatial_blocks(xy[order], rng=np.random.default_rng(3)).codes == folds.codes[order]).all()
    assert (spatial_blocks(xy, rng=np.random.default_rng(4)).codes != folds.codes).any()


def test_neighbours_seldom_part_where_random_folds_part_four_in_five():
    xy = np.random.default_rng(1).uniform(0, 1, (4000, 2))
    neighbour = cKDTree(xy).query(xy, k=2)[1][:, 1]
    codes = spatial_blocks(xy, rng=np.random.default_rng(0)).codes
    assert (codes != codes[neighbour]).mean() < 0.1
    random = np.random.default_rng(2).integers(5, size=4000)
    assert (random != random[neighbour]).mean() > 0.7


def test_a_line_of_cells_is_cut_along_its_length():
    xy = np.column_stack([np.arange(100.0), np.zeros(100)])
    assert spatial_blocks(xy, rng=np.random.default_rng(0)).sizes.tolist() == [20] * 5


@pytest.mark.parametrize(
    ("xy", "n_folds", "match"),
    [
        (np.zeros((10, 2)), 5, "different places"),
        (np.zeros((0, 2)), 5, "different places"),
        (np.array([[0.0, 0], [9, 9], [0, 0]]), 5, "5 folds need at least 5 blocks with cells, the coordinates fill 2"),
        (np.ones((10, 2)), 1, "`n_folds` must be an int >= 2"),
    ],
)
def test_coordinates_that_make_no_folds(xy, n_folds, match):
    with pytest.raises(ValueError, match=match):
        spatial_blocks(xy, rng=np.random.default_rng(0), n_folds=n_folds)


def test_slides_of_one_patient_never_learn_from_each_other():
    folds = leave_one_group_out(["s1", "s2", "s3", "s4"] * 3, ["p2", "p1", "p2", "p3"] * 3)
    assert [folds.training(f).tolist() for f in range(4)] == [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2]]
    alone = leave_one_group_out(["s1", "s2", "s3"] * 3)
    assert alone.training(1).tolist() == [0, 2]


def test_patients_that_contradict_the_slides_are_an_error():
    with pytest.raises(ValueError, match=r"1 groups hold cells of more than one patient: \['b'\]"):
        leave_one_group_out(["a", "b"] * 3, ["p", "q", "p", "q", "p", "p"])
    with pytest.raises(ValueError, match=r"`patient_key` must name a column with at least two patients, got \['p'\]"):
        leave_one_group_out(["a", "b"] * 3, ["p"] * 6)


def test_stratified_folds_hold_the_same_share_of_each_class():
    label = np.random.default_rng(0).permutation(["a"] * 50 + ["b"] * 100 + ["rare"] * 2)
    folds = stratified(label, rng=np.random.default_rng(0))
    assert [(folds.codes[label == "a"] == f).sum() for f in range(5)] == [10] * 5
    assert [(folds.codes[label == "b"] == f).sum() for f in range(5)] == [20] * 5
    assert (stratified(label, rng=np.random.default_rng(0)).codes == folds.codes).all()
    assert (stratified(label, rng=np.random.default_rng(1)).codes != folds.codes).any()
    with pytest.raises(ValueError, match="need a class of at least 5 cells, the largest has 4"):
        stratified(np.array(["a"] * 4 + ["b"] * 3), rng=np.random.default_rng(0))


@pytest.mark.parametrize("buffer", [20.0, 60.0, 110.0])
def test_no_cells_of_different_folds_are_nearer_than_the_buffer(buffer):
    """On a field with a hole and ragged edges, where blocks are empty."""
    r = np.random.default_rng(0)
    xy = r.uniform(0, 1000, (4000, 2))
    xy = xy[(np.hypot(*(xy - 420).T) > 260) & (xy.sum(axis=1) < 1700)]
    folds = spatial_blocks(xy, rng=np.random.default_rng(1), buffer=buffer)
    plain = spatial_blocks(xy, rng=np.random.default_rng(1))
    kept = folds.codes >= 0
    assert (folds.codes[kept] == plain.codes[kept]).all()
    assert folds.sizes.sum() == kept.sum()
    at, code = xy[kept], folds.codes[kept]
    distance = np.linalg.norm(at[:, None] - at, axis=-1)
    nearest = distance[code[:, None] != code].min()
    assert buffer <= nearest < buffer + 15
    assert 0 < (~kept).mean() < 0.85


def test_buffer_that_leaves_nothing():
    xy = np.random.default_rng(0).uniform(0, 100, (500, 2))
    with pytest.raises(ValueError, match="folds without cells. Choose a smaller `buffer`"):
        spatial_blocks(xy, rng=np.random.default_rng(0), buffer=45)
    with pytest.raises(ValueError, match="`buffer` must be a finite number >= 0, got -1"):
        spatial_blocks(xy, rng=np.random.default_rng(0), buffer=-1)
