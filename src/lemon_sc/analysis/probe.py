"""Linear probe: what a ridge regression reads of each target from the embedding of cells it has not seen.

Letters of array names: N cells, D features, G targets (genes), F folds, A penalties, R shuffles.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import progress
from lemon_sc.analysis import ridge
from lemon_sc.analysis.correlation import constant_floor, pearson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lemon_sc.analysis.splits import Folds

    Array = NDArray[np.float64]

_PARTS = 5  # inner folds inside the one training group, where there are two groups
_TIE = 1e-9  # inner scores closer than this are equal


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Scores of a probe and its shuffled twin."""

    predictions: Array
    """(N, G) out-of-fold: each cell predicted by the model that did not see its fold."""

    pcc: Array
    """(F, G) Pearson correlation within each fold; NaN where undefined (constant truth or prediction)."""

    pooled: Array
    """(G,) Pearson correlation over the cells of all folds together. Means that differ between groups count in it."""

    null: Array
    """(R, F, G) `pcc` with the targets shuffled among the cells of each fold."""

    alpha: Array
    """(F,) penalty chosen for each fold."""

    inner: str
    """How the penalty was chosen: ``"leave_one_fold_out"`` or ``"parts_of_the_training_fold"``."""

    @property
    def gene_score(self) -> Array:
        """(G,) mean over folds, undefined ones left out."""
        return nanmean(self.pcc, axis=0)

    @property
    def fold_score(self) -> Array:
        """(F,) mean over targets, undefined ones left out."""
        return nanmean(self.pcc, axis=1)

    @property
    def null_score(self) -> Array:
        """(R, G) mean over folds of the shuffled runs."""
        return nanmean(self.null, axis=1)

    @property
    def pvalue(self) -> Array:
        """(G,) ``(1 + #{null >= score}) / (1 + #null)``, one-sided; NaN where the score is undefined."""
        defined = np.isfinite(self.null_score)
        above = (self.null_score >= self.gene_score) & defined
        p = (1.0 + above.sum(axis=0)) / (1.0 + defined.sum(axis=0))
        return np.where(np.isfinite(self.gene_score) & (defined.sum(axis=0) > 0), p, np.nan)


def nanmean(x: NDArray[np.floating], *, axis: int) -> Array:
    """Mean of what is finite; NaN, without a warning, where nothing is."""
    finite = np.isfinite(x)
    count = finite.sum(axis=axis)
    total = np.where(finite, x, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def nanstd(x: NDArray[np.floating], *, axis: int) -> Array:
    """Sample sd (ddof 1) of what is finite; NaN where there are fewer than two values."""
    finite = np.isfinite(x)
    count = finite.sum(axis=axis)
    deviation = np.where(finite, x - np.expand_dims(nanmean(x, axis=axis), axis), 0.0)
    return np.where(count > 1, np.sqrt((deviation**2).sum(axis=axis) / np.maximum(count - 1, 1)), np.nan)


def ridge_probe(
    x_ND: NDArray[np.floating],
    y_NG: NDArray[np.floating],
    folds: Folds,
    *,
    rng: np.random.Generator,
    n_null: int = 20,
    alphas: Sequence[float] = ridge.ALPHAS,
) -> ProbeResult:
    """Ridge from embedding to targets, each fold predicted from the others.

    Features are standardised with the training folds' mean and sd. One penalty per held-out fold, shared by all
    targets, is the one with the best mean Pearson correlation when each training fold in turn is left out and predicted
    from the rest (the smaller penalty on ties; the largest one if no correlation is defined). With two folds only, a
    single training fold is left, and five random parts of it take that role.

    The null shuffles rows of `y_NG` among the cells of a fold, so that fold means and the correlation between targets
    stay, and repeats the fits with the penalties found on the true targets. Shuffling breaks spatial autocorrelation as
    well: with spatial blocks its p-values say "better than no relation", not "better than smoothness".

    Parameters
    ----------
    x_ND
        Embedding, finite.
    y_NG
        Targets, finite.
    folds
        From `splits`.
    rng
        Draws the shuffles.
    n_null
        Number of shuffles R; the smallest p-value is ``1 / (1 + R)``.
    alphas
        Penalties to choose from, as scikit-learn's ``Ridge(alpha=)`` counts them.

    Raises
    ------
    ValueError
        If `n_null` is negative.

    References
    ----------
    The protocol follows HEST-1k (Jaume et al., NeurIPS 2024): ridge regression, leave-one-slide-out, Pearson
    correlation by gene within a slide, averaged over genes and then slides.
    """
    if n_null < 0:
        raise bad_value("n_null", must="be an int >= 0", got=n_null)
    part_rng, null_rng = rng.spawn(2)
    centre = ridge.centre_of(x_ND, y_NG)
    floors = _Floors(x=constant_floor(x_ND), y=constant_floor(y_NG))
    rows_of = [np.flatnonzero(folds.codes == f) for f in range(len(folds.names))]
    parts_of = _split_in_parts(rows_of, part_rng) if len(rows_of) == 2 else [[rows] for rows in rows_of]
    units = [[ridge.moments(x_ND, y_NG, rows, centre) for rows in parts] for parts in parts_of]
    alpha = _choose_alpha(units, floors, np.sort(np.asarray(alphas, dtype=np.float64)))

    sums = [ridge.add(parts) for parts in units]
    predictions, pcc = np.empty(y_NG.shape), np.empty((len(rows_of), y_NG.shape[1]))
    bases = []
    for f, rows in enumerate(rows_of):
        train = ridge.add(sums[:f] + sums[f + 1 :])
        bases.append(ridge.decompose(train, floors.x))
        weight = ridge.weights(bases[f], train, [alpha[f]])[0]
        predictions[rows] = ridge.predict(x_ND, rows, weight, train=train, centre=centre)
        pcc[f] = pearson(y_NG[rows], predictions[rows])
    null = np.empty((n_null, *pcc.shape))
    for r, shuffle_rng in enumerate(null_rng.spawn(n_null)):
        shuffled = [
            replace(s, xy=ridge.cross_moment(x_ND, y_NG, rows, shuffle_rng.permutation(rows), centre))
            for s, rows in zip(sums, rows_of, strict=True)
        ]
        null[r] = _scores(shuffled, bases, alpha, floors.y)
    inner = "leave_one_fold_out" if len(rows_of) > 2 else "parts_of_the_training_fold"
    return ProbeResult(
        predictions=predictions, pcc=pcc, pooled=pearson(y_NG, predictions), null=null, alpha=alpha, inner=inner
    )


@dataclass(frozen=True, kw_only=True)
class _Floors:
    """Sd at or below which a column is constant."""

    x: Array
    y: Array


def _split_in_parts(rows_of: list[NDArray[np.intp]], rng: np.random.Generator) -> list[list[NDArray[np.intp]]]:
    return [[np.sort(part) for part in np.array_split(rng.permutation(rows), _PARTS) if len(part)] for rows in rows_of]


def _choose_alpha(units: list[list[ridge.Moments]], floors: _Floors, alphas: Array) -> Array:
    """(F,) penalty of each held-out fold by the mean inner correlation, over inner folds and then targets."""
    # Leaving out fold i for testing and j for choosing trains on the same cells as the reverse: one fit serves both.
    jobs: dict[frozenset[tuple[int, int]], list[tuple[int, ridge.Moments]]] = defaultdict(list)
    ids = [(f, p) for f, parts in enumerate(units) for p in range(len(parts))]
    for outer in range(len(units)):
        training = [i for i in ids if i[0] != outer]
        for f, p in training:
            if rest := frozenset(training) - {(f, p)}:
                jobs[rest].append((outer, units[f][p]))
    inner_scores: list[list[Array]] = [[] for _ in units]
    bar = progress(total=len(jobs), desc="probe: inner folds", unit="fits")
    for rest, held_out in jobs.items():
        train = ridge.add(units[f][p] for f, p in sorted(rest))
        weight_ADG = ridge.weights(ridge.decompose(train, floors.x), train, alphas)
        for outer, cells in held_out:
            r_AG = np.stack([ridge.pearson_from_moments(cells, w, floors.y) for w in weight_ADG])
            inner_scores[outer].append(nanmean(r_AG, axis=1))
        bar.update()
    bar.close()
    return np.array([_best(scores, alphas) for scores in inner_scores])


def _best(scores: list[Array], alphas: Array) -> float:
    """Smallest of the `alphas` (ascending) that is as good as the best."""
    if not scores:
        return float(alphas[-1])
    mean_A = nanmean(np.stack(scores), axis=0)
    if not np.isfinite(mean_A).any():
        return float(alphas[-1])
    return float(alphas[np.flatnonzero(mean_A >= np.nanmax(mean_A) - _TIE)[0]])


def _scores(sums: list[ridge.Moments], bases: list[ridge.Basis], alpha: Array, floor_G: Array) -> Array:
    """(F, G) correlations from sums alone, with the decompositions at hand."""
    out = []
    for f, held_out in enumerate(sums):
        train = ridge.add(sums[:f] + sums[f + 1 :])
        weight = ridge.weights(bases[f], train, [alpha[f]])[0]
        out.append(ridge.pearson_from_moments(held_out, weight, floor_G))
    return np.stack(out)
