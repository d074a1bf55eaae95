"""Finding tiles that may hold a rare type: small classifiers on tile features, the best of twelve."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier

from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc.seg.active import checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    Rows = NDArray[np.intp]

Scaling: TypeAlias = Literal["global", "slide", "cohort"]
SCALINGS: tuple[Scaling, ...] = ("global", "slide", "cohort")
DEPTHS: tuple[tuple[int, ...], ...] = ((256,), (256, 64))
"""Hidden layers."""
FOLDS = 3
EPOCHS = 100


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one of the classifiers is made."""

    features: str
    """Name of the features it sees."""
    hidden: tuple[int, ...]
    """Widths of its hidden layers."""
    scaling: Scaling
    """Whose mean and sd its features are standardised with: of all training tiles, of the slide, or of the cohort."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tiles:
    """N tiles with two names each."""

    features: Mapping[str, Array]
    slide: NDArray[np.str_]
    cohort: NDArray[np.str_]

    def scaled(self, choice: Choice) -> Array:
        """Features that are standardised within slide or cohort; as they are with one scale for all."""
        x = self.features[choice.features]
        if choice.scaling == "global":
            return x
        out = np.empty_like(x)
        groups = self.slide if choice.scaling == "slide" else self.cohort
        for name in np.unique(groups):
            rows = groups == name
            out[rows] = (x[rows] - x[rows].mean(axis=0)) / _sd(x[rows])
        return out


@dataclass(frozen=True, eq=False, kw_only=True)
class RareTypeModel:
    """The classifier that was chosen, fitted on all tiles."""

    choice: Choice
    """Which of the candidates it is."""
    accuracy: dict[Choice, float]
    """Balanced accuracy of every candidate on held-out slides, by which it was chosen."""
    nested_accuracy: float
    """Balanced accuracy of the whole procedure, the choice included, on slides that took no part in it."""
    network: MLPClassifier
    """The fitted network."""
    mean: Array
    """(D,) of the training features."""
    sd: Array
    """(D,)"""

    def probability(self, features: Mapping[str, ArrayLike], *, slide: ArrayLike, cohort: ArrayLike) -> Array:
        """Probability (N,) that each tile holds the type; tiles of whole slides, whose own mean and sd may be used."""
        tiles = _tiles(features, slide, cohort)
        if self.choice.features not in tiles.features:
            raise missing_key(self.choice.features, where="features", have=features)
        x = (tiles.scaled(self.choice) - self.mean) / self.sd
        return self.network.predict_proba(x)[:, 1]


def fit_rare_type(
    features: Mapping[str, ArrayLike],
    positive: ArrayLike,
    *,
    slide: ArrayLike,
    cohort: ArrayLike,
    hidden: tuple[tuple[int, ...], ...] = DEPTHS,
    rng: RNG = 0,
) -> RareTypeModel:
    """Choose a classifier of tiles by cross-validation, and fit it on all.

    Candidates are all features with all depths and all three scalings: twelve with two features. Folds hold whole
    slides, stratified by cohort and answer. Tiles without the type are many: in training, those with it are drawn
    again until they are as many.

    Parameters
    ----------
    features
        (N, D) tile embeddings by name.
    positive
        (N,) whether a tile holds the type.
    slide
        (N,) slide of each tile.
    cohort
        (N,) cohort of each tile.
    hidden
        Widths of the hidden layers, one tuple per depth.
    rng
        Seed or generator.

    Returns
    -------
    `RareTypeModel`.

    Raises
    ------
    ValueError
        If lengths differ, or fewer than four slides hold the type or fewer than four are without it: nested folds need
        both on either side.
    """
    tiles = _tiles(features, slide, cohort)
    y = np.asarray(positive).astype(bool)
    if y.shape != tiles.slide.shape:
        raise bad_value("positive", must=f"have one entry for each of {len(tiles.slide)} tiles", got=f"shape {y.shape}")
    for name, is_it in (("with", y), ("without", ~y)):
        n = len(np.unique(tiles.slide[is_it]))
        if n < FOLDS + 1:
            raise bad_value("positive", must=f"have tiles {name} the type in at least {FOLDS + 1} slides", got=n)
    generator = as_generator(rng)
    choices = [Choice(features=f, hidden=h, scaling=s) for f, h, s in product(tiles.features, hidden, SCALINGS)]
    rows = np.arange(len(y))
    nested = []
    for train, test in _folds(tiles, y, rows, generator):
        best = _best(_accuracies(tiles, y, train, choices, generator))
        nested.append(_accuracy(tiles, y, train, test, best, generator))
    accuracy = _accuracies(tiles, y, rows, choices, generator)
    choice = _best(accuracy)
    network, mean, sd = _fitted(tiles.scaled(choice), y, rows, choice, generator)
    return RareTypeModel(
        choice=choice,
        accuracy=accuracy,
        nested_accuracy=float(np.mean(nested)),
        network=network,
        mean=mean,
        sd=sd,
    )


def _tiles(features: Mapping[str, ArrayLike], slide: ArrayLike, cohort: ArrayLike) -> _Tiles:
    if not features:
        raise bad_value("features", must="hold embeddings by name", got={})
    each = {name: checked(x, slide) for name, x in features.items()}
    first = next(iter(each.values()))[1]
    cohorts = np.asarray(cohort).astype(str)
    if cohorts.shape != first.shape:
        raise bad_value("cohort", must=f"have one entry for each of {len(first)} tiles", got=f"shape {cohorts.shape}")
    return _Tiles(features={name: x for name, (x, _) in each.items()}, slide=first, cohort=cohorts)


def _folds(tiles: _Tiles, y: NDArray[np.bool_], rows: Rows, rng: np.random.Generator) -> Iterator[tuple[Rows, Rows]]:
    """Training and test rows, whole slides, each with tiles of either answer to learn from."""
    strata = np.char.add(tiles.cohort[rows], y[rows].astype(str))
    split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():  # a stratum with fewer tiles than folds is spread as far as it goes
        warnings.simplefilter("ignore", UserWarning)
        pairs = list(split.split(rows, strata, tiles.slide[rows]))
    for train, test in pairs:
        if len(np.unique(y[rows[train]])) == 2 and len(test):
            yield rows[train], rows[test]


def _accuracies(
    tiles: _Tiles, y: NDArray[np.bool_], rows: Rows, choices: list[Choice], rng: np.random.Generator
) -> dict[Choice, float]:
    folds = list(_folds(tiles, y, rows, rng))
    return {c: float(np.mean([_accuracy(tiles, y, *fold, c, rng) for fold in folds])) for c in choices}


def _best(accuracy: dict[Choice, float]) -> Choice:
    return max(accuracy, key=accuracy.__getitem__)


def _accuracy(
    tiles: _Tiles, y: NDArray[np.bool_], train: Rows, test: Rows, choice: Choice, rng: np.random.Generator
) -> float:
    x = tiles.scaled(choice)
    network, mean, sd = _fitted(x, y, train, choice, rng)
    with warnings.catch_warnings():  # a fold may hold one answer only: its recall alone is then the score
        warnings.simplefilter("ignore", UserWarning)
        return float(balanced_accuracy_score(y[test], network.predict((x[test] - mean) / sd)))


def _fitted(
    x: Array, y: NDArray[np.bool_], rows: Rows, choice: Choice, rng: np.random.Generator
) -> tuple[MLPClassifier, Array, Array]:
    """The network and the scale of its features, from the given rows."""
    mean, sd = x[rows].mean(axis=0), _sd(x[rows])
    have, lack = rows[y[rows]], rows[~y[rows]]
    few, many = (have, lack) if len(have) < len(lack) else (lack, have)
    drawn = np.concatenate([rows, rng.choice(few, size=len(many) - len(few))])
    network = MLPClassifier(choice.hidden, max_iter=EPOCHS, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():  # a fixed number of epochs, not convergence, is what keeps it from overfitting
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit((x[drawn] - mean) / sd, y[drawn])
    return network, mean, sd


def _sd(x: Array) -> Array:
    """Standard deviation of the columns, 1 where it is nothing but rounding."""
    sd = x.std(axis=0)
    return np.where(sd > 1e-9 * np.abs(x).max(axis=0, initial=0), sd, 1.0)
