"""The tables of a decomposition: scores by slide and type, their summaries, co-localisation, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc.analysis.colocalization import agreement, bivariate_morans, lattice_neighbours
from lemon_sc.metrics.decomposition import decomposition
from lemon_sc.metrics.means import nanmean, nanstd
from lemon_sc.metrics.uncertainty import bootstrap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.analysis.decomposition_folds import Decomposition
    from lemon_sc.tl._decompose import Spots

    Array = NDArray[np.float64]

MEANS = ("cc", "l1", "l1_mean", "colocalization_cosine", "colocalization_correlation")
"""Scores of a slide that are averaged over slides."""


def decomposition_tables(
    made: Decomposition, y_NC: Array, spots: Spots, *, types: list[str], rng: np.random.Generator
) -> dict[str, Any]:
    """What the record holds of the scores.

    Parameters
    ----------
    made
        Held-out predictions.
    y_NC
        The truth; NaN rows are not scored.
    spots
        What was predicted.
    types
        Names of the cell types.
    rng
        Draws the bootstrap.

    Returns
    -------
    Entries of the record.
    """
    known = np.isfinite(y_NC).all(axis=1)
    y, guess, slide = y_NC[known], made.predictions[known], spots.slides[known]
    found = decomposition(y, guess, slide=slide)
    without = decomposition(y, made.baseline[known], slide=slide)
    index = pd.Index(types, dtype=object)
    summary = pd.DataFrame(
        {
            "cc": nanmean(found.type_cc, axis=0),
            "cc_sd": nanstd(found.type_cc, axis=0),
            "cc_pooled": found.type_pooled,
            "l1": found.type_l1.mean(axis=0),
            "l1_mean": without.type_l1.mean(axis=0),
            "n_undefined": (~np.isfinite(found.type_cc)).sum(axis=0),
        },
        index=index,
    )
    n = [int((slide == name).sum()) for name in found.slides]
    scores = pd.DataFrame(
        {
            "slide": np.repeat(np.array(found.slides, dtype=object), len(types)),
            "type": np.tile(np.array(types, dtype=object), len(found.slides)),
            "n": np.repeat(n, len(types)),
            "cc": found.type_cc.ravel(),
            "l1": found.type_l1.ravel(),
        }
    )
    scores.index = scores.index.astype(str)
    true_R, guessed_R, alike = _colocalization(y, guess, slide, None if spots.xy is None else spots.xy[known])
    of = dict(zip(spots.slides.tolist(), zip(spots.groups.tolist(), spots.sections.tolist(), strict=True), strict=True))
    everywhere = sorted(of)  # with slides that have no composition: predicted, not scored
    scored = pd.DataFrame(
        {
            "n": n,
            "cc": found.slide_cc,
            "l1": found.slide_l1,
            "l1_mean": without.slide_l1,
            "colocalization_cosine": alike[:, 0],
            "colocalization_correlation": alike[:, 1],
            "n_undefined": (~np.isfinite(found.type_cc)).sum(axis=1),
        },
        index=pd.Index(found.slides, dtype=object),
    ).reindex(pd.Index(everywhere, dtype=object))
    named = {"group": [of[name][0] for name in everywhere], "section": [of[name][1] for name in everywhere]}
    by_slide = pd.DataFrame(named, index=scored.index).join(scored)
    by_slide = by_slide.fillna({"n": 0, "n_undefined": 0}).astype({"n": int, "n_undefined": int})
    by_group = pd.DataFrame(
        {
            "n_train": made.n_train,
            "epochs": made.epochs,
            "best_epoch": made.best_epoch,
            "stopped_on": np.array(made.stopped_on, dtype=object),
        },
        index=pd.Index(made.groups, dtype=object),
    )
    return {
        "summary": summary,
        "scores": scores,
        "slides": by_slide,
        "groups": by_group,
        "colocalization": pd.DataFrame(true_R, index=index, columns=index),
        "colocalization_predicted": pd.DataFrame(guessed_R, index=index, columns=index),
        "intervals": _intervals(by_slide, rng),
        **{name: float(nanmean(by_slide[name].to_numpy(dtype=float), axis=0)) for name in MEANS},
        "cc_pooled": found.cc_pooled,
        "n_undefined": found.n_undefined,
    }


def _colocalization(y: Array, guess: Array, slide: NDArray[np.str_], xy: Array | None) -> tuple[Array, Array, Array]:
    """True and predicted matrices, mean over slides, and (S, 2) how alike they are; NaN where there is no lattice."""
    names = np.unique(slide)
    R = np.full((2, len(names), y.shape[1], y.shape[1]), np.nan)
    alike = np.full((len(names), 2), np.nan)
    for s, name in enumerate(names):
        rows = slide == name
        if xy is None or len(np.unique(xy[rows], axis=0)) < 3:
            continue
        w = lattice_neighbours(xy[rows])
        if w.nnz:
            R[0, s], R[1, s] = bivariate_morans(w, y[rows]), bivariate_morans(w, guess[rows])
            made = agreement(R[0, s], R[1, s])
            alike[s] = made.cosine, made.correlation
    return nanmean(R[0], axis=0), nanmean(R[1], axis=0), alike


def _intervals(by_slide: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """95 % intervals of the means over slides."""
    rows = []
    for name in MEANS:
        values = by_slide[name].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        made = bootstrap(values, rng=rng) if len(values) > 1 else None
        ends = (np.nan, np.nan) if made is None else (made.low, made.high)
        rows.append({"low": ends[0], "high": ends[1], "n_units": len(values)})
    return pd.DataFrame(rows, index=pd.Index(MEANS, dtype=object))
