"""All nuclei of a scene, joined to the table, in image px; and which of them stands for a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lemon_sc._core.log import logger
from lemon_sc.geometry.affine import transform
from lemon_sc.geometry.outlines import Centres, label_centres, outline_centres
from lemon_sc.io.elements import label_blocks
from lemon_sc.io.ids import IN_PLACE, share_in_place
from lemon_sc.io.join import Join, join_nuclei
from lemon_sc.io.sides import Labels, cell_places
from lemon_sc.io.words import WORDS

if TYPE_CHECKING:
    import anndata as ad
    import spatialdata as sd
    from numpy.typing import NDArray

    from lemon_sc.io.elements import Scene
    from lemon_sc.io.words import Noun

Multiple = Literal["largest", "mean", "all"]
MULTIPLE: tuple[str, ...] = ("largest", "mean", "all")
MOST_NUCLEI = 3
"""More points per cell than this are not nuclei."""

FEW_MATCHED = 0.5
"""A warning says so if a smaller share of the nuclei belongs to a cell of the table."""

PLAUSIBLE_UM = {"nuclei": (2.5, 25.0), "units": (1.0, 150.0)}
"""A median diameter, um, outside this range says that the coordinates are not what they are taken for. Bins of Visium
HD have 2 um, spots of Spatial Transcriptomics 100 um."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """Nuclei of a scene.

    Attributes
    ----------
    join
        Their rows in the table and their ids.
    xy
        Centres in level-0 image px, (n, 2); NaN for an empty outline.
    area_um2
        Areas, (n,); NaN for plain centroids.
    n_repaired
        How many outlines crossed themselves.
    """

    join: Join
    xy: NDArray[np.float64]
    area_um2: NDArray[np.float64]
    n_repaired: int

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Nuclei with a centre and a row in the table, (n,)."""
        return np.isfinite(self.xy).all(axis=1) & (self.join.row >= 0)


def own_centres(scene: Scene) -> tuple[Centres, NDArray[Any] | None]:
    """Centres in the element's own coordinates; for a label image also the label values.

    Parameters
    ----------
    scene
        Image and nuclei.

    Returns
    -------
    The centres, and the values or None.
    """
    if scene.kind == "labels":
        values, centres = label_centres(label_blocks(scene.nuclei))
        return centres, values
    if scene.kind == "points":
        xy = scene.nuclei[["x", "y"]].compute().to_numpy(dtype=np.float64)
        none = np.zeros(len(xy), dtype=np.bool_)
        return Centres(xy=xy, area=np.full(len(xy), np.nan), repaired=none), None
    radius = scene.nuclei["radius"].to_numpy(dtype=np.float64) if scene.kind == "circles" else None
    return outline_centres(scene.nuclei.geometry, radius=radius), None


def check_sizes(
    area_um2: NDArray[np.float64], mpp: tuple[float, float], shapes_key: str, *, noun: Noun = "nuclei"
) -> None:
    """Raise if the nuclei have sizes that no nucleus has: then the coordinates are not in um."""
    known = area_um2[np.isfinite(area_um2)]
    if not len(known):
        return
    diameter = 2 * np.sqrt(np.median(known) / np.pi)
    low, high = PLAUSIBLE_UM[noun]
    if not low <= diameter <= high:
        msg = (
            f"The {noun} of {shapes_key!r} would have a median diameter of {diameter:.3g} um at {mpp[0]:.4g} x "
            f"{mpp[1]:.4g} um per image px, which no {noun} have. Their coordinates are not in um, or the image is "
            "misplaced: check the transformations, or pass `mpp=`, the um per px of the image."
        )
        raise ValueError(msg)


def collect(
    sdata: sd.SpatialData, adata: ad.AnnData, scene: Scene, *, shapes_key: str, noun: Noun = "nuclei"
) -> Candidates:
    """All nuclei of the scene with their table rows; or, of another `noun`, spots and bins.

    Raises
    ------
    ValueError
        If there are none, none belongs to the table, none lies in the image, or their size is not that of nuclei.
    """
    centres, values = own_centres(scene)
    if not len(centres.xy):
        msg = f"{shapes_key!r} holds no {noun}."
        raise ValueError(msg)
    if not np.isfinite(centres.xy).all(axis=1).any():
        msg = f"None of the {len(centres.xy)} {noun} of {shapes_key!r} has a centre: their outlines are empty or NaN."
        raise ValueError(msg)
    labels = None if values is None else Labels(values=values, xy=centres.xy)
    what: dict[str, Any] = {"kind": scene.kind, "shapes_key": shapes_key, "labels": labels, "noun": noun}
    join = join_nuclei(sdata, adata, nuclei=scene.nuclei, **what)
    if scene.kind == "points":
        _check_one_each(join, shapes_key)
    _warn_doubtful(adata, scene, join, centres.xy, noun=noun)
    own_to_um = scene.px_to_um @ scene.to_pixel
    area_um2 = centres.area * abs(np.linalg.det(own_to_um[:2, :2]))
    check_sizes(area_um2, scene.mpp, shapes_key, noun=noun)
    return Candidates(
        join=join, xy=transform(scene.to_pixel, centres.xy), area_um2=area_um2, n_repaired=int(centres.repaired.sum())
    )


def by_cell(candidates: Candidates) -> NDArray[np.int64]:
    """Usable nuclei sorted by table row, the largest of a cell first (ties and plain centroids: as they come).

    Parameters
    ----------
    candidates
        All nuclei.

    Returns
    -------
    Positions among them, int64.
    """
    index = np.flatnonzero(candidates.usable)
    area = np.nan_to_num(candidates.area_um2[index], nan=0.0)
    return index[np.lexsort((index, -area, candidates.join.row[index]))]


def is_first(sorted_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the first entry of each run of equal rows.

    Parameters
    ----------
    sorted_rows
        Rows, equal ones together, (n,).

    Returns
    -------
    Bool (n,).
    """
    first = np.ones(len(sorted_rows), dtype=np.bool_)
    first[1:] = sorted_rows[1:] != sorted_rows[:-1]
    return first


def _check_one_each(join: Join, shapes_key: str) -> None:
    """Raise if cells commonly have many centroids: then the points are no nuclei."""
    per_cell = np.bincount(join.row[join.row >= 0])
    median = float(np.median(per_cell[per_cell > 0]))
    if median > MOST_NUCLEI:
        msg = f"{shapes_key!r} has {median:.0f} points per cell (median): these are not nuclei. Pass `shapes_key=`."
        raise ValueError(msg)


def _warn_doubtful(
    adata: ad.AnnData, scene: Scene, join: Join, xy: NDArray[np.float64], *, noun: Noun = "nuclei"
) -> None:
    """Say in words what is odd about the pixel size or the join, but may be meant."""
    if scene.doubt:
        logger.warning("%s", scene.doubt)
    matched = join.row >= 0
    if matched.mean() < FEW_MATCHED:
        logger.warning(
            "only %d of %d %s belong to one of the %d %s of the table (joined by %s): fine if the table was "
            "filtered, else see `lm.pp.check_join`",
            matched.sum(),
            len(matched),
            noun,
            adata.n_obs,
            WORDS[noun].rows,
            join.by,
        )
    share = share_in_place(xy, join.row, cell_places(adata))
    if share < IN_PLACE:
        logger.warning(
            'only %.0f %% of the %s lie closest to their own %s (`obsm["spatial"]`): the ids that were joined '
            "(%s) may not mean the same; see `lm.pp.check_join`",
            100 * share,
            noun,
            WORDS[noun].row,
            join.by,
        )
