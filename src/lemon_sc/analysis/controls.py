"""What a probe scores where there is nothing to find."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.metrics.means import nanmean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.analysis.splits import Folds


def label_shuffled(
    x_ND: NDArray[np.floating],
    labels: NDArray[np.str_],
    folds: Folds,
    *,
    rng: np.random.Generator,
    n_shuffles: int = 5,
    c: float | str = 1.0,
    n_pcs: int | None = None,
) -> NDArray[np.float64]:
    """Scores of logistic probes that learn shuffled labels and are tested on shuffled labels.

    Labels are shuffled among the cells of each fold, so that every fold keeps its share of each class, and the whole
    probe is fitted again. The null of `logistic_probe` keeps the fits and shuffles what they are tested on; this
    control costs a fit per shuffle, and catches what the fits themselves could have been told.

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
    n_shuffles
        Number of shuffles R.
    c, n_pcs
        As for `logistic_probe`.

    Returns
    -------
    (R, M) mean over folds of the metrics, in the order of `metrics.classification.METRICS`.
    """
    made = []
    for shuffle_rng in rng.spawn(n_shuffles):
        shuffled = labels.copy()
        for f in range(len(folds.names)):
            rows = np.flatnonzero(folds.codes == f)
            shuffled[rows] = labels[shuffle_rng.permutation(rows)]
        result = logistic_probe(x_ND, shuffled, folds, rng=shuffle_rng, n_null=0, c=c, n_pcs=n_pcs)
        made.append(nanmean(result.metrics, axis=0))
    return np.stack(made)
