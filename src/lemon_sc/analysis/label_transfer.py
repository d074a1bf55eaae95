"""Label transfer: a linear classifier of labelled cells, for cells of another slide in the same embedding.

Letters of array names: R labelled cells, N cells to be labelled, D features, K classes, P penalties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.analysis.softmax import softmax_path
from lemon_sc.metrics.classification import ClassificationScores, classification
from lemon_sc.metrics.correlation import constant_floor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lemon_sc.analysis.splits import Folds

    Array = NDArray[np.float64]

C = 10.0 ** np.arange(-4, 2)
"""Inverse penalties that are tried, weak ones last."""
STANDARDIZE = ("reference", "query")
_LEAST = 1e-6  # probability below which a miss does not count more: one cell must not decide
_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelModel:
    """Logits of K classes, linear in standardised features."""

    classes: tuple[str, ...]
    """K names, sorted."""
    mean_D: Array
    """Of the labelled cells, every class counting alike."""
    sd_D: Array
    """Likewise; 0 for a feature that is constant there, which is not used."""
    weight_DK: Array
    intercept_K: Array
    c: float
    """Inverse penalty that was chosen."""
    held_out: ClassificationScores
    """Scores of labelled cells, each predicted from the folds that it is not in, with that penalty."""


def fit_labels(x_RD: NDArray[np.floating], labels: NDArray[np.str_], folds: Folds) -> LabelModel:
    """Multinomial logistic regression from embedding to class, in which every class counts alike.

    How often a class is in the reference says nothing of another slide, so cells are weighted by one over the size of
    their class, in the means and standard deviations of the features, too. The L2 penalty, of `C`, is the one with the
    least cross-entropy of held-out folds, mean over classes.

    Parameters
    ----------
    x_RD
        Embedding, finite.
    labels
        (R,) class of each cell.
    folds
        From `splits`: whole slides, where there are several.

    Returns
    -------
    The model of all cells.

    Raises
    ------
    ValueError
        If there are fewer than two classes, no feature varies, or no fold can be predicted from the others because
        these hold one class only.
    """
    classes, code = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        msg = f"Labels of at least two classes are needed to tell them apart, found {classes.tolist()}."
        raise ValueError(msg)
    made = _held_out(x_RD, code, folds)
    scored = np.isfinite(made[0]).all(axis=1)
    if len(np.unique(code[scored])) < 2:
        msg = (
            "No penalty can be chosen: with a fold held out, the others do not hold two classes that it has, too "
            f"(classes {classes.tolist()[:12]}, folds: {folds.kind}). Does every slide have a class of its own?"
        )
        raise ValueError(msg)
    of_own = np.clip(made[:, np.flatnonzero(scored), code[scored]], _LEAST, None)
    loss_P = -(np.log(of_own) * _even(code[scored])).mean(axis=1)
    best = int(loss_P.argmin())
    mean_D, sd_D = _moments(x_RD, _even(code))
    if not sd_D.any():
        msg = f"None of the {len(sd_D)} features of the reference varies: there is nothing to learn from."
        raise ValueError(msg)
    weight_DK, intercept_K = next(_solutions(_standardised(x_RD, mean_D, sd_D), code, C[best : best + 1]))
    names = tuple(classes.tolist())
    return LabelModel(
        classes=names,
        mean_D=mean_D,
        sd_D=sd_D,
        weight_DK=weight_DK,
        intercept_K=intercept_K,
        c=float(C[best]),
        held_out=classification(labels[scored], made[best, scored], classes=names),
    )


def predict_labels(
    model: LabelModel, x_ND: NDArray[np.floating], *, standardize: str = "reference"
) -> NDArray[np.float32]:
    """Probability of each class, for cells that are of all classes equally often.

    Parameters
    ----------
    model
        From `fit_labels`.
    x_ND
        Embedding, finite.
    standardize
        Whose mean and standard deviation the features are standardised with: ``"reference"``, those of the labelled
        cells; ``"query"``, those of the cells given.

    Returns
    -------
    (N, K), rows sum to 1.

    Raises
    ------
    ValueError
        If the width is another.
    """
    one_of("standardize", standardize, STANDARDIZE)
    if x_ND.ndim != 2 or x_ND.shape[1] != len(model.mean_D):
        raise bad_value("x_ND", must=f"have {len(model.mean_D)} columns, as the reference has", got=x_ND.shape)
    mean_D, sd_D = model.mean_D, model.sd_D
    if standardize == "query":
        mean_D, sd_D = _moments(x_ND, np.ones(len(x_ND)))  # a feature that is constant here says nothing, and becomes 0
    made = np.empty((len(x_ND), len(model.classes)), dtype=np.float32)
    for rows in _blocks(len(x_ND)):
        made[rows] = softmax(_standardised(x_ND[rows], mean_D, sd_D) @ model.weight_DK + model.intercept_K, axis=1)
    return made


def _held_out(x_RD: NDArray[np.floating], code: NDArray[np.intp], folds: Folds) -> Array:
    """(P, R, K) probabilities from the other folds, for each of `C`; NaN where there is no answer.

    A class that no other fold has cannot be predicted, and from cells of one class nothing can.
    """
    made = np.full((len(C), len(code), code.max() + 1), np.nan)
    for f in range(len(folds.names)):
        train = np.isin(folds.codes, folds.training(f))
        there, own = np.unique(code[train], return_inverse=True)
        if len(there) < 2:
            continue
        test = np.flatnonzero((folds.codes == f) & np.isin(code, there))
        mean_D, sd_D = _moments(x_RD[train], _even(own))
        z_train, z_test = (_standardised(x_RD[rows], mean_D, sd_D) for rows in (train, test))
        made[:, test] = 0
        for p, (weight_DK, intercept_K) in enumerate(_solutions(z_train, own, C)):
            made[p][np.ix_(test, there)] = softmax(z_test @ weight_DK + intercept_K, axis=1)
    return made


def _moments(x_ND: NDArray[np.floating], weight_N: Array) -> tuple[Array, Array]:
    """Mean and sd of each feature, sd 0 where it is constant up to rounding; weights are 1 on average."""
    mean_D, square_D = np.zeros(x_ND.shape[1]), np.zeros(x_ND.shape[1])
    for rows in _blocks(len(x_ND)):
        mean_D += weight_N[rows] @ x_ND[rows].astype(np.float64) / len(x_ND)
    for rows in _blocks(len(x_ND)):
        square_D += weight_N[rows] @ (x_ND[rows] - mean_D) ** 2 / len(x_ND)
    sd_D = np.sqrt(square_D)
    return mean_D, np.where(sd_D > constant_floor(x_ND), sd_D, 0.0)


def _blocks(n: int) -> Iterator[slice]:
    """Rows that are held in float64 at a time."""
    return (slice(first, first + _AT_ONCE) for first in range(0, n, _AT_ONCE))


def _standardised(x_ND: NDArray[np.floating], mean_D: Array, sd_D: Array) -> Array:
    """Features at mean 0 and sd 1; 0 where they do not vary."""
    return np.divide(x_ND - mean_D, sd_D, out=np.zeros(x_ND.shape), where=sd_D > 0)


def _even(code: NDArray[np.intp]) -> Array:
    """Weight of each cell, 1 on average, that gives all classes the same sum."""
    n_K = np.bincount(code)
    return (len(code) / (np.count_nonzero(n_K) * np.maximum(n_K, 1)))[code]


def _solutions(z_ND: Array, code: NDArray[np.intp], c_P: NDArray[np.floating]) -> Iterator[tuple[Array, Array]]:
    """Weights (D, K) and intercepts (K,) for each inverse penalty."""
    # Turned until its columns are uncorrelated, which the penalty does not notice and the solver likes.
    _, turn = np.linalg.eigh(z_ND.T @ z_ND)
    for weight_DK, intercept_K in softmax_path(z_ND @ turn, code, c_P, weight_N=_even(code)):
        yield turn @ weight_DK, intercept_K
