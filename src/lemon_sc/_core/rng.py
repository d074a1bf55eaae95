"""Randomness: always an explicit `numpy.random.Generator`."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from lemon_sc._core.errors import bad_value

RNG: TypeAlias = "int | np.random.Generator"


def as_generator(rng: RNG) -> np.random.Generator:
    """Generator from a seed; a Generator is passed through.

    Parameters
    ----------
    rng
        Seed, an int of 0 or more, or a Generator.

    Returns
    -------
    A Generator.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        raise bad_value("rng", must="be an int >= 0 or a numpy Generator", got=rng)
    return np.random.default_rng(int(rng))


def spawn(rng: RNG, n: int) -> list[np.random.Generator]:
    """Independent streams, so that one consumer's draws do not shift another's.

    Parameters
    ----------
    rng
        Seed or Generator; a Generator gives other streams each time.
    n
        How many.

    Returns
    -------
    `n` Generators.
    """
    return as_generator(rng).spawn(n)
