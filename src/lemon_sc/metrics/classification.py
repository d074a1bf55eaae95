"""Scores of a classifier from its probabilities, where not every class need be present."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from lemon_sc._core.errors import bad_value, one_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

METRICS = ("auc", "aupr", "balanced_accuracy", "f1_macro", "f1_weighted")
"""The five numbers, in the order in which they are reported."""


@dataclass(frozen=True, kw_only=True)
class ClassificationScores:
    """Scores over all classes, and of each class against the rest. K classes."""

    auc: float
    """Area under the ROC curve, one class against the rest, mean over the classes that have one; or of `pos_label`."""
    aupr: float
    """Average precision, likewise. Chance is the share of the class, not one half."""
    balanced_accuracy: float
    """Mean recall over the classes present in the truth."""
    f1_macro: float
    """Mean F1 over the classes present in the truth."""
    f1_weighted: float
    """The same, weighted by the number of cells."""
    n: NDArray[np.intp]
    """(K,) cells of each class in the truth."""
    class_auc: NDArray[np.float64]
    """(K,) NaN where all cells, or none, are of the class."""
    class_aupr: NDArray[np.float64]
    """(K,) NaN likewise."""
    class_recall: NDArray[np.float64]
    """(K,) NaN for a class that is not in the truth."""
    class_f1: NDArray[np.float64]
    """(K,) NaN likewise."""

    @property
    def n_missing(self) -> int:
        """Classes that are not in the truth, and so in no mean."""
        return int((self.n == 0).sum())


def classification(
    truth: ArrayLike, probability: ArrayLike, *, classes: Sequence[str], pos_label: str | None = None
) -> ClassificationScores:
    """Scores of predicted class probabilities.

    A class that is not in `truth` has no recall and no curve; it is left out of the means and counted in ``n_missing``
    instead of entering as 0.

    Parameters
    ----------
    truth
        (N,) names of the true classes.
    probability
        (N, K), columns in the order of `classes`. The predicted class is that of the largest value.
    classes
        Names of the K classes.
    pos_label
        Class whose ROC and precision-recall curves are reported; ``None`` takes the mean over classes. With a rare and
        a frequent class the areas under their precision-recall curves have little in common.

    Returns
    -------
    `ClassificationScores`.

    Raises
    ------
    ValueError
        If shapes do not fit, there is no cell, the truth holds another name, or `pos_label` is no class.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> made = lm.metrics.classification(["a", "b", "b"], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], classes=["a", "b"])
    >>> made.balanced_accuracy, made.auc
    (0.75, 1.0)
    """
    names, score = [str(c) for c in classes], np.asarray(probability, dtype=np.float64)
    code = _codes(truth, names, score)
    positive = None if pos_label is None else names.index(one_of("pos_label", str(pos_label), names))
    labels = np.arange(len(names))
    n = np.bincount(code, minlength=len(names))
    _, recall, f1, _ = precision_recall_fscore_support(code, score.argmax(axis=1), labels=labels, zero_division=0)
    present = n > 0
    recall, f1 = np.where(present, recall, np.nan), np.where(present, f1, np.nan)
    is_class = code[:, None] == labels
    curves = np.flatnonzero(present & (n < len(code)))  # both the class and the rest are there
    auc, aupr = np.full(len(names), np.nan), np.full(len(names), np.nan)
    for k in curves:
        auc[k] = roc_auc_score(is_class[:, k], score[:, k])
        aupr[k] = average_precision_score(is_class[:, k], score[:, k])
    return ClassificationScores(
        auc=_mean(auc) if positive is None else float(auc[positive]),
        aupr=_mean(aupr) if positive is None else float(aupr[positive]),
        balanced_accuracy=_mean(recall),
        f1_macro=_mean(f1),
        f1_weighted=float(np.average(f1[present], weights=n[present])),
        n=n,
        class_auc=auc,
        class_aupr=aupr,
        class_recall=recall,
        class_f1=f1,
    )


def _codes(truth: ArrayLike, names: list[str], score: NDArray[np.float64]) -> NDArray[np.intp]:
    """(N,) place of each true class in `names`."""
    truth = np.asarray(truth).astype(str)
    if len(set(names)) < len(names) or len(names) < 2:
        raise bad_value("classes", must="name at least two classes, each once", got=names)
    if truth.ndim != 1 or not len(truth) or score.shape != (len(truth), len(names)):
        msg = (
            f"`truth` must be (N,) with N >= 1 and `probability` (N, K) with K = {len(names)} classes, "
            f"got shapes {truth.shape} and {score.shape}."
        )
        raise ValueError(msg)
    place = {name: k for k, name in enumerate(names)}
    if unknown := sorted(set(truth.tolist()) - set(names)):
        raise bad_value("truth", must=f"hold only the classes {names[:12]}", got=unknown[:12])
    return np.array([place[name] for name in truth.tolist()], dtype=np.intp)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the numbers that are there; NaN if none is."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")
