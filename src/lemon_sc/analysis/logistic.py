"""Logistic probe: which class of a cell can be read linearly from its embedding.

Letters of array names: N cells, D features, K classes, F folds, M metrics, R shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lemon_sc._core.log import progress
from lemon_sc.analysis import ridge
from lemon_sc.analysis.softmax import fit_softmax
from lemon_sc.metrics.classification import METRICS, ClassificationScores, classification
from lemon_sc.metrics.correlation import constant_floor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.analysis.splits import Folds

    Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LogisticResult:
    """Scores of a logistic probe and of shuffled labels."""

    classes: tuple[str, ...]
    """K names, sorted."""

    probability: Array
    """(N, K) out-of-fold; 0 for a class that is not among the cells a fold learned from, NaN for a cell in no fold."""

    folds: tuple[ClassificationScores, ...]
    """Scores within each fold."""

    null: Array
    """(R, F, M) the metrics with labels shuffled among the cells of each fold."""

    null_auc: Array
    """(R, F, K) area under the ROC curve of each class, likewise."""

    n_untrained: NDArray[np.intp]
    """(F,) classes that are not among the training cells."""

    @property
    def metrics(self) -> Array:
        """(F, M) in the order of `METRICS`."""
        return np.array([_row(scores) for scores in self.folds])

    def by_class(self, name: str) -> Array:
        """(F, K) of ``n``, ``class_auc``, ``class_aupr``, ``class_recall`` or ``class_f1``."""
        return np.array([getattr(scores, name) for scores in self.folds])


def logistic_probe(
    x_ND: NDArray[np.floating],
    labels: NDArray[np.str_],
    folds: Folds,
    *,
    rng: np.random.Generator,
    n_null: int = 20,
    c: float = 1.0,
    n_pcs: int | None = None,
    pos_label: str | None = None,
    held_out_ND: NDArray[np.floating] | None = None,
) -> LogisticResult:
    """Multinomial logistic regression from embedding to class, each fold predicted from the others.

    Features are standardised with the training folds' mean and sd (and replaced by their leading principal components
    if asked for); penalty L2, no class weights, solved by L-BFGS to the optimum. The null keeps the fits and shuffles
    the labels among the cells of each held-out fold.

    Parameters
    ----------
    x_ND
        Embedding, finite.
    labels
        (N,) class of each cell.
    folds
        From `splits`.
    rng
        Draws the shuffles.
    n_null
        Number of shuffles R.
    c
        Inverse penalty.
    n_pcs
        Principal components, at most as many as there are; ``None`` takes the features.
    pos_label
        As in `metrics.classification`.
    held_out_ND
        What held-out cells are predicted from, in place of their rows of `x_ND`: the same cells in another stain, say.

    Returns
    -------
    Class probabilities out of fold, and scores by fold with their null.

    Raises
    ------
    ValueError
        If there are fewer than two classes, in all or among the training cells of a fold.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        msg = f"A logistic probe needs cells of at least two classes, found {classes.tolist()}."
        raise ValueError(msg)
    probability = np.zeros((len(labels), len(classes)))
    probability[folds.codes < 0] = np.nan
    n_untrained = np.zeros(len(folds.names), dtype=np.intp)
    floor, seen_ND = constant_floor(x_ND), x_ND if held_out_ND is None else held_out_ND
    with progress(total=len(folds.names), desc="probe: folds", unit="fits") as bar:
        for f, name in enumerate(folds.names):
            train, test = np.isin(folds.codes, folds.training(f)), folds.codes == f
            there = np.unique(labels[train])
            if len(there) < 2:
                msg = f"To predict fold {name!r} there are only cells of class {there.tolist()} to learn from."
                raise ValueError(msg)
            varies = x_ND[train].std(axis=0, dtype=np.float64) > floor
            n_untrained[f] = len(classes) - len(there)
            columns = np.searchsorted(classes, there)
            x_train, x_test = (
                x[np.ix_(rows, varies)].astype(np.float64) for x, rows in ((x_ND, train), (seen_ND, test))
            )
            probability[np.ix_(test, columns)] = _fit_predict(x_train, labels[train], x_test, c=c, n_pcs=n_pcs)
            bar.update()
    names = tuple(classes.tolist())
    in_fold = [np.flatnonzero(folds.codes == f) for f in range(len(folds.names))]

    def scores(truth: NDArray[np.str_]) -> list[ClassificationScores]:
        return [classification(truth[r], probability[r], classes=names, pos_label=pos_label) for r in in_fold]

    null, null_auc = np.empty((n_null, len(in_fold), len(METRICS))), np.empty((n_null, len(in_fold), len(names)))
    for i, shuffle_rng in enumerate(rng.spawn(n_null)):
        shuffled = labels.copy()
        for rows in in_fold:
            shuffled[rows] = labels[shuffle_rng.permutation(rows)]
        made = scores(shuffled)
        null[i], null_auc[i] = [_row(s) for s in made], [s.class_auc for s in made]
    return LogisticResult(
        classes=names,
        probability=probability,
        folds=tuple(scores(labels)),
        null=null,
        null_auc=null_auc,
        n_untrained=n_untrained,
    )


def _fit_predict(x_train: Array, labels: NDArray[np.str_], x_test: Array, *, c: float, n_pcs: int | None) -> Array:
    """(n_test, classes in `labels`) probabilities; the shares of the classes if no feature varies."""
    if x_train.shape[1] == 0:
        _, counts = np.unique(labels, return_counts=True)
        return np.tile(counts / counts.sum(), (len(x_test), 1))
    # The penalty cannot tell all principal components from the features; they are uncorrelated, which the solver likes.
    k = min(ridge.n_components(n_pcs, n_features=x_train.shape[1], n_cells=len(x_train)), len(x_train))
    pca = PCA(k, svd_solver="full" if len(x_train) < x_train.shape[1] else "covariance_eigh")
    rotation = make_pipeline(StandardScaler(), pca)
    _, code = np.unique(labels, return_inverse=True)
    weight, intercept = fit_softmax(rotation.fit_transform(x_train), code, c=c)
    return softmax(rotation.transform(x_test) @ weight + intercept, axis=1)


def _row(scores: ClassificationScores) -> list[float]:
    return [getattr(scores, name) for name in METRICS]
