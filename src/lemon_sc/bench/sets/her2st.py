"""HER2ST (Andersson et al. 2021): spots of 100 um on an H&E of about 0.69 um/px, and their expression.

At that pixel size a nucleus is a dozen px wide, and a spot holds tens of them that are not told apart: a spot is
described by the mean over a grid of windows in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from lemon_sc.bench.kinds import Labelled, Source
from lemon_sc.bench.sets.files import open_picture

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS = ("B4", "C2", "C3", "C5")
"""Sections that lie in the data folder; the letter is the patient."""

HER2ST_MPP = 0.69
"""um per px, about: of the spots' distance of 200 um."""

SPOT_UM = 100.0
"""Diameter of a spot."""

GRID = 4
"""Windows along each side of the square inside the spot."""

MIN_SPOTS = 25
"""Genes count that are found in so many spots of each section."""

SOURCE = Source(
    url="https://github.com/almaan/her2st",
    licence="CC BY 4.0",
    layout="her2st/<B4, C2, C3, C5>/he.jpg, counts.tsv.gz (spots x genes) and selection.tsv (x, y, pixel_x, pixel_y).",
    citation="Andersson et al., Nature Communications 2021",
)


def windows(xy: np.ndarray, *, side_px: float, n: int = GRID) -> np.ndarray:
    """Centres of n x n windows, evenly over a square around each point.

    Parameters
    ----------
    xy
        Points, (m, 2), px.
    side_px
        Side of the square.
    n
        Windows along a side.

    Returns
    -------
    Float64 (m, n * n, 2).
    """
    along = ((np.arange(n) + 0.5) / n - 0.5) * side_px
    grid = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)
    return np.asarray(xy, dtype=np.float64)[:, None] + grid


def read_her2st(folder: Path) -> Labelled:
    """Spots of the four sections, each a grid of windows.

    Parameters
    ----------
    folder
        The data folder.

    Returns
    -------
    The windows with the spot as ``item``, and counts of the genes of all sections.

    Raises
    ------
    MissingDataError
        If a section is not there.
    ValueError
        If no spot of a section has both a place and counts.
    """
    home, tables, counts, n_items = folder / "her2st", [], [], 0
    for section in SECTIONS:
        at = home / section
        for name in ("he.jpg", "counts.tsv.gz", "selection.tsv"):
            if not (at / name).is_file():
                raise SOURCE.missing("her2st", at / name)
        places = pd.read_csv(at / "selection.tsv", sep="\t")
        if "selected" in places:
            places = places[places["selected"] == 1]
        places.index = places["x"].astype(str) + "x" + places["y"].astype(str)
        table = pd.read_csv(at / "counts.tsv.gz", sep="\t", index_col=0)
        spots = [spot for spot in table.index if spot in places.index]
        if not spots:
            msg = f"'{at}': no spot of counts.tsv.gz is in selection.tsv. Are they of the same section?"
            raise ValueError(msg)
        centres = places.loc[spots, ["pixel_x", "pixel_y"]].to_numpy(np.float64)
        xy = windows(centres, side_px=SPOT_UM / np.sqrt(2) / HER2ST_MPP)
        item = np.repeat(np.arange(len(spots)) + n_items, GRID**2)
        flat = xy.reshape(-1, 2)
        tables.append(pd.DataFrame(
            {"image": section, "x": flat[:, 0], "y": flat[:, 1], "slide": section, "patient": section[0], "item": item}
        ))  # fmt: skip
        counts.append(table.loc[spots])
        n_items += len(spots)
    often = [set(x.columns[((x > 0).sum() >= MIN_SPOTS).to_numpy()]) for x in counts]
    shared = [gene for gene in counts[0] if all(gene in names for names in often)]
    expression = sparse.csr_matrix(np.concatenate([x[shared].to_numpy(np.float32) for x in counts]))
    return Labelled(
        nuclei=pd.concat(tables, ignore_index=True),
        open=lambda section: open_picture(home / section / "he.jpg"),
        mpp=dict.fromkeys(SECTIONS, (HER2ST_MPP, HER2ST_MPP)),
        expression=expression,
        genes=tuple(shared),
    )
