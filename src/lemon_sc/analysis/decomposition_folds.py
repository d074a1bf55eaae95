"""Each patient decomposed by a network that has not seen them, and stopped on spots that are not theirs either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.log import progress
from lemon_sc.analysis.decomposition import LEAST, DecompositionProtocol, fit_decomposition
from lemon_sc.analysis.splits import spatial_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

N_BLOCKS = 5
"""Parts of a single slide, of which one decides when to stop."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposition:
    """Held-out compositions. N spots, C cell types, F groups."""

    predictions: Array
    """(N, C)"""
    baseline: Array
    """(N, C) mean of the spots that the network of each spot learned from: what a guess without an image would say."""
    groups: tuple[str, ...]
    """F names, sorted."""
    n_train: NDArray[np.intp]
    """(F,) spots that each network learned from."""
    epochs: NDArray[np.intp]
    """(F,) epochs run."""
    best_epoch: NDArray[np.intp]
    """(F,) epoch of the weights used."""
    stopped_on: tuple[str, ...]
    """F texts: on which spots each network was stopped."""


def decompose_held_out(
    x_ND: NDArray[np.floating],
    y_NC: NDArray[np.floating],
    *,
    groups: NDArray[np.str_],
    slides: NDArray[np.str_],
    xy: NDArray[np.floating] | None,
    target: str,
    protocol: DecompositionProtocol,
    rng: np.random.Generator,
) -> Decomposition:
    """Predict each group from the others.

    Training is stopped on a group drawn from the others. Where there is only one other, it is stopped on one of its
    slides; where that has one slide, on blocks of it; without coordinates, after all epochs.

    Parameters
    ----------
    x_ND
        Features, finite.
    y_NC
        Compositions; rows of NaN are predicted, and neither learned from nor stopped on.
    groups
        (N,) patient (or cohort) of each spot.
    slides
        (N,) slide of each spot.
    xy
        (N, 2) centres within the slide, or ``None``.
    target, protocol, rng
        As for `fit_decomposition`.

    Returns
    -------
    `Decomposition`.

    Raises
    ------
    ValueError
        If a group has too few spots with a known composition to learn from in the other groups.
    """
    known = np.isfinite(y_NC).all(axis=1)
    names = np.unique(groups)
    predictions, baseline = np.full((2, *y_NC.shape), np.nan)
    made = []
    with progress(total=len(names), desc="decompose", unit="fits") as bar:
        for name, fold_rng in zip(names, rng.spawn(len(names)), strict=True):
            train, test = known & (groups != name), groups == name
            if not train.any():
                msg = f"No spot of a group other than {str(name)!r} has a known composition to learn from."
                raise ValueError(msg)
            x, y = x_ND[train], y_NC[train]
            valid, on = _to_stop_on(groups[train], slides[train], None if xy is None else xy[train], rng=fold_rng)
            if (~valid).sum() < LEAST:
                msg = (
                    f"To predict {str(name)!r}, {int((~valid).sum())} spots of other groups are left to learn from "
                    f"(training stops on {on}, {int(valid.sum())} spots); it takes {LEAST}. Leave groups of so few "
                    "spots out."
                )
                raise ValueError(msg)
            fitted = fit_decomposition(x, y, valid=valid, target=target, protocol=protocol, rng=fold_rng)
            predictions[test] = fitted.predict(x_ND[test])
            baseline[test] = y[~valid].mean(axis=0)
            made.append((len(y) - int(valid.sum()), fitted.epochs, fitted.best_epoch, on))
            bar.update()
    n_train, epochs, best, stopped_on = zip(*made, strict=True)
    return Decomposition(
        predictions=predictions,
        baseline=baseline,
        groups=tuple(names.tolist()),
        n_train=np.array(n_train),
        epochs=np.array(epochs),
        best_epoch=np.array(best),
        stopped_on=stopped_on,
    )


def _to_stop_on(
    groups: NDArray[np.str_], slides: NDArray[np.str_], xy: NDArray[np.floating] | None, *, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], str]:
    """(N,) training spots to stop on, and what they are in words."""
    names = np.unique(groups)
    enough = [name for name in names if (groups != name).sum() >= LEAST]  # is left without it
    if len(names) > 1 and enough:
        drawn = str(rng.choice(enough))
        return groups == drawn, f"group {drawn}"
    of = np.unique(slides)
    if len(of) > 1:
        drawn = str(rng.choice(of))
        return slides == drawn, f"slide {drawn} of group {names[0]}"
    try:
        codes = spatial_blocks(xy, rng=rng, n_folds=N_BLOCKS).codes if xy is not None else None
    except ValueError:  # too few spots, or all at one place
        codes = None
    if codes is None:
        return np.zeros(len(groups), dtype=bool), "nothing: all epochs"
    return codes == 0, f"blocks of slide {of[0]}"
