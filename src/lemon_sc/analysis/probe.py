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
from lemon_sc.analysis.threads import threads
from lemon_sc.metrics.correlation import constant_floor, pearson
from lemon_sc.metrics.means import nanmean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lemon_sc.analysis.splits import Folds
    from lemon_sc.analysis.threads import Each

    Array = NDArray[np.float64]

_PARTS = 5  # inner folds inside the one training group, where there are two groups
_TIE = 1e-9  # inner scores closer than this are equal
_HEST = 100.0  # the penalty of HEST-1k times features times targets


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Scores of a probe and its shuffled twin."""

    predictions: Array
    """(N, G) out-of-fold: each cell predicted by the model that did not see its fold (nor its patient)."""

    pcc: Array
    """(F, G) Pearson correlation within each fold; NaN where undefined (constant truth or prediction)."""

    pooled: Array
    """(G,) Pearson correlation over the cells of all folds together. Means that differ between groups count in it."""

    null: Array
    """(R, F, G) `pcc` with the targets shuffled among the cells of each fold."""

    alpha: Array
    """(F,) penalty chosen for each fold."""

    inner: str
    """Where the penalty is from: ``"leave_one_fold_out"``, ``"parts_of_the_training_fold"``, ``"hest"`` or ``"fixed"``.
    """

    used: NDArray[np.bool_]
    """(F, G) which targets are scored in which fold; others are NaN in `pcc`, `null` and `predictions`."""

    n_features: NDArray[np.intp]
    """(F,) features or principal components that each fit saw."""

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
        """(G,) of `gene_score` among `null_score`."""
        return pvalues(self.gene_score, self.null_score)


def pvalues(score: Array, null_R: Array) -> Array:
    """``(1 + #{null >= score}) / (1 + #null)``, one-sided, shuffles on the first axis; NaN for a score that is NaN.

    Parameters
    ----------
    score
        Scores, of any shape.
    null_R
        The same of R shuffles, (R, ...).

    Returns
    -------
    P-values, of the shape of `score`.
    """
    defined = np.isfinite(null_R)
    count = defined.sum(axis=0)
    p = (1.0 + ((null_R >= score) & defined).sum(axis=0)) / (1.0 + count)
    return np.where(np.isfinite(score) & (count > 0), p, np.nan)


def ridge_probe(
    x_ND: NDArray[np.floating],
    y_NG: NDArray[np.floating],
    folds: Folds,
    *,
    rng: np.random.Generator,
    n_null: int = 20,
    alpha: float | str | Sequence[float] = "inner",
    n_pcs: int | None = None,
    used_FG: NDArray[np.bool_] | None = None,
    held_out_ND: NDArray[np.floating] | None = None,
) -> ProbeResult:
    """Ridge from embedding to targets, each fold predicted from the others.

    Features are standardised with the training folds' mean and sd, and replaced by their leading principal components
    if asked for. One penalty per held-out fold, shared by all targets, is the one with the best mean Pearson
    correlation when each training fold in turn is left out and predicted from the rest (the smaller penalty on ties;
    the largest one if no correlation is defined). With two folds only, a single training fold is left, and five random
    parts of it take that role. Folds of one patient leave the training set together, in the inner folds as well.

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
    alpha
        ``"inner"``: chosen as above from 10^-2 .. 10^6, as scikit-learn's ``Ridge(alpha=)`` counts; several numbers:
        from these. ``"hest"``: ``100 / (F * G)`` with F features (or components) and G targets, and no intercept. A
        number: that penalty.
    n_pcs
        Principal components of the training features, at most as many as there are; ``None`` takes the features.
    used_FG
        (F, G) targets of each fold, the same for folds of one patient; ``None``: all of them.
    held_out_ND
        What held-out cells are predicted from, in place of their rows of `x_ND`: the same cells in another stain, say.
        The null keeps to `x_ND`.

    Returns
    -------
    Scores by fold and target, their null, and the penalties used.

    Raises
    ------
    ValueError
        If `n_null` is negative.

    References
    ----------
    The protocol follows HEST-1k (Jaume et al., NeurIPS 2024): ridge regression, leave-one-slide-out, Pearson
    correlation by gene within a slide, averaged over genes and then slides; ``alpha="hest"`` is its code's penalty.
    """
    if n_null < 0:
        raise bad_value("n_null", must="be an int >= 0", got=n_null)
    with threads() as each:
        used = np.ones((len(folds.names), y_NG.shape[1]), dtype=bool) if used_FG is None else used_FG
        floors = {"x_floor": constant_floor(x_ND), "y_floor": constant_floor(y_NG)}
        fits = _Fits(folds=folds, used=used, n_pcs=n_pcs, each=each, **floors)
        seen = x_ND if held_out_ND is None else held_out_ND
        chosen, penalties = (
            (alpha, ridge.ALPHAS) if isinstance(alpha, str | float | int | np.number) else ("inner", alpha)
        )
        return _probe(x_ND, y_NG, seen, fits, rng=rng, n_null=n_null, alpha=chosen, alphas=penalties)


def _probe(
    x_ND: NDArray[np.floating],
    y_NG: NDArray[np.floating],
    seen_ND: NDArray[np.floating],
    fits: _Fits,
    *,
    rng: np.random.Generator,
    n_null: int,
    alpha: float | str,
    alphas: Sequence[float],
) -> ProbeResult:
    part_rng, null_rng = rng.spawn(2)
    folds = fits.folds
    centre = ridge.centre_of(x_ND, y_NG)
    rows_of = [np.flatnonzero(folds.codes == f) for f in range(len(folds.names))]
    parts_of = _split_in_parts(rows_of, part_rng) if fits.inside and alpha == "inner" else [[rows] for rows in rows_of]
    summed = fits.each(lambda rows: ridge.moments(x_ND, y_NG, rows, centre), [r for parts in parts_of for r in parts])
    units = [[next(summed) for _ in parts] for parts in parts_of]
    sums = [ridge.add(parts) for parts in units]
    n_features = fits.n_features(sums)
    penalty, how = _penalty(alpha, units, fits, n_features, np.sort(np.asarray(alphas, dtype=np.float64)))
    bases = fits.bases(sums)

    def predicted(f: int) -> Array:
        train = fits.train(sums, f)
        weight = ridge.weights(bases[f], train, [penalty[f]])[:, 0]
        return ridge.predict(seen_ND, rows_of[f], weight, train=train, centre=centre, intercept=alpha != "hest")

    def shuffled(shuffle_rng: np.random.Generator) -> Array:
        mixed = [
            replace(s, xy=ridge.cross_moment(x_ND, y_NG, rows, shuffle_rng.permutation(rows), centre))
            for s, rows in zip(sums, rows_of, strict=True)
        ]
        return fits.scores(mixed, bases, penalty)

    predictions, pcc = np.full(y_NG.shape, np.nan), np.empty(fits.used.shape)
    for f, out in enumerate(fits.each(predicted, range(len(rows_of)))):
        pcc[f] = np.where(fits.used[f], pearson(y_NG[rows_of[f]], out), np.nan)
        predictions[rows_of[f]] = np.where(fits.used[f], out, np.nan)
    null = np.empty((n_null, *pcc.shape))
    for r, scores in enumerate(fits.each(shuffled, null_rng.spawn(n_null))):
        null[r] = scores
    return ProbeResult(
        predictions=predictions,
        pcc=pcc,
        pooled=_pooled(y_NG, predictions),
        null=null,
        alpha=penalty,
        inner=how,
        used=fits.used,
        n_features=n_features,
    )


@dataclass(frozen=True, kw_only=True)
class _Fits:
    """What all fits of one probe share."""

    folds: Folds
    used: NDArray[np.bool_]
    n_pcs: int | None
    x_floor: Array
    y_floor: Array
    each: Each

    @property
    def inside(self) -> bool:
        """Whether the penalty must be chosen inside the one training group, as there are two groups."""
        return len(np.unique(self.folds.apart)) == 2

    def train(self, sums: list[ridge.Moments], fold: int) -> ridge.Moments:
        return ridge.add(sums[g] for g in self.folds.training(fold))

    def n_features(self, sums: list[ridge.Moments]) -> NDArray[np.intp]:
        sizes = [sum(sums[g].n for g in self.folds.training(f)) for f in range(len(sums))]
        return np.array([ridge.n_components(self.n_pcs, n_features=len(self.x_floor), n_cells=n) for n in sizes])

    def bases(self, sums: list[ridge.Moments]) -> list[ridge.Basis]:
        """One decomposition per fold; folds of one patient share theirs."""
        _, first, code = np.unique(self.folds.apart, return_index=True, return_inverse=True)
        made = list(self.each(lambda f: self.basis(self.train(sums, f)), first.tolist()))
        return [made[i] for i in code.reshape(-1)]

    def basis(self, train: ridge.Moments) -> ridge.Basis:
        return ridge.decompose(train, self.x_floor, n_pcs=self.n_pcs)

    def scores(self, sums: list[ridge.Moments], bases: list[ridge.Basis], penalty: Array) -> Array:
        """(F, G) correlations from sums alone, with the decompositions at hand."""
        out = []
        for f, held_out in enumerate(sums):
            weight = ridge.weights(bases[f], self.train(sums, f), [penalty[f]])[:, 0]
            r = ridge.pearson_from_moments(held_out, weight, self.y_floor)
            out.append(np.where(self.used[f], r, np.nan))
        return np.stack(out)


def _split_in_parts(rows_of: list[NDArray[np.intp]], rng: np.random.Generator) -> list[list[NDArray[np.intp]]]:
    return [[np.sort(part) for part in np.array_split(rng.permutation(rows), _PARTS) if len(part)] for rows in rows_of]


def _penalty(
    alpha: float | str, units: list[list[ridge.Moments]], fits: _Fits, n_features: NDArray[np.intp], alphas: Array
) -> tuple[Array, str]:
    """(F,) penalty of each held-out fold, and how it came about."""
    if alpha == "inner":
        return _choose_alpha(units, fits, alphas), "parts_of_the_training_fold" if fits.inside else "leave_one_fold_out"
    if alpha == "hest":
        return _HEST / (n_features * np.maximum(fits.used.sum(axis=1), 1)), "hest"
    return np.full(len(units), float(alpha)), "fixed"


def _choose_alpha(units: list[list[ridge.Moments]], fits: _Fits, alphas: Array) -> Array:
    """(F,) penalty of each held-out fold by the mean inner correlation, over targets and then inner folds."""
    # Leaving out fold i for testing and j for choosing trains on the same cells as the reverse: one fit serves both.
    jobs: dict[frozenset[tuple[int, int]], list[tuple[int, ridge.Moments]]] = defaultdict(list)
    apart = fits.folds.apart.tolist()
    ids = [(f, p) for f, parts in enumerate(units) for p in range(len(parts))]
    left_out_with = {i: i if fits.inside else (apart[i[0]], 0) for i in ids}
    for outer in sorted(set(apart)):
        training = [i for i in ids if apart[i[0]] != outer]
        for f, p in training:
            if rest := frozenset(i for i in training if left_out_with[i] != left_out_with[f, p]):
                jobs[rest].append((outer, units[f][p]))
    used = {patient: fits.used[f] for f, patient in enumerate(apart)}
    inner_scores: dict[int, list[Array]] = {patient: [] for patient in apart}

    def scored(job: tuple[frozenset[tuple[int, int]], list[tuple[int, ridge.Moments]]]) -> list[Array]:
        rest, held_out = job
        train = ridge.add(units[f][p] for f, p in sorted(rest))
        return ridge.correlations(fits.basis(train), train, [cells for _, cells in held_out], alphas, fits.y_floor)

    with progress(total=len(jobs), desc="probe: inner folds", unit="fits") as bar:
        for held_out, scores in zip(jobs.values(), fits.each(scored, jobs.items()), strict=True):
            for (outer, _), r_AG in zip(held_out, scores, strict=True):
                inner_scores[outer].append(nanmean(r_AG[:, used[outer]], axis=1))
            bar.update()
    return np.array([_best(inner_scores[patient], alphas) for patient in apart])


def _best(scores: list[Array], alphas: Array) -> float:
    """Smallest of the `alphas` (ascending) that is as good as the best."""
    if not scores:
        return float(alphas[-1])
    mean_A = nanmean(np.stack(scores), axis=0)
    if not np.isfinite(mean_A).any():
        return float(alphas[-1])
    return float(alphas[np.flatnonzero(mean_A >= np.nanmax(mean_A) - _TIE)[0]])


def _pooled(y_NG: NDArray[np.floating], predictions: Array) -> Array:
    """(G,) correlation over all cells that have a prediction of the target."""
    have = np.isfinite(predictions)
    if have.all():
        return pearson(y_NG, predictions)
    columns = range(y_NG.shape[1])
    return np.array([pearson(y_NG[have[:, g], g : g + 1], predictions[have[:, g], g : g + 1])[0] for g in columns])
