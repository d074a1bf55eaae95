"""Folds that keep what belongs together on one side of the split.

Cells of one slide, and neighbours on one slide, share stain, focus, section thickness and microenvironment. A random
split puts such cells on both sides; the probe then recognises the slide or the neighbourhood, and its score says little
about tissue it has not seen. Hence two kinds of folds and no random one: whole groups (slides, patients), or, where
there is one slide only, square blocks of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc.analysis.correlation import MIN_CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCKS_PER_FOLD = 5


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Which fold each cell is held out in."""

    kind: str
    """``"groups"`` or ``"spatial_blocks"``."""

    codes: NDArray[np.intp]
    """(N,) fold of each cell, 0 .. F-1."""

    names: tuple[str, ...]
    """F names, in the order of the codes."""

    block_side: float = float("nan")
    """Side of the square blocks in units of the coordinates; NaN for groups."""

    @property
    def sizes(self) -> NDArray[np.intp]:
        """(F,) cells per fold."""
        return np.bincount(self.codes, minlength=len(self.names))


def leave_one_group_out(labels: Sequence[object] | NDArray[np.generic]) -> Folds:
    """One fold per group: each group is held out once.

    Parameters
    ----------
    labels
        (N,) group of each cell, none missing. Names are their strings; folds are in the order of the sorted names, so
        that they do not depend on the order of the cells.

    Raises
    ------
    ValueError
        With fewer than two groups, or with so many that they hold fewer than three cells on average.
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
    return Folds(kind="groups", codes=codes.reshape(-1).astype(np.intp), names=tuple(names.tolist()))


def spatial_blocks(xy_N2: NDArray[np.floating], *, rng: np.random.Generator, n_folds: int = 5) -> Folds:
    """Folds of square blocks, for cells that lie on one slide.

    The bounding box is cut into about ``5 * n_folds`` squares of side ``sqrt(width * height / (5 * n_folds))``. The
    occupied blocks, in random order, go one by one to the fold with the fewest cells so far, so that folds have about
    the same size. Cells at the border of a block still have neighbours on the other side: blocks make the leak small,
    only groups remove it.

    Parameters
    ----------
    xy_N2
        Coordinates, finite.
    rng
        Decides which block goes to which fold. The order of the cells does not matter.
    n_folds
        Number of folds, at least 2.

    Raises
    ------
    ValueError
        If `n_folds` is below 2, all cells lie at one place, or fewer blocks than folds hold cells.
    """
    if n_folds < 2:
        raise bad_value("n_folds", must="be an int >= 2", got=n_folds)
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
    _, block, counts = np.unique(cell[:, 0] * blocks_along[1] + cell[:, 1], return_inverse=True, return_counts=True)
    if len(counts) < n_folds:
        msg = f"{n_folds} folds need at least {n_folds} blocks with cells, the coordinates fill {len(counts)}."
        raise ValueError(msg)
    fold_of_block = np.empty(len(counts), dtype=np.intp)
    filled = np.zeros(n_folds, dtype=np.int64)
    for b in rng.permutation(len(counts)):
        fold_of_block[b] = filled.argmin()
        filled[fold_of_block[b]] += counts[b]
    names = tuple(f"block_fold_{i}" for i in range(n_folds))
    return Folds(kind="spatial_blocks", codes=fold_of_block[block.reshape(-1)], names=names, block_side=side)
