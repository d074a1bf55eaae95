"""Folds of a task, by the kind of what must not stand on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from lemon_sc._core.errors import bad_value
from lemon_sc.analysis.splits import Folds, leave_one_group_out, spatial_blocks, stratified

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

N_FOLDS = 5


def grouped(labels: ArrayLike, groups: ArrayLike, *, seed: int = 0) -> Folds:
    """Folds of whole groups, as even in their classes as can be.

    Parameters
    ----------
    labels, groups
        (N,) class and group of each nucleus.
    seed
        Of the draw.

    Returns
    -------
    Five folds, or as many as there are groups.

    Raises
    ------
    ValueError
        If there is only one group.
    """
    names = np.asarray(labels).astype(str)
    held = np.asarray(groups).astype(str)
    n_folds = min(N_FOLDS, len(np.unique(held)))
    if n_folds < 2:
        raise bad_value("groups", must="be at least two, one to hold out and one to learn from", got=sorted(set(held)))
    codes = np.empty(len(names), dtype=np.intp)
    split = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(names, names, held)
    for f, (_, test) in enumerate(split):
        codes[test] = f
    return Folds(kind="groups", codes=codes, names=tuple(f"fold_{f}" for f in range(n_folds)))


def class_folds(nuclei: pd.DataFrame, protocol: str, *, seed: int) -> Folds:
    """Folds to predict classes in.

    Parameters
    ----------
    nuclei
        Rows with ``label``, ``slide``, and ``patient`` or ``x`` and ``y`` where the protocol asks for them.
    protocol
        One of `lemon_sc.bench.kinds.PROTOCOLS`.
    seed
        Of the draw.

    Returns
    -------
    The folds.
    """
    if protocol == "stratified":
        return stratified(nuclei["label"].to_numpy(str), rng=np.random.default_rng(seed), n_folds=N_FOLDS)
    if protocol == "blocks":
        return _blocks(nuclei, seed=seed)
    return grouped(nuclei["label"], nuclei[protocol], seed=seed)


def expression_folds(nuclei: pd.DataFrame, protocol: str, *, seed: int) -> Folds:
    """Folds to predict expression in: each slide is held out once, or blocks of the only one.

    Parameters
    ----------
    nuclei
        Rows with ``slide``, and ``patient`` or ``x`` and ``y`` where the protocol asks for them.
    protocol
        ``"slide"``, ``"patient"`` (a slide is predicted from slides of other patients) or ``"blocks"``.
    seed
        Of the draw.

    Returns
    -------
    The folds.
    """
    if protocol == "blocks":
        return _blocks(nuclei, seed=seed)
    return leave_one_group_out(
        nuclei["slide"].to_numpy(str), nuclei["patient"].to_numpy(str) if protocol == "patient" else None
    )


def _blocks(nuclei: pd.DataFrame, *, seed: int) -> Folds:
    if nuclei["slide"].nunique() > 1:
        raise bad_value("slide", must="be one for folds of blocks", got=sorted(set(nuclei["slide"]))[:12])
    xy = nuclei[["x", "y"]].to_numpy(np.float64)
    return spatial_blocks(xy, rng=np.random.default_rng(seed), n_folds=N_FOLDS)
