"""What could have told a probe the answer: the same pixels on both sides of a split, and the slide itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lemon_sc._core.errors import bad_value
from lemon_sc._core.rng import RNG, as_generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_PER_GROUP = 500
"""Cells of each group that the identity control takes: it asks for a share of cells, not for the best classifier."""


@dataclass(frozen=True, kw_only=True)
class GroupIdentity:
    """How well the group of a cell can be read from its embedding."""

    balanced_accuracy: float
    """On cells that the classifier has not seen; NaN if fewer than two groups have two cells."""
    chance: float
    """1 / number of groups."""


def group_identity(
    x_ND: ArrayLike, groups: ArrayLike, *, rng: RNG = 0, max_cells: int = MAX_PER_GROUP
) -> GroupIdentity:
    """Balanced accuracy of the group, predicted linearly from the embedding across random halves of each group.

    Near chance, the embedding does not know the slide. Near 1 it does (stain, focus, tissue), and any score that was
    taken with cells of one slide on both sides of a split may rest on it.

    Parameters
    ----------
    x_ND
        Embedding, finite.
    groups
        (N,) slide, patient or batch of each cell.
    rng
        Seed or generator; draws the cells and the halves.
    max_cells
        Cells per group at most.

    Returns
    -------
    `GroupIdentity`: the balanced accuracy, and that of chance.

    Raises
    ------
    ValueError
        If shapes do not fit, or values are not finite.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> import numpy as np
    >>> slide = np.repeat(["a", "b"], 100)
    >>> made = lm.metrics.group_identity(np.random.default_rng(0).normal(size=(200, 4)), slide)
    >>> made.chance
    0.5
    """
    x, labels = np.asarray(x_ND), np.asarray(groups)
    if x.ndim != 2 or labels.shape != (len(x),):
        msg = f"`x_ND` must be (N, D) and `groups` (N,), got shapes {x.shape} and {labels.shape}."
        raise ValueError(msg)
    if not np.isfinite(x).all():
        got = f"{int((~np.isfinite(x).all(axis=1)).sum())} rows that are not"
        raise bad_value("x_ND", must="be finite", got=got, fix="Leave out cells without an embedding.")
    _, codes = np.unique(labels.astype(str) if labels.dtype == object else labels, return_inverse=True)
    draw = as_generator(rng)
    taken = [draw.permutation(np.flatnonzero(codes == g))[:max_cells] for g in np.unique(codes)]
    taken = [rows for rows in taken if len(rows) >= 2]
    if len(taken) < 2:
        return GroupIdentity(balanced_accuracy=float("nan"), chance=float("nan"))
    rows = np.concatenate(taken)
    model = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
    halves = StratifiedKFold(2, shuffle=True, random_state=int(draw.integers(2**31)))
    predicted = cross_val_predict(model, x[rows].astype(np.float64), codes[rows], cv=halves)
    score = balanced_accuracy_score(codes[rows], predicted)
    return GroupIdentity(balanced_accuracy=float(score), chance=1 / len(taken))


def shared_rows(x_ND: NDArray[np.floating], apart: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(N,) cells whose row is, bit for bit, that of a cell on the other side of the split.

    Parameters
    ----------
    x_ND
        Embedding.
    apart
        (N,) side of the split that each cell is held out with.

    Returns
    -------
    Bool (N,).
    """
    digest = np.array([hash(row.tobytes()) for row in x_ND], dtype=np.int64)
    _, row_id = np.unique(digest, return_inverse=True)
    row_id = row_id.reshape(-1)
    pairs = np.unique(np.column_stack([row_id, apart]), axis=0)
    sides = np.bincount(pairs[:, 0])
    return sides[row_id] > 1


def overlapping_windows(
    xy_N2: NDArray[np.floating], slide: NDArray[np.intp], apart: NDArray[np.intp], *, side: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """(N,) cells whose window overlaps that of a cell of the same slide on the other side of the split.

    Parameters
    ----------
    xy_N2
        Centres of the windows, finite.
    slide
        (N,) slide of each cell; windows of different slides do not overlap.
    apart
        (N,) side of the split that each cell is held out with.
    side
        (2,) width and height of the windows in units of `xy_N2`.

    Returns
    -------
    Bool (N,).
    """
    unit = np.asarray(xy_N2, dtype=np.float64) / side
    out = np.zeros(len(unit), dtype=bool)
    for s in np.unique(slide):
        here = np.flatnonzero(slide == s)
        for f in np.unique(apart[here]):
            mine, others = here[apart[here] == f], here[apart[here] != f]
            if len(others):
                distance, _ = cKDTree(unit[others]).query(unit[mine], p=np.inf, distance_upper_bound=1.0)
                out[mine] = distance < 1.0
    return out
