from itertools import permutations

import numpy as np
import pytest
from nucleus_fields import brute_quality, field

from lemon_sc import metrics as m
from lemon_sc.geometry.labels import overlaps


def moved(labels, shift=3):
    """Nuclei shifted right and renumbered with gaps; the last one lost, one invented."""
    out = np.zeros_like(labels)
    out[:, shift:] = labels[:, :-shift]
    out[out == labels.max()] = 0
    out = np.where(out > 0, 3 * (labels.max() - out) + 5, 0)
    out[:6, :6] = 1
    return out


def test_overlaps_are_counts_of_pixels():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 30, 30)) * 7
    got = overlaps(a, b)
    assert got.first_ids.tolist() == got.second_ids.tolist() == [7, 14, 21]
    for i, j, n, iou in zip(got.first, got.second, got.pixels, got.iou, strict=True):
        both, either = (a == 7 * (i + 1)) & (b == 7 * (j + 1)), (a == 7 * (i + 1)) | (b == 7 * (j + 1))
        assert (n, iou) == (both.sum(), both.sum() / either.sum())
    large = overlaps(a.astype(np.int64) << 30, b)  # ids too large for a table
    assert (large.first.tolist(), large.pixels.tolist()) == (got.first.tolist(), got.pixels.tolist())
    assert large.first_ids.tolist() == [7 << 30, 14 << 30, 21 << 30]


def test_panoptic_quality_is_that_of_all_pairs():
    truth = field(size=120)
    prediction = moved(truth)
    got = m.panoptic_quality(truth, prediction)
    assert (got.pq, got.dq, got.sq) == pytest.approx(brute_quality(truth, prediction), abs=1e-12)
    assert (got.tp, got.fp, got.fn) == (8, 1, 1)
    shifted = np.roll(truth, 3, axis=1)  # nothing lost or invented: both rules find the same partners
    by_centroid = m.panoptic_quality(truth, shifted, matching="centroid")
    assert by_centroid.pq == pytest.approx(brute_quality(truth, shifted)[0], abs=1e-12)


def test_closed_forms():
    truth = np.array([[1, 1, 1, 0, 2, 2, 2, 0, 3]])
    one = m.panoptic_quality(truth, np.array([[1, 1, 0, 0, 2, 2, 2, 2, 0]]))
    assert (one.dq, one.sq) == (pytest.approx(2 / 2.5), pytest.approx((2 / 3 + 3 / 4) / 2))
    half = m.panoptic_quality([[1, 1]], [[0, 1]])  # an IoU of exactly one half is no match
    assert (half.pq, half.dq, half.sq, half.fp, half.fn) == (0, 0, 0, 1, 1)


def test_nearest_centroid_need_not_be_the_one_that_overlaps():
    """Two predicted halves, one of 60 %, of a long nucleus, and a dot of a truth beside: the two rules differ."""
    truth, prediction = np.zeros((2, 9, 40), int)
    truth[3:6, 0:30] = 1
    prediction[3:6, 0:16] = 1
    prediction[1, 15] = 2  # its centroid is the nearer one
    by_iou, by_centroid = (m.match_nuclei(truth, prediction, matching=k) for k in ("iou", "centroid"))
    assert by_iou.truth.tolist() == [0]
    assert by_iou.iou.tolist() == [16 / 30]
    assert by_centroid.truth.tolist() == []
    with pytest.raises(ValueError, match="Did you mean 'iou'"):
        m.match_nuclei(truth, prediction, matching="iuo")


def test_images_without_true_nuclei():
    empty, some = np.zeros((4, 4), int), np.ones((4, 4), int)
    assert np.isnan(m.panoptic_quality(empty, empty).pq)
    assert m.panoptic_quality(empty, some).pq == 0
    assert np.isnan(m.panoptic_quality(empty, some, empty_truth="nan").pq)
    assert m.panoptic_quality(some, empty).pq == 0


def test_quality_of_a_class_is_that_of_its_nuclei_alone():
    truth = field(size=120)
    prediction = moved(truth)
    names = np.array(["a", "b", "c"])
    true, predicted = names[np.arange(9) % 3], names[np.arange(9) % 2]
    got = m.typed_panoptic_quality(
        truth, prediction, truth_types=true, predicted_types=predicted, classes=["a", "b", "c", "d"]
    )
    ids = [np.unique(image[image > 0]) for image in (truth, prediction)]
    for name, pq in zip("abc", got.pq, strict=False):
        alone = [
            np.where(np.isin(image, i[types == name]), image, 0)
            for image, i, types in zip((truth, prediction), ids, (true, predicted), strict=True)
        ]
        assert pq == pytest.approx(brute_quality(*alone)[0], abs=1e-12)
    assert np.isnan(got.pq[3])
    assert got.mean == pytest.approx(got.pq[:3].mean())


@pytest.mark.parametrize("seed", range(4))
def test_points_are_matched_as_often_and_as_closely_as_possible(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 12, (2, 5, 2))
    got = m.match_centroids(a, b, radius=4)
    ways = []
    for order in permutations(range(5)):
        d = np.linalg.norm(a - b[list(order)], axis=1)
        ways.append((-(d <= 4).sum(), d[d <= 4].sum()))
    d = np.linalg.norm(a[got.truth] - b[got.prediction], axis=1)
    assert (-len(d), d.sum()) == pytest.approx(min(ways))
    assert (got.n_truth, got.n_prediction) == (5, 5)


def test_detection_of_many_points():
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 1000, (3000, 2))
    b = np.concatenate([a[300:] + rng.normal(0, 0.01, (2700, 2)), rng.uniform(2000, 3000, (300, 2))])
    got = m.detection(m.match_centroids(a, b, radius=3))
    assert (got.tp, got.fp, got.fn) == (2700, 300, 300)
    assert got.precision == got.recall == got.f1 == pytest.approx(0.9)
    none = m.detection(m.match_centroids([], [], radius=3))
    assert np.isnan([none.precision, none.recall, none.f1]).all()


def matched(n_truth, n_prediction, pairs):
    t, p = np.array(pairs, dtype=int).reshape(-1, 2).T
    return m.Matches(truth=t, prediction=p, iou=np.ones(len(t)), n_truth=n_truth, n_prediction=n_prediction)


def test_counts_of_the_consensus_rule():
    """The rule, case by case: a hit of any admissible type is no error for the others."""
    pairs = matched(6, 6, [(0, 0), (1, 1), (2, 2), (3, 3)])
    counts = m.typed_counts(
        pairs,
        truth_types=["a", {"a", "b"}, {"a", "b"}, "b", {"b", "c"}, "a"],
        predicted_types=["a", "a", "c", "a", "b", "x"],
        classes=["a", "b", "c"],
    )
    assert counts.tolist() == [
        [2, 0, 1, 1, 0, 1],  # (0) and (1) right, (3) wrongly a, (2) missed as a, truth 5 not found
        [0, 1, 0, 2, 1, 1],  # (0) right about a; (2) and (3) missed; prediction 4 invented, truth 4 not found
        [0, 2, 1, 0, 0, 1],  # (2) wrongly c; truth 4 might have been c
    ]
    assert m.typed_f1(counts) == pytest.approx([4 / (4 + 2 + 2 + 1), 0, 0])
    assert m.typed_f1(counts, true_negatives=True)[2] == pytest.approx(4 / (4 + 2 + 1))
    assert np.array_equal(m.typed_f1(counts + counts), m.typed_f1(counts))


def test_single_labels_without_detection_errors_give_the_jaccard_index():
    """Errors of typing weigh twice as much as in an F1: 2 tp / (2 tp + 2 fp + 2 fn)."""
    from sklearn.metrics import jaccard_score

    rng = np.random.default_rng(0)
    t, p = rng.choice(list("abc"), (2, 200))
    pairs = matched(200, 200, [(i, i) for i in range(200)])
    counts = m.typed_counts(pairs, truth_types=t, predicted_types=p, classes=list("abcd"))
    assert m.typed_f1(counts)[:3] == pytest.approx(jaccard_score(t, p, average=None))
    assert np.isnan(m.typed_f1(counts)[3])


def test_true_negatives_lift_a_rare_type():
    """1,000 right pairs of the frequent type, ten of the rare one all wrong: F1 0, or nearly 1."""
    pairs = matched(1010, 1010, [(i, i) for i in range(1010)])
    counts = m.typed_counts(
        pairs, truth_types=["a"] * 1000 + ["r"] * 10, predicted_types=["a"] * 1010, classes=["a", "r"]
    )
    assert m.typed_f1(counts)[1] == 0
    assert m.typed_f1(counts, true_negatives=True)[1] > 0.98


def test_table_of_many_images():
    truths = [field(size=120, seed=k) for k in range(3)]
    predictions = [moved(t, shift=k + 1) for k, t in enumerate(truths)]
    types = [["a"] * 6 + ["b"] * 3 for _ in truths]
    table = m.segmentation(truths, predictions, truth_types=types, predicted_types=types, classes=["a", "b"])
    rows = table.set_index(["metric", "class"])
    each = np.array([brute_quality(t, p) for t, p in zip(truths, predictions, strict=True)])
    assert rows["value"][[("pq", ""), ("dq", ""), ("sq", "")]].tolist() == pytest.approx(each.mean(axis=0))
    assert rows["value"]["detection_f1", ""] == pytest.approx(24 / 27)
    assert ((table["low"] <= table["value"] + 1e-9) & (table["value"] <= table["high"] + 1e-9)).all()
    assert each[:, 0].min() <= rows["low"]["pq", ""] < rows["high"]["pq", ""] <= each[:, 0].max()
    assert rows["n"].to_dict() == {
        ("pq", ""): 27, ("dq", ""): 27, ("sq", ""): 27, ("detection_f1", ""): 27, ("f1", "a"): 18, ("f1", "b"): 9,
        ("f1", "mean"): 27, ("pq", "a"): 18, ("pq", "b"): 9, ("pq", "mean"): 27,
    }  # fmt: skip
    assert rows["value"]["f1", "mean"] == pytest.approx(rows["value"][[("f1", "a"), ("f1", "b")]].mean())
    alone = m.segmentation(truths[:1], predictions[:1], radius_px=12)
    assert alone["low"].isna().all()
    assert alone["value"].iloc[3] == pytest.approx(16 / 18)


def test_paired_bootstrap():
    """A model that is better on every image wins every draw; two that differ by a coin's toss win half of them."""
    rng = np.random.default_rng(0)
    first = rng.random(30)
    assert m.paired_bootstrap(first, first + 0.01) == 1 / 1000
    assert m.paired_bootstrap(first, first) == 1
    ps = [m.paired_bootstrap(x := rng.normal(size=60), x + rng.normal(size=60), n_draws=100, rng=k) for k in range(30)]
    assert 0.3 < np.mean(ps) < 0.7  # even, without an effect
    grouped = m.paired_bootstrap(np.zeros(40), np.r_[np.ones(38), -np.ones(2)], units=np.repeat([0, 1], [38, 2]))
    assert grouped > 0.3  # of two slides, drawing the bad one twice happens a quarter of the time


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: m.panoptic_quality(np.zeros((2, 2), int), np.zeros((2, 3), int)), "the same pixels"),
        (lambda: m.panoptic_quality(np.zeros((2, 2)), np.zeros((2, 2), int)), "label image"),
        (lambda: m.match_centroids([[0, np.nan]], [[0, 0]], radius=1), "`truth` must be"),
        (lambda: m.match_centroids([[0, 0]], [[0, 0]], radius=0), "`radius` must be"),
        (
            lambda: m.typed_counts(matched(2, 1, []), truth_types=["a"], predicted_types=["a"], classes=["a"]),
            "`truth_types` must hold one entry for each of 2",
        ),
        (lambda: m.segmentation([], []), "at least one image"),
        (
            lambda: m.segmentation([np.ones((2, 2), int)], [np.ones((2, 2), int)], truth_types=[["a"]]),
            "needed both",
        ),
        (lambda: m.paired_bootstrap([1], [2]), "`units` must be at least two"),
        (lambda: m.typed_f1(np.ones((2, 5))), "`counts` must be"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
