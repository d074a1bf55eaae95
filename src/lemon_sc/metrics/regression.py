"""Scores of predicted expression: within each slide, then averaged; pooled over slides beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import mean_squared_error, r2_score

from lemon_sc._core.errors import bad_value
from lemon_sc.metrics.correlation import MIN_CELLS, constant_floor, pearson
from lemon_sc.metrics.means import nanmean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class RegressionScores:
    """Scores of each gene in each slide, and their means. S slides, G genes."""

    slides: tuple[str, ...]
    """S names, sorted."""
    gene_pcc: Array
    """(S, G) Pearson correlation over the cells of a slide; NaN where the truth or the prediction is constant, or there
    are fewer than three cells."""
    gene_r2: Array
    """(S, G) coefficient of determination; NaN where the truth is constant, or there are fewer than two cells."""
    gene_mse: Array
    """(S, G) mean squared error."""
    gene_pooled: Array
    """(G,) Pearson correlation over the cells of all slides together."""

    @property
    def slide_pcc(self) -> Array:
        """(S,) mean over the genes that have a correlation."""
        return nanmean(self.gene_pcc, axis=1)

    @property
    def pcc(self) -> float:
        """Mean of `slide_pcc` over slides."""
        return float(nanmean(self.slide_pcc, axis=0))

    @property
    def pcc_pooled(self) -> float:
        """Mean of `gene_pooled` over genes. Differences between the means of slides count in it and inflate it."""
        return float(nanmean(self.gene_pooled, axis=0))

    @property
    def r2(self) -> float:
        """Mean of `gene_r2` over the genes of each slide, then over slides."""
        return float(nanmean(nanmean(self.gene_r2, axis=1), axis=0))

    @property
    def mse(self) -> float:
        """Mean of `gene_mse`, likewise."""
        return float(nanmean(nanmean(self.gene_mse, axis=1), axis=0))

    @property
    def n_undefined(self) -> int:
        """Pairs of slide and gene without a correlation, which are in no mean."""
        return int((~np.isfinite(self.gene_pcc)).sum())


def regression(truth: ArrayLike, prediction: ArrayLike, *, slide: ArrayLike | None = None) -> RegressionScores:
    """Scores of predicted expression, gene by gene within each slide.

    A gene that is constant in a slide has no correlation there: it is left out of that slide's mean and counted in
    ``n_undefined`` instead of entering as 0.

    Parameters
    ----------
    truth, prediction
        (N, G), or (N,) for one gene; the truth finite. A gene whose prediction is not finite in a cell of a slide has
        no score in that slide.
    slide
        (N,) slide of each cell; ``None`` takes all cells as one slide.

    Returns
    -------
    `RegressionScores`.

    Raises
    ------
    ValueError
        If shapes do not fit, there is no cell, or the truth is not finite.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> made = lm.metrics.regression([0, 1, 2, 5, 6, 7], [1, 2, 3, 3, 2, 1], slide=list("aaabbb"))
    >>> made.slide_pcc.round(3).tolist(), round(made.pcc_pooled, 3)
    ([1.0, -1.0], 0.0)
    """
    y, guess = (_columns(values) for values in (truth, prediction))
    if y.ndim != 2 or y.shape != guess.shape or not len(y):
        msg = f"`truth` and `prediction` must both be (N, G) with N >= 1, got shapes {y.shape} and {guess.shape}."
        raise ValueError(msg)
    if not np.isfinite(y).all():
        raise bad_value("truth", must="be finite", got=f"{int((~np.isfinite(y)).sum())} values that are not")
    of = np.zeros(len(y), dtype="U1") if slide is None else np.asarray(slide).astype(str)
    if of.shape != (len(y),):
        raise bad_value("slide", must=f"name the slide of each of the {len(y)} cells", got=f"shape {of.shape}")
    names, code = np.unique(of, return_inverse=True)
    scores = [_within(y[code == s], guess[code == s]) for s in range(len(names))]
    gene_pcc, gene_r2, gene_mse = (np.stack(kind) for kind in zip(*scores, strict=True))
    whole = np.isfinite(guess).all(axis=0)
    pooled = np.full(y.shape[1], np.nan)
    pooled[whole] = pearson(y[:, whole], guess[:, whole])
    return RegressionScores(
        slides=tuple(names.tolist()), gene_pcc=gene_pcc, gene_r2=gene_r2, gene_mse=gene_mse, gene_pooled=pooled
    )


def _columns(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def _within(y: Array, guess: Array) -> tuple[Array, Array, Array]:
    """Correlation, R2 and squared error of each gene over the cells of one slide, (G,) each."""
    whole = np.isfinite(guess).all(axis=0)
    r, r2, mse = np.full((3, y.shape[1]), np.nan)
    if not whole.any():
        return r, r2, mse
    y, guess = y[:, whole], guess[:, whole]
    r[whole] = pearson(y, guess)
    mse[whole] = mean_squared_error(y, guess, multioutput="raw_values")
    if len(y) >= MIN_CELLS - 1:
        constant = y.std(axis=0) <= constant_floor(y)
        r2[whole] = np.where(constant, np.nan, r2_score(y, guess, multioutput="raw_values"))
    return r, r2, mse
