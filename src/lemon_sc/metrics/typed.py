"""Detection and typing of nuclei: F1 over all nuclei, and of each type, where the truth may allow several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import ArrayLike, NDArray

    from lemon_sc.metrics.matching import Matches

    Array = NDArray[np.float64]

COUNTS = ("tp", "tn", "fp", "fn", "fp_detection", "fn_detection")
"""Columns of counts: of matched nuclei, then predictions and true nuclei without a match."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionScores:
    """How many nuclei are found, whatever their type. NaN where nothing could be."""

    precision: float
    """Share of the predictions that are matched."""
    recall: float
    """Share of the true nuclei that are."""
    f1: float
    """``2 tp / (2 tp + fp + fn)``."""
    tp: int
    """Matches."""
    fp: int
    """Predictions without a match."""
    fn: int
    """True nuclei without one."""


def detection(matches: Matches) -> DetectionScores:
    """Precision, recall and F1 of detection.

    Parameters
    ----------
    matches
        Of `match_centroids` or `match_nuclei`.

    Returns
    -------
    `DetectionScores`.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> found = lm.metrics.match_centroids([[0, 0], [10, 0]], [[1, 0]], radius=3)
    >>> lm.metrics.detection(found).f1
    0.6666666666666666
    """
    tp = len(matches.truth)
    fp, fn = matches.n_prediction - tp, matches.n_truth - tp
    return DetectionScores(
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        tp=tp,
        fp=fp,
        fn=fn,
    )


def typed_counts(
    matches: Matches,
    *,
    truth_types: Sequence[str | Collection[str]],
    predicted_types: Sequence[str],
    classes: Sequence[str],
) -> NDArray[np.int64]:
    """What the F1 of each type is made of, in one image; images add up.

    Where annotators did not agree, a true nucleus has several types. A matched prediction of any of them is right: it
    counts as a hit for its own type and as a miss for none. One that is not found is a miss for each of its types.

    Parameters
    ----------
    matches
        Of `match_nuclei` or `match_centroids`.
    truth_types
        One name per true nucleus, or a collection of the names that are admissible.
    predicted_types
        One name per prediction.
    classes
        Names of the K types. Other names are no type: they neither hit nor miss.

    Returns
    -------
    Int64 (K, 6), columns `COUNTS`: matched nuclei that are right, right but of another type altogether, of this type
    wrongly, missed as this type; then predictions of this type and true nuclei of it without a match.

    Raises
    ------
    ValueError
        If there is not one type per nucleus.
    """
    true = _admissible("truth_types", truth_types, matches.n_truth, classes)
    predicted = _admissible("predicted_types", predicted_types, matches.n_prediction, classes)
    if (predicted.sum(axis=1) > 1).any():
        raise bad_value("predicted_types", must="be one name per prediction", got="several for one")
    t, p = true[matches.truth], predicted[matches.prediction]
    right = (t & p).any(axis=1, keepdims=True)
    lost, invented = np.ones(len(true), dtype=np.bool_), np.ones(len(predicted), dtype=np.bool_)
    lost[matches.truth], invented[matches.prediction] = False, False
    columns = [t & p, right & ~t & ~p, p & ~t, t & ~p & ~right, predicted[invented], true[lost]]
    return np.column_stack([c.sum(axis=0) for c in columns]).astype(np.int64)


def typed_f1(counts: ArrayLike, *, true_negatives: bool = False) -> Array:
    """F1 of each type from its counts: ``2 tp / (2 (tp + fp + fn) + fp_detection + fn_detection)``.

    Of a matched nucleus a wrong type weighs twice what one that is not matched does, as HoVer-Net has it; without
    detection errors this is the Jaccard index.

    Parameters
    ----------
    counts
        (..., K, 6) of `typed_counts`, added up over the images that are scored together.
    true_negatives
        Count matched nuclei that are right about another type as hits of this one. It lifts every rare type towards 1,
        and is here to reproduce numbers that were made so.

    Returns
    -------
    Float64 (..., K); NaN for a type that is neither in the truth nor predicted.

    Raises
    ------
    ValueError
        If `counts` does not have six columns.
    """
    n = np.asarray(counts, dtype=np.float64)
    if n.ndim < 2 or n.shape[-1] != len(COUNTS):
        raise bad_value("counts", must=f"be (..., K, {len(COUNTS)}), of `typed_counts`", got=f"shape {n.shape}")
    tp, tn, fp, fn, fp_detection, fn_detection = np.moveaxis(n, -1, 0)
    hits = 2 * (tp + tn if true_negatives else tp)
    total = hits + 2 * fp + 2 * fn + fp_detection + fn_detection
    there = tp + fp + fn + fp_detection + fn_detection > 0
    return np.divide(hits, total, out=np.full(total.shape, np.nan), where=there)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _admissible(name: str, types: Sequence[str | Collection[str]], n: int, classes: Sequence[str]) -> NDArray[np.bool_]:
    """(n, K) which types each nucleus may have."""
    if len(types) != n:
        raise bad_value(name, must=f"hold one entry for each of {n} nuclei", got=len(types))
    place = {c: k for k, c in enumerate(classes)}
    table = np.zeros((n, len(classes)), dtype=np.bool_)
    for i, given in enumerate(types):
        for one in [given] if isinstance(given, str) else given:
            if one in place:
                table[i, place[one]] = True
    return table
