"""Logistic probe: which class of a cell can be read linearly from its embedding.

Letters of array names: N cells, D features, K classes, F folds, M metrics, R shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lemon_sc._core.log import progress
from lemon_sc.analysis import ridge
from lemon_sc.analysis.softmax import softmax_path
from lemon_sc.metrics.classification import METRICS, ClassificationScores, classification
from lemon_sc.metrics.correlation import constant_floor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lemon_sc.analysis.splits import Folds

    Array = NDArray[np.float64]

PENALTIES = 10.0 ** np.arange(-4, 5)
"""Inverse penalties that ``c="inner"`` chooses from."""


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

    c: Array
    """(F,) inverse penalty."""

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
    c: float | str = 1.0,
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
        Inverse penalty; ``"inner"`` chooses it for each fold, see `choose_c`.
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
        If there are fewer than two classes, in all or among the cells that a fold learns from.
    """
    classes, code = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        msg = f"A logistic probe needs cells of at least two classes, found {classes.tolist()}."
        raise ValueError(msg)
    probability = np.zeros((len(labels), len(classes)))
    probability[folds.codes < 0] = np.nan
    n_untrained = np.zeros(len(folds.names), dtype=np.intp)
    seen_ND = x_ND if held_out_ND is None else held_out_ND
    inner = isinstance(c, str)
    c_F = choose_c(x_ND, labels, folds, n_pcs=n_pcs) if inner else np.full(len(folds.names), float(c))
    floor = constant_floor(x_ND)
    with progress(total=len(folds.names), desc="probe: folds", unit="fits") as bar:
        for f, name in enumerate(folds.names):
            train, test = np.isin(folds.codes, folds.training(f)), folds.codes == f
            there = _classes_to_learn(labels[train], f"fold {name!r}")
            n_untrained[f] = len(classes) - len(there)
            x_train, x_test = _varying(x_ND[train], seen_ND[test], floor=floor)
            found = next(_predictions(x_train, code[train], x_test, c_P=c_F[f : f + 1], n_pcs=n_pcs))
            probability[np.ix_(test, np.searchsorted(classes, there))] = found
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
        c=c_F,
    )


def choose_c(x_ND: NDArray[np.floating], labels: NDArray[np.str_], folds: Folds, *, n_pcs: int | None = None) -> Array:
    """Inverse penalty of each fold, chosen within the cells that the fold learns from.

    Each of these folds is predicted from the others of them, with every one of `PENALTIES`; the one with the largest
    balanced accuracy of all these predictions together is taken, of equal ones the strongest penalty. What is learned
    without folds i and j serves i held out with j for choosing, and the reverse.

    Parameters
    ----------
    x_ND
        Embedding, finite.
    labels
        (N,) class of each cell.
    folds
        From `splits`, at least three that learn from each other.
    n_pcs
        As for `logistic_probe`.

    Returns
    -------
    (F,) inverse penalties.

    Raises
    ------
    ValueError
        If a fold has fewer than two others to learn from, or these hold one class only.
    """
    n_folds, floor = len(folds.names), constant_floor(x_ND)
    for f, name in enumerate(folds.names):
        if len(set(folds.apart[folds.training(f)].tolist())) < 2:
            msg = (
                f"To choose a penalty for fold {name!r}, two folds that it learns from are needed, one to be predicted "
                "from the other; there is one. Give `c` a number."
            )
            raise ValueError(msg)
    classes, code = np.unique(labels, return_inverse=True)
    hit_FPK = np.zeros((n_folds, len(PENALTIES), len(classes)))
    n_FK = np.zeros((n_folds, len(classes)))
    pairs = [(i, j) for i, j in combinations(range(n_folds), 2) if folds.apart[i] != folds.apart[j]]
    with progress(total=len(pairs), desc="probe: penalties", unit="pairs of folds") as bar:
        for i, j in pairs:
            train = np.isin(folds.codes, np.flatnonzero(~np.isin(folds.apart, folds.apart[[i, j]])))
            test = np.isin(folds.codes, [i, j])
            there = _classes_to_learn(labels[train], f"folds {folds.names[i]!r} and {folds.names[j]!r}")
            x_train, x_test = _varying(x_ND[train], x_ND[test], floor=floor)
            of_j = folds.codes[test] == j
            for p, made in enumerate(_predictions(x_train, code[train], x_test, c_P=PENALTIES, n_pcs=n_pcs)):
                right = there[made.argmax(axis=1)] == labels[test]
                for outer, held in ((i, of_j), (j, ~of_j)):
                    hit_FPK[outer, p] += np.bincount(code[test][held & right], minlength=len(classes))
            n_FK[i] += np.bincount(code[test][of_j], minlength=len(classes))
            n_FK[j] += np.bincount(code[test][~of_j], minlength=len(classes))
            bar.update()
    recall = np.divide(hit_FPK, n_FK[:, None], out=np.full_like(hit_FPK, np.nan), where=n_FK[:, None] > 0)
    return PENALTIES[np.nanmean(recall, axis=2).argmax(axis=1)]


def _classes_to_learn(labels: NDArray[np.str_], what: str) -> NDArray[np.str_]:
    """Classes among the training cells, sorted."""
    there = np.unique(labels)
    if len(there) < 2:
        msg = f"To predict {what} there are only cells of class {there.tolist()} to learn from."
        raise ValueError(msg)
    return there


def _varying(train: NDArray[np.floating], test: NDArray[np.floating], *, floor: Array) -> tuple[Array, Array]:
    """Both without the features that are constant in the training cells."""
    varies = train.std(axis=0, dtype=np.float64) > floor
    return train[:, varies].astype(np.float64), test[:, varies].astype(np.float64)


def _predictions(
    x_train: Array, code: NDArray[np.intp], x_test: Array, *, c_P: NDArray[np.floating], n_pcs: int | None
) -> Iterator[Array]:
    """(n_test, classes in `code`) probabilities for each penalty; the shares of the classes if no feature varies."""
    _, own = np.unique(code, return_inverse=True)
    if x_train.shape[1] == 0:
        share = np.bincount(own) / len(own)
        yield from (np.tile(share, (len(x_test), 1)) for _ in c_P)
        return
    # The penalty cannot tell all principal components from the features; they are uncorrelated, which the solver likes.
    k = min(ridge.n_components(n_pcs, n_features=x_train.shape[1], n_cells=len(x_train)), len(x_train))
    pca = PCA(k, svd_solver="full" if len(x_train) < x_train.shape[1] else "covariance_eigh")
    rotation = make_pipeline(StandardScaler(), pca)
    z_train, z_test = rotation.fit_transform(x_train), rotation.transform(x_test)
    for weight, intercept in softmax_path(z_train, own, c_P):
        yield softmax(z_test @ weight + intercept, axis=1)


def _row(scores: ClassificationScores) -> list[float]:
    return [getattr(scores, name) for name in METRICS]
