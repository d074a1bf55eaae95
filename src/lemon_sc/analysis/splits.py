"""Folds that keep what belongs together on one side of the split.

Cells of one slide, and neighbours on one slide, share stain, focus, section thickness and microenvironment. A random
split puts such cells on both sides; the probe then recognises the slide or the neighbourhood, and its score says little
about tissue it has not seen. Hence whole groups (slides, patients), or, where there is one slide only, square blocks of
it. Folds stratified by class, which are random, exist to repeat published numbers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from sklearn.model_selection import StratifiedKFold

from lemon_sc._core.errors import bad_value
from lemon_sc.metrics.correlation import MIN_CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCKS_PER_FOLD = 5


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Which fold each cell is held out in."""

    kind: str
    """``"groups"``, ``"spatial_blocks"`` or ``"stratified"``."""

    codes: NDArray[np.intp]
    """(N,) fold of each cell, 0 .. F-1; -1 for cells between blocks that are left out of training and test."""

    names: tuple[str, ...]
    """F names, in the order of the codes."""

    block_side: float = float("nan")
    """Side of the square blocks in units of the coordinates; NaN for other kinds."""

    patients: NDArray[np.intp] | None = None
    """(F,) folds of the same number never learn from each other: slides of one patient. ``None``: each on its own."""

    @property
    def apart(self) -> NDArray[np.intp]:
        """(F,) `patients`, or the fold itself."""
        return np.arange(len(self.names)) if self.patients is None else self.patients

    def training(self, fold: int) -> NDArray[np.intp]:
        """The folds that `fold` is predicted from."""
        return np.flatnonzero(self.apart != self.apart[fold])

    @property
    def sizes(self) -> NDArray[np.intp]:
        """(F,) cells per fold."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


def leave_one_group_out(
    labels: Sequence[object] | NDArray[np.generic], patients: Sequence[object] | NDArray[np.generic] | None = None
) -> Folds:
    """One fold per group: each group is held out once.

    Parameters
    ----------
    labels
        (N,) group of each cell, none missing. Names are their strings; folds are in the order of the sorted names, so
        that they do not depend on the order of the cells.
    patients
        (N,) what groups may share: a group is predicted from the groups of other patients only.

    Returns
    -------
    The folds, named as the groups.

    Raises
    ------
    ValueError
        With fewer than two groups or patients, with so many groups that they hold fewer than three cells on average, or
        where cells of one group name several patients.
    """
    names, codes = np.unique(np.asarray([str(label) for label in labels], dtype=str), return_inverse=True)
    if len(names) < 2:
        raise bad_value(
            "groups",
            must="have at least two groups, one to hold out and one to learn from",
            got=names.tolist(),
            fix="With one slide, use spatial blocks (`groups=None`).",
        )
    if len(codes) < MIN_CELLS * len(names):
        msg = (
            f"{len(names)} groups for {len(codes)} cells: is this column an identifier rather than a slide or patient?"
        )
        raise ValueError(msg)
    codes = codes.reshape(-1).astype(np.intp)
    of_group = None if patients is None else _patient_of_group(codes, names, patients)
    return Folds(kind="groups", codes=codes, names=tuple(names.tolist()), patients=of_group)


def _patient_of_group(
    codes: NDArray[np.intp], names: NDArray[np.str_], patients: Sequence[object] | NDArray[np.generic]
) -> NDArray[np.intp]:
    who, patient = np.unique(np.asarray([str(p) for p in patients], dtype=str), return_inverse=True)
    if len(who) < 2:
        raise bad_value("patient_key", must="name a column with at least two patients", got=who.tolist())
    pairs = np.unique(np.column_stack([codes, patient.reshape(-1)]), axis=0)
    group, count = np.unique(pairs[:, 0], return_counts=True)
    if (count > 1).any():
        several = names[group[count > 1]].tolist()
        msg = f"{len(several)} groups hold cells of more than one patient: {several[:12]}. A slide has one patient."
        raise ValueError(msg)
    return pairs[:, 1].astype(np.intp)


def stratified(labels: NDArray[np.generic], *, rng: np.random.Generator, n_folds: int = 5) -> Folds:
    """Random folds with the same share of each class: neighbours and cells of one slide stand on both sides.

    Parameters
    ----------
    labels
        (N,) class of each cell.
    rng
        Shuffles the cells.
    n_folds
        Number of folds.

    Returns
    -------
    The folds.

    Raises
    ------
    ValueError
        If no class has as many cells as there are folds.
    """
    _, counts = np.unique(labels, return_counts=True)
    most = int(counts.max(initial=0))
    if most < n_folds:
        msg = f"{n_folds} stratified folds need a class of at least {n_folds} cells, the largest has {most}."
        raise ValueError(msg)
    seed = int(rng.integers(2**31))
    codes = np.empty(len(labels), dtype=np.intp)
    with warnings.catch_warnings():  # classes smaller than the number of folds: the scores count where they are missing
        warnings.filterwarnings("ignore", message="The least populated class")
        for f, (_, test) in enumerate(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(labels, labels)):
            codes[test] = f
    return Folds(kind="stratified", codes=codes, names=tuple(f"fold_{i}" for i in range(n_folds)))


def spatial_blocks(
    xy_N2: NDArray[np.floating], *, rng: np.random.Generator, n_folds: int = 5, buffer: float = 0.0
) -> Folds:
    """Folds of square blocks, for cells that lie on one slide.

    The bounding box is cut into about ``5 * n_folds`` squares of side ``sqrt(width * height / (5 * n_folds))``. The
    occupied blocks, in random order, go one by one to the fold with the fewest cells so far, so that folds have about
    the same size. Without a buffer, cells at the border of a block have neighbours on the other side: blocks make the
    leak small, only groups remove it.

    With a buffer, cells that lie within half of it of a block of another fold are left out, so that no two cells of
    different folds are nearer to each other than `buffer`.

    Parameters
    ----------
    xy_N2
        Coordinates, finite.
    rng
        Decides which block goes to which fold. The order of the cells does not matter.
    n_folds
        Number of folds, at least 2.
    buffer
        Least distance between cells of different folds, in units of the coordinates.

    Returns
    -------
    The folds; ``codes`` is -1 for cells that the buffer leaves out.

    Raises
    ------
    ValueError
        If `n_folds` is below 2, `buffer` is negative or leaves a fold without cells, all cells lie at one place, or
        fewer blocks than folds hold cells.
    """
    if n_folds < 2:
        raise bad_value("n_folds", must="be an int >= 2", got=n_folds)
    if not 0 <= buffer < np.inf:
        raise bad_value("buffer", must="be a finite number >= 0", got=buffer)
    xy = np.asarray(xy_N2, dtype=np.float64)
    n_blocks = BLOCKS_PER_FOLD * n_folds
    origin = xy.min(axis=0) if len(xy) else np.zeros(2)
    extent = np.ptp(xy, axis=0) if len(xy) else np.zeros(2)
    if extent.max() <= 0:
        msg = f"Spatial blocks need cells at different places, got {len(xy)} cells with extent {extent.tolist()}."
        raise ValueError(msg)
    # A field that is a line, or nearly one, is cut along its length.
    side = max(float(np.sqrt(extent.prod() / n_blocks)), float(extent.max()) / n_blocks)
    blocks_along = np.maximum(np.ceil(extent / side).astype(np.int64), 1)
    cell = np.minimum(np.floor((xy - origin) / side).astype(np.int64), blocks_along - 1)
    occupied, block, counts = np.unique(
        cell[:, 0] * blocks_along[1] + cell[:, 1], return_inverse=True, return_counts=True
    )
    if len(counts) < n_folds:
        msg = f"{n_folds} folds need at least {n_folds} blocks with cells, the coordinates fill {len(counts)}."
        raise ValueError(msg)
    fold_of_block = np.empty(len(counts), dtype=np.intp)
    filled = np.zeros(n_folds, dtype=np.int64)
    for b in rng.permutation(len(counts)):
        fold_of_block[b] = filled.argmin()
        filled[fold_of_block[b]] += counts[b]
    codes = fold_of_block[block.reshape(-1)]
    if buffer:
        corner = np.stack(np.divmod(occupied, blocks_along[1]), axis=1)
        codes = _without_margin((xy - origin) / side, codes, corner, fold_of_block, blocks_along, margin=buffer / side)
    names = tuple(f"block_fold_{i}" for i in range(n_folds))
    return Folds(kind="spatial_blocks", codes=codes, names=names, block_side=side)


def _without_margin(
    xy_N2: NDArray[np.float64],
    codes: NDArray[np.intp],
    corner_B2: NDArray[np.int64],
    fold_B: NDArray[np.intp],
    blocks_along: NDArray[np.int64],
    *,
    margin: float,
) -> NDArray[np.intp]:
    """`codes`, -1 within half the margin of a block of another fold; lengths in sides of a block.

    A way from one fold to another first leaves the one and last enters the other, half a margin each. That holds only
    if the plane is covered, so an empty block counts to the fold of the nearest occupied one.
    """
    every = np.stack(np.meshgrid(*map(np.arange, blocks_along), indexing="ij"), axis=-1).reshape(-1, 2)
    _, nearest = cKDTree(corner_B2).query(every)
    fold = fold_B[nearest]
    near = np.zeros(len(xy_N2), dtype=bool)
    for at, of in zip(every, fold, strict=True):
        outside = np.maximum(np.maximum(at - xy_N2, xy_N2 - (at + 1)), 0.0)
        near |= (np.hypot(*outside.T) < margin / 2) & (codes != of)
    kept = np.where(near, -1, codes)
    left = np.bincount(kept[kept >= 0], minlength=int(fold_B.max()) + 1)
    if not left.all():
        msg = (
            f"A buffer of {margin:.2g} times the side of a block leaves {int((left == 0).sum())} of {len(left)} folds "
            "without cells. Choose a smaller `buffer`."
        )
        raise ValueError(msg)
    return kept
