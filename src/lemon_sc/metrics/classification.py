"""Scores of a classifier from its probabilities, where not every class need be present."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc.metrics.uncertainty import Interval, check_draws, percentile_interval, rows_of_units
from lemon_sc.metrics.weighted import weighted_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

METRICS = ("auc", "aupr", "balanced_accuracy", "f1_macro", "f1_weighted")
"""The five numbers, in the order in which they are reported."""

_AT_ONCE = 50  # draws, each a row of as many numbers as there are cells


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
        If shapes do not fit, there is no cell, values are not finite, the truth holds another name, or `pos_label` is
        no class.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> made = lm.metrics.classification(["a", "b", "b"], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], classes=["a", "b"])
    >>> made.balanced_accuracy, made.auc
    (0.75, 1.0)
    """
    code, score, positive = _checked(truth, probability, classes, pos_label)
    made = weighted_scores(code, score, np.ones((1, len(code))))
    return ClassificationScores(
        **dict(zip(METRICS, made.averaged(positive)[0].tolist(), strict=True)),
        n=made.n[0].astype(np.intp),
        class_auc=made.auc[0],
        class_aupr=made.aupr[0],
        class_recall=made.recall[0],
        class_f1=made.f1[0],
    )


def classification_intervals(
    truth: ArrayLike,
    probability: ArrayLike,
    *,
    classes: Sequence[str],
    units: ArrayLike | None = None,
    pos_label: str | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    rng: RNG = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of all scores of `classification`, from the same draws.

    Units are drawn with replacement, each with all of its cells, as by `bootstrap`, in a fraction of its time: cells
    are sorted by their probability once.

    Parameters
    ----------
    truth, probability, classes, pos_label
        As for `classification`; of cells that the classifier has not seen.
    units
        (N,) what each cell belongs to and what is drawn: its slide or patient. ``None`` draws cells, which is right
        only where they are independent.
    n_draws, level, rng
        As for `bootstrap`.

    Returns
    -------
    `Interval` by name of the score: ``auc``, ``aupr``, ``balanced_accuracy``, ``f1_macro``, ``f1_weighted``.

    Raises
    ------
    ValueError
        As by `classification` and `bootstrap`.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> truth, p = ["a", "b", "b", "a"] * 9, [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.8, 0.2]] * 9
    >>> made = lm.metrics.classification_intervals(truth, p, classes=["a", "b"])["balanced_accuracy"]
    >>> made.value, made.low < made.value < made.high
    (0.75, True)
    """
    code, score, positive = _checked(truth, probability, classes, pos_label)
    rows_of = rows_of_units(units, len(code))
    check_draws(n_draws, level)
    unit, draw = np.empty(len(code), dtype=np.intp), as_generator(rng)
    for u, rows in enumerate(rows_of):
        unit[rows] = u
    value = weighted_scores(code, score, np.ones((1, len(code)))).averaged(positive)[0]
    draws = []
    for first in range(0, n_draws, _AT_ONCE):
        size = min(_AT_ONCE, n_draws - first)
        times = draw.multinomial(len(rows_of), np.full(len(rows_of), 1 / len(rows_of)), size=size)
        draws.append(weighted_scores(code, score, times[:, unit].astype(np.float64)).averaged(positive))
    made = np.concatenate(draws)
    return {
        name: percentile_interval(float(value[m]), made[:, m], level=level, n_units=len(rows_of))
        for m, name in enumerate(METRICS)
    }


def _checked(
    truth: ArrayLike, probability: ArrayLike, classes: Sequence[str], pos_label: str | None
) -> tuple[NDArray[np.intp], NDArray[np.float64], int | None]:
    """(N,) place of each true class in `classes`, (N, K) probabilities, and the place of `pos_label`, if any."""
    names, score = [str(c) for c in classes], np.asarray(probability, dtype=np.float64)
    truth = np.asarray(truth).astype(str)
    if len(set(names)) < len(names) or len(names) < 2:
        raise bad_value("classes", must="name at least two classes, each once", got=names)
    if truth.ndim != 1 or not len(truth) or score.shape != (len(truth), len(names)):
        msg = (
            f"`truth` must be (N,) with N >= 1 and `probability` (N, K) with K = {len(names)} classes, "
            f"got shapes {truth.shape} and {score.shape}."
        )
        raise ValueError(msg)
    if not np.isfinite(score).all():
        got = f"{int((~np.isfinite(score).all(axis=1)).sum())} rows that are not"
        raise bad_value("probability", must="be finite", got=got, fix="Leave out cells without a prediction.")
    place = {name: k for k, name in enumerate(names)}
    if unknown := sorted(set(truth.tolist()) - set(names)):
        raise bad_value("truth", must=f"hold only the classes {names[:12]}", got=unknown[:12])
    code = np.array([place[name] for name in truth.tolist()], dtype=np.intp)
    return code, score, None if pos_label is None else names.index(one_of("pos_label", str(pos_label), names))
