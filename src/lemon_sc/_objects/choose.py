"""Which nucleus stands for which cell, and whether its crop can be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core import keys
from lemon_sc._objects.candidates import Candidates, by_cell, is_first
from lemon_sc._objects.nuclei import Nuclei
from lemon_sc.crops.qc import QC_MPP, QC_PX
from lemon_sc.crops.stream import TARGET_MPP
from lemon_sc.geometry.crowding import crowding
from lemon_sc.geometry.windows import inside, window_side

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.io.elements import Scene


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """Result of the geometry: one nucleus per cell, further ones, and the verdict on each cell.

    `first` and `further` are positions in the candidates; `qc`, `xy`, `ids` and `n_nuclei` have one row per cell.
    """

    first: NDArray[np.int64]
    further: NDArray[np.int64]
    rank: NDArray[np.int64]
    qc: NDArray[Any]
    xy: NDArray[np.float64]
    ids: NDArray[Any]
    n_nuclei: NDArray[np.int64]


def choose(
    candidates: Candidates,
    *,
    n_obs: int,
    scene: Scene,
    size_px: int,
    target_mpp: float = TARGET_MPP,
    keep_further: bool = False,
) -> Found:
    """Pick the nucleus that stands for each cell, and judge whether its window lies in the image.

    Parameters
    ----------
    candidates
        All nuclei.
    n_obs
        Rows of the table.
    scene
        Image and nuclei.
    size_px, target_mpp
        Side of a crop, and um per crop px.
    keep_further
        Whether the other nuclei of a cell are kept as well.

    Returns
    -------
    The nucleus of each cell, and the verdict on it.
    """
    order = by_cell(candidates)
    row = candidates.join.row[order]
    first = is_first(row)
    side = window_side(size_px, scene.mpp, target_mpp)
    xy = np.full((n_obs, 2), np.nan)
    xy[row[first]] = candidates.xy[order[first]]
    ids = np.full(n_obs, "", dtype=object)
    ids[row[first]] = candidates.join.nucleus_id[order[first]]
    centred = inside(xy, np.zeros(2), scene.image.shape)
    qc = np.full(n_obs, keys.QC_OK, dtype=object)
    qc[~inside(xy, side, scene.image.shape)] = keys.QC_BORDER
    qc[~centred] = keys.QC_OUTSIDE
    qc[np.isnan(xy[:, 0])] = keys.QC_NO_NUCLEUS
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    whole = inside(candidates.xy[order], side, scene.image.shape)
    further = ~first & whole & (qc[row] == keys.QC_OK) & keep_further
    return Found(
        first=order[first],
        further=order[further],
        rank=rank[further],
        qc=qc,
        xy=xy,
        ids=ids,
        n_nuclei=np.bincount(row, minlength=n_obs),
    )


def crowding_of(found: Found, candidates: Candidates, scene: Scene) -> NDArray[np.float64]:
    """Share of the judged window of each cell's nucleus that lies nearer to the centre of another nucleus.

    Parameters
    ----------
    found
        The nucleus of each cell.
    candidates
        All nuclei.
    scene
        Image and nuclei.

    Returns
    -------
    float64 (n_obs,), NaN for cells without a nucleus.
    """
    own = np.full(len(found.qc), -1)
    own[candidates.join.row[found.first]] = found.first
    return crowding(candidates.xy * scene.mpp, own, side=QC_PX * QC_MPP)


def check_somewhere(found: Found, scene: Scene, shapes_key: str, *, noun: str = "nuclei") -> None:
    """Raise if every nucleus lies outside the image: the image is misplaced.

    Parameters
    ----------
    found
        The nucleus of each cell.
    scene
        Image and nuclei.
    shapes_key
        Name of the nuclei's element.
    noun
        What they are called.

    Raises
    ------
    ValueError
        If so.
    """
    if not (found.qc != keys.QC_NO_NUCLEUS).any() or np.isin(found.qc, [keys.QC_OK, keys.QC_BORDER]).any():
        return
    fix = "Check that this is the image on which they were placed, at its full resolution, and the transformations."
    if noun == "nuclei":
        fix = "Check the direction of the alignment (it must lead from image px to morphology px), and flips."
    low, high = np.nanmin(found.xy, axis=0), np.nanmax(found.xy, axis=0)
    height, width = scene.image.shape
    msg = (
        f"All {noun} of {shapes_key!r} lie outside the image: they span x {low[0]:.0f} to {high[0]:.0f} and y "
        f"{low[1]:.0f} to {high[1]:.0f} px, the image is {width} x {height} px. {fix}"
    )
    raise ValueError(msg)


def nuclei_to_cut(found: Found, candidates: Candidates) -> Nuclei:
    """The usable nuclei, those that stand for a cell first.

    Parameters
    ----------
    found
        The nucleus of each cell.
    candidates
        All nuclei.

    Returns
    -------
    The nuclei.
    """
    row = candidates.join.row
    first = found.first[found.qc[row[found.first]] == keys.QC_OK]
    index = np.concatenate([first, found.further])
    return Nuclei(
        row=row[index],
        xy=candidates.xy[index],
        nucleus_id=candidates.join.nucleus_id[index],
        rank=np.concatenate([np.zeros(len(first), dtype=np.int64), found.rank]),
    )
