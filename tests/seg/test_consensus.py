import numpy as np
import pytest

from lemon_sc.seg.consensus import Annotation, consensus


def marked(boxes, types, *, size=60):
    """One annotator's nuclei, as boxes x0, y0, x1, y1."""
    labels = np.zeros((size, size), int)
    for k, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        labels[y0:y1, x0:x1] = k
    xy = np.array([[(x0 + x1) / 2, (y0 + y1) / 2] for x0, y0, x1, y1 in boxes], float).reshape(-1, 2)
    return Annotation(xy=xy, types=types, labels=labels)


A, B, C, D = (0, 0, 10, 10), (20, 0, 30, 10), (0, 20, 10, 30), (40, 40, 50, 50)


def near(box, dx):
    return (box[0] + dx, box[1], box[2] + dx, box[3])


def test_planted_agreement():
    """Three people: all agree on A, two of three on the type of B, C has two opinions, D was seen by one alone."""
    made = consensus(
        [
            marked([A, B, C], ["x", "x", "x"]),
            marked([near(B, 1), near(A, 2), near(C, 2)], ["y", "x", "z"]),
            marked([D, near(A, 1), near(B, 2)], ["x", "x", "y"]),
        ]
    )
    assert made.types == (("x",), ("y",), ("x", "z"))
    assert made.xy.tolist() == [[6, 5], [26, 5], [6, 25]]
    assert made.n_annotators.tolist() == [3, 3, 2]
    assert made.members == (((0, 0), (1, 1), (2, 1)), ((0, 1), (1, 0), (2, 2)), ((0, 2), (1, 2)))
    assert (made.n_alone, made.n_repeated, len(made)) == (1, 0, 3)


def test_three_opinions_of_three_are_all_kept():
    made = consensus([marked([A], [t]) for t in "cab"])
    assert made.types == (("a", "b", "c"),)


@pytest.mark.parametrize(("dx", "n"), [(4, 1), (5, 0)])
def test_overlap_that_makes_two_masks_one(dx, n):
    """Shifted by 4 of 10 px they share 60 of 140, 0.43; by 5 px 50 of 150, 0.33."""
    assert len(consensus([marked([A], ["x"]), marked([near(A, dx)], ["x"])])) == n
    assert len(consensus([marked([A], ["x"]), marked([near(A, dx)], ["x"])], min_iou=0.3)) == 1


def test_one_who_marked_a_nucleus_twice_counts_once():
    """The third person's long mask ties both halves of the first together; the half that fits better stays."""
    left, right = (0, 0, 10, 10), (10, 0, 24, 10)
    made = consensus([marked([left, right], ["x", "y"]), marked([left], ["x"]), marked([(0, 0, 24, 10)], ["y"])])
    assert made.n_repeated == 1
    assert made.n_annotators.tolist() == [3]
    assert made.members == (((0, 0), (1, 0), (2, 0)),)
    assert made.types == (("x",),)


def test_points_without_a_mask_agree_with_nobody():
    nothing = Annotation(xy=np.array([[5.0, 5.0]]), types=["x"], labels=np.zeros((60, 60), int))
    made = consensus([marked([A], ["x"]), nothing])
    assert (len(made), made.n_alone) == (0, 2)
    assert len(consensus([marked([], []), marked([], [])])) == 0


@pytest.mark.parametrize(
    ("annotations", "options", "text"),
    [
        ([marked([A], ["x"])], {}, "`min_annotators` must be from 1 to the number of annotators, 1"),
        ([marked([A], ["x", "y"])] * 2, {}, r"`annotations\[0\]` must have one type per point"),
        ([marked([A], ["x"]), marked([A], ["x"], size=50)], {}, "the same pixels"),
        ([marked([A], ["x"])] * 2, {"min_iou": 1}, "`min_iou` must be from 0"),
    ],
)
def test_bad_input(annotations, options, text):
    with pytest.raises(ValueError, match=text):
        consensus(annotations, **options)
