"""How sure a score is, and whether one encoder beats another: by drawing again what varies, which is seldom the cell.

Cells of one slide are not independent. Scores that are to hold for new slides are uncertain by the number of slides, so
whole slides are drawn; drawing cells would give an interval that is far too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc._core.rng import RNG, as_generator, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    Rows = NDArray[np.intp]

_TIE = 1e-9
"""Differences this close, as part of the observed one, are equal: sums in another order round differently."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Interval:
    """A score and its bootstrap interval."""

    value: float
    """On all units."""
    low: float
    """Lower end; NaN if no draw has a score."""
    high: float
    """Upper end."""
    level: float
    """Share of the draws inside."""
    n_units: int
    """Units that were drawn from. With fewer than about ten, the interval is too narrow."""
    n_draws: int
    """Draws asked for."""
    n_undefined: int
    """Draws without a score (a class is missing, say), which are left out."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PairedTest:
    """Two encoders on the same cells."""

    first: float
    """Score of the first."""
    second: float
    """Score of the second."""
    low: float
    """Lower end of the bootstrap interval of `difference`."""
    high: float
    """Upper end."""
    pvalue: float
    """Two-sided, of the permutation test."""
    level: float
    """Share of the draws inside the interval."""
    n_units: int
    """Units that were drawn and swapped. The smallest p-value of u units is ``2 / 2**u``."""
    n_undefined: int
    """Draws and swaps without a score, which are left out."""

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


def bootstrap(
    data: ArrayLike | tuple[ArrayLike, ...],
    *,
    score: Callable[..., float] = np.mean,
    units: ArrayLike | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    rng: RNG = 0,
) -> Interval:
    """Percentile bootstrap interval of a score.

    Units are drawn with replacement, each with all of its rows.

    Parameters
    ----------
    data
        Values of folds or slides, to average: ``bootstrap(scores)``. Or a tuple of arrays of the same length that
        `score` takes: ``bootstrap((truth, probability), score=..., units=slide)``.
    score
        From the drawn rows of each array to a number; NaN where there is none.
    units
        (N,) what each row belongs to and what is drawn: slide, patient, fold. ``None`` draws single rows.
    n_draws
        Number of draws.
    level
        Share of the draws that the interval holds.
    rng
        Seed or generator.

    Returns
    -------
    `Interval`.

    Raises
    ------
    ValueError
        If lengths differ, there are fewer than two units, or `level` or `n_draws` is out of range.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> made = lm.metrics.bootstrap([0.71, 0.74, 0.78, 0.69, 0.75])
    >>> round(made.value, 3), made.low < made.value < made.high
    (0.734, True)
    """
    arrays = _arrays(data if isinstance(data, tuple) else (data,))
    rows_of = rows_of_units(units, len(arrays[0]))
    check_draws(n_draws, level)
    draws = np.array([score(*(a[rows] for a in arrays)) for rows in _drawn(rows_of, n_draws, as_generator(rng))])
    return percentile_interval(float(score(*arrays)), draws, level=level, n_units=len(rows_of))


def percentile_interval(value: float, draws: Array, *, level: float, n_units: int) -> Interval:
    """Interval between percentiles of a score on drawn units.

    Parameters
    ----------
    value
        Score on all units.
    draws
        Score of each draw; NaN where it has none.
    level
        Share of the draws inside.
    n_units
        Units that were drawn from.

    Returns
    -------
    `Interval`.
    """
    low, high = _ends(draws, level)
    missing = int((~np.isfinite(draws)).sum())
    return Interval(
        value=value, low=low, high=high, level=level, n_units=n_units, n_draws=len(draws), n_undefined=missing
    )


def paired_test(
    first: ArrayLike,
    second: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    score: Callable[..., float] = np.mean,
    units: ArrayLike | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    rng: RNG = 0,
) -> PairedTest:
    """Compare two encoders on the same units.

    The interval of the difference draws units with replacement, the same for both. The p-value swaps the two encoders
    unit by unit, at random, and counts how often the difference is as large as the observed one: all ``2**units`` ways
    where there are no more than `n_draws` of them.

    Parameters
    ----------
    first, second
        Scores by fold or slide, (U,), in the same order. Or predictions, (N, ...), for which `truth` and `score` are
        given.
    truth
        (N, ...) what `score` compares predictions with; ``None`` calls ``score(predictions)``.
    score
        ``score(truth, prediction)``, or ``score(values)`` without a truth.
    units
        (N,) what each row belongs to: slide, patient, fold. ``None`` takes single rows.
    n_draws
        Number of draws, and of swaps.
    level
        Share of the draws that the interval holds.
    rng
        Seed or generator.

    Returns
    -------
    `PairedTest`.

    Raises
    ------
    ValueError
        If lengths differ, there are fewer than two units, or `level` or `n_draws` is out of range.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> made = lm.metrics.paired_test([0.60, 0.64, 0.61, 0.66, 0.63], [0.70, 0.71, 0.73, 0.74, 0.70])
    >>> round(made.difference, 3), made.pvalue
    (0.088, 0.0625)
    """
    a, b, *given = _pair(first, second, *(() if truth is None else (truth,)))
    rows_of = rows_of_units(units, len(a))
    check_draws(n_draws, level)
    draw_rng, swap_rng = spawn(rng, 2)

    def difference(x: NDArray[Any], y: NDArray[Any], rows: Rows) -> float:
        known = [g[rows] for g in given]
        return float(score(*known, y[rows]) - score(*known, x[rows]))

    draws = np.array([difference(a, b, rows) for rows in _drawn(rows_of, n_draws, draw_rng)])
    low, high = _ends(draws, level)
    every = np.arange(len(a))
    swaps, exact = _swaps(len(rows_of), n_draws, swap_rng)
    unit_of = np.empty(len(a), dtype=np.intp)
    for u, rows in enumerate(rows_of):
        unit_of[rows] = u
    swapped = np.empty(len(swaps))
    for i, swap in enumerate(swaps):
        which = swap[unit_of].reshape(-1, *[1] * (a.ndim - 1))
        swapped[i] = difference(np.where(which, b, a), np.where(which, a, b), every)
    return PairedTest(
        first=float(score(*given, a)),
        second=float(score(*given, b)),
        low=low,
        high=high,
        pvalue=_pvalue(difference(a, b, every), swapped, exact=exact),
        level=level,
        n_units=len(rows_of),
        n_undefined=int((~np.isfinite(draws)).sum() + (~np.isfinite(swapped)).sum()),
    )


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    score: Callable[..., float] = np.mean,
    units: ArrayLike | None = None,
    n_draws: int = 1000,
    rng: RNG = 0,
) -> float:
    """P-value of a difference as HistoPLUS reports it, from draws of images.

    Both models are scored on the same drawn images; the value is twice the smaller of the shares of draws in which
    either is better or equal, and at least one by the number of draws. `paired_test` gives the interval and a
    permutation test, which holds its level with few images, too.

    Parameters
    ----------
    first, second
        (n, ...) values or counts of the n images, in the same order.
    score
        From drawn rows to a number.
    units
        (n,) what is drawn whole: the slide of each image. ``None`` draws images.
    n_draws
        Number of draws.
    rng
        Seed or generator.

    Returns
    -------
    The p-value; NaN if no draw has a score.

    Raises
    ------
    ValueError
        If lengths differ, or there are fewer than two units or one draw.
    """
    a, b = _pair(first, second)
    rows_of = rows_of_units(units, len(a))
    check_draws(n_draws)
    gaps = [score(b[rows]) - score(a[rows]) for rows in _drawn(rows_of, n_draws, as_generator(rng))]
    gap = np.array(gaps)[np.isfinite(gaps)]
    if not len(gap):
        return float("nan")
    return float(np.clip(2 * min((gap <= 0).mean(), (gap >= 0).mean()), 1 / n_draws, 1))


def _arrays(data: Sequence[ArrayLike]) -> list[NDArray[Any]]:
    arrays = [np.asarray(values) for values in data]
    lengths = {len(a) if a.ndim else 0 for a in arrays}
    if len(lengths) != 1:
        raise bad_value("data", must="be arrays of one length", got=[a.shape for a in arrays])
    return arrays


def _pair(first: ArrayLike, second: ArrayLike, *given: ArrayLike) -> list[NDArray[Any]]:
    """Arrays of one length, the first two of one shape."""
    arrays = _arrays((first, second, *given))
    if arrays[0].shape != arrays[1].shape:
        msg = f"`first` and `second` must have the same shape, got {arrays[0].shape} and {arrays[1].shape}."
        raise ValueError(msg)
    return arrays


def rows_of_units(units: ArrayLike | None, n: int) -> list[Rows]:
    """Rows of each unit.

    Parameters
    ----------
    units
        (n,) what each row belongs to; ``None``: each to itself.
    n
        Number of rows.

    Returns
    -------
    Row indices, unit by unit.

    Raises
    ------
    ValueError
        If lengths differ, or there are fewer than two units.
    """
    labels = np.arange(n) if units is None else np.asarray(units)
    if labels.shape != (n,):
        raise bad_value("units", must=f"have one label for each of the {n} rows", got=f"shape {labels.shape}")
    if labels.dtype == object:
        labels = labels.astype(str)
    names, code = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise bad_value("units", must="be at least two, to be drawn from", got=names.tolist())
    order = np.argsort(code, kind="stable")
    return np.split(order, np.cumsum(np.bincount(code))[:-1])


def check_draws(n_draws: int, level: float | None = None) -> None:
    """Raise unless there is a draw, and the level is a share.

    Parameters
    ----------
    n_draws, level
        As for `bootstrap`.

    Raises
    ------
    ValueError
        If one is out of range.
    """
    if isinstance(n_draws, bool) or not isinstance(n_draws, int | np.integer) or n_draws < 1:
        raise bad_value("n_draws", must="be an int >= 1", got=n_draws)
    if level is not None and not 0 < level < 1:
        raise bad_value("level", must="lie between 0 and 1", got=level)


def _drawn(rows_of: list[Rows], n_draws: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Rows of as many units as there are, drawn with replacement, again and again."""
    single = np.concatenate(rows_of) if max(map(len, rows_of)) == 1 else None
    for _ in range(n_draws):
        picked = rng.integers(len(rows_of), size=len(rows_of))
        yield np.concatenate([rows_of[u] for u in picked]) if single is None else single[picked]


def _ends(draws: Array, level: float) -> tuple[float, float]:
    there = draws[np.isfinite(draws)]
    if not len(there):
        return float("nan"), float("nan")
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _swaps(n_units: int, n_draws: int, rng: np.random.Generator) -> tuple[NDArray[np.bool_], bool]:
    """(P, units) which units are swapped, and whether these are all ways."""
    if 2.0**n_units <= n_draws:
        return np.array(list(product([False, True], repeat=n_units))), True
    return rng.random((n_draws, n_units)) < 0.5, False


def _pvalue(observed: float, swapped: Array, *, exact: bool) -> float:
    """Share of the swaps with at least the observed difference; among random ones, the observed counts as one."""
    there = swapped[np.isfinite(swapped)]
    if not np.isfinite(observed) or not len(there):
        return float("nan")
    n_large = int((np.abs(there) >= abs(observed) * (1 - _TIE)).sum())
    return n_large / len(there) if exact else (1 + n_large) / (1 + len(there))
