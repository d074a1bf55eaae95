"""Scores of predicted cell-type compositions: within each slide, then averaged; pooled over slides beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.metrics.means import nanmean
from lemon_sc.metrics.regression import regression

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class DecompositionScores:
    """Scores of each cell type in each slide, and their means. S slides, C cell types."""

    slides: tuple[str, ...]
    """S names, sorted."""
    type_cc: Array
    """(S, C) Pearson correlation over the spots of a slide; NaN where the truth or the prediction is constant, or there
    are fewer than three spots."""
    type_l1: Array
    """(S, C) mean absolute error, in units of the truth."""
    type_pooled: Array
    """(C,) Pearson correlation over the spots of all slides together."""

    @property
    def slide_cc(self) -> Array:
        """(S,) mean over the types that have a correlation."""
        return nanmean(self.type_cc, axis=1)

    @property
    def slide_l1(self) -> Array:
        """(S,) mean over types."""
        return nanmean(self.type_l1, axis=1)

    @property
    def cc(self) -> float:
        """Mean of `slide_cc` over slides."""
        return float(nanmean(self.slide_cc, axis=0))

    @property
    def l1(self) -> float:
        """Mean of `slide_l1` over slides.

        It grows with the totals of the truth: abundances and proportions, or two cohorts, cannot be compared by it.
        """
        return float(nanmean(self.slide_l1, axis=0))

    @property
    def cc_pooled(self) -> float:
        """Mean of `type_pooled` over types. Differences between the means of slides count in it and inflate it."""
        return float(nanmean(self.type_pooled, axis=0))

    @property
    def n_undefined(self) -> int:
        """Pairs of slide and type without a correlation, which are in no mean."""
        return int((~np.isfinite(self.type_cc)).sum())


def decomposition(truth: ArrayLike, prediction: ArrayLike, *, slide: ArrayLike | None = None) -> DecompositionScores:
    """Scores of predicted cell-type compositions, type by type within each slide.

    A type that is constant in a slide has no correlation there: it is left out of that slide's mean and counted in
    ``n_undefined`` instead of entering as 0.

    Parameters
    ----------
    truth
        (N, C) abundances or proportions, finite.
    prediction
        (N, C) in the same units.
    slide
        (N,) the slide of each spot; ``None`` takes all spots for one.

    Returns
    -------
    `DecompositionScores`.

    Raises
    ------
    ValueError
        If shapes differ, or values of the truth are not finite.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> made = lm.metrics.decomposition([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]], [[0.3, 0.7], [0.7, 0.3], [0.6, 0.4]])
    >>> round(made.cc, 3), round(made.l1, 3)
    (1.0, 0.1)
    """
    found = regression(truth, prediction, slide=slide)
    error = np.abs(np.asarray(truth, dtype=np.float64) - np.asarray(prediction, dtype=np.float64))
    error = error.reshape(len(error), -1)
    of = np.full(len(error), found.slides[0]) if slide is None else np.asarray(slide).astype(str)
    l1 = np.stack([error[of == name].mean(axis=0) for name in found.slides])
    return DecompositionScores(slides=found.slides, type_cc=found.gene_pcc, type_l1=l1, type_pooled=found.gene_pooled)
