"""Scores of a classifier under many weightings of the same cells: every cell once, or as often as it was drawn.

Letters of array names: N cells, K classes, B weightings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.metrics.means import nanmean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightedScores:
    """Scores of each class against the rest, (B, K); NaN where the class, or for curves the rest, has no weight."""

    n: Array
    """Weight of the class."""
    auc: Array
    """Area under the ROC curve."""
    aupr: Array
    """Average precision."""
    recall: Array
    """Of the class with the largest score."""
    f1: Array
    """Likewise; 0 where nothing was found."""

    def averaged(self, positive: int | None) -> Array:
        """The five numbers of `metrics.classification.METRICS`.

        Parameters
        ----------
        positive
            Place of the class whose curves are reported; ``None`` takes the mean over those that have one.

        Returns
        -------
        (B, 5).
        """
        curves = [nanmean(x, axis=1) if positive is None else x[:, positive] for x in (self.auc, self.aupr)]
        by_weight = np.nansum(self.f1 * self.n, axis=1) / self.n.sum(axis=1)
        return np.stack([*curves, nanmean(self.recall, axis=1), nanmean(self.f1, axis=1), by_weight], axis=1)


def weighted_scores(code_N: NDArray[np.intp], score_NK: Array, weight_BN: Array) -> WeightedScores:
    """Recall, F1 and areas under curves of each class, sorted once for all weightings.

    They are those of scikit-learn with ``sample_weight``, which takes one weighting at a time.

    Parameters
    ----------
    code_N
        (N,) true class of each cell, 0 .. K - 1.
    score_NK
        What the class is predicted from; the first of the largest is the predicted one.
    weight_BN
        Weights >= 0, not all 0.

    Returns
    -------
    `WeightedScores`.
    """
    k = score_NK.shape[1]
    pair = np.eye(k * k)[code_N * k + score_NK.argmax(axis=1)]
    confusion = (weight_BN @ pair).reshape(-1, k, k)
    n, found, hit = confusion.sum(axis=2), confusion.sum(axis=1), confusion.diagonal(axis1=1, axis2=2)
    curves = [_curves(code_N == c, score_NK[:, c], weight_BN) for c in range(k)]
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = hit / n
        f1 = np.where(n > 0, 2 * hit / (n + found), np.nan)
    auc, aupr = (np.stack(areas, axis=1) for areas in zip(*curves, strict=True))
    return WeightedScores(n=n, auc=auc, aupr=aupr, recall=recall, f1=f1)


def _curves(is_class_N: NDArray[np.bool_], score_N: Array, weight_BN: Array) -> tuple[Array, Array]:
    """(B,) areas under the ROC and the precision-recall curve; cells of one score are one step of each.

    Both are sums over the steps in which cells of the class are found, which are few where classes are many.
    """
    if not is_class_N.any():
        return np.full(len(weight_BN), np.nan), np.full(len(weight_BN), np.nan)
    order = np.argsort(-score_N, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score_N[order]) != 0))
    ends = np.append(starts[1:], len(order))
    inside = np.flatnonzero(is_class_N[order])
    step, first = np.unique(np.searchsorted(starts, inside, side="right") - 1, return_index=True)
    above = np.zeros((len(weight_BN), len(order) + 1))
    np.cumsum(weight_BN[:, order], axis=1, out=above[:, 1:])
    before, after = above[:, starts[step]], above[:, ends[step]]
    new_hits = np.add.reduceat(weight_BN[:, order[inside]], first, axis=1)
    hits = np.cumsum(new_hits, axis=1)
    n_hits = hits[:, -1]
    n_misses = above[:, -1] - n_hits
    misses_below = n_misses[:, None] - (before - hits + new_hits + after - hits) / 2  # those of the step by half
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = (new_hits * misses_below).sum(axis=1) / (n_hits * n_misses)
        aupr = (new_hits * np.where(after > 0, hits / after, 0)).sum(axis=1) / n_hits
    return auc, np.where(n_misses > 0, aupr, np.nan)
