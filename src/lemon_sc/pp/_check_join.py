"""`lm.pp.check_join`: which nuclei belong to which cells, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from spatialdata import SpatialData

from lemon_sc._core.docs import doc
from lemon_sc._core.log import logger
from lemon_sc._core.table import as_table
from lemon_sc._objects.candidates import FEW_MATCHED
from lemon_sc.geometry.outlines import label_centres
from lemon_sc.io.elements import find_nuclei, label_blocks
from lemon_sc.io.ids import IN_PLACE, NO_ID, share_in_place
from lemon_sc.io.join import attempt_join, tried_pairings
from lemon_sc.io.pairings import show
from lemon_sc.io.sides import Element, Labels, cell_places

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    from lemon_sc.io.join import Attempt


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class JoinReport:
    """Which nuclei belong to which cells. Printed, it says so in words.

    Attributes
    ----------
    ok
        Whether the join can be believed.
    verdict
        In words, with what to do if it is not ok.
    by
        The ids that are joined.
    n_nuclei, n_cells
        How many nuclei there are, and rows of the table that they could belong to.
    n_matched, n_missing, n_several
        Cells with a nucleus, with none, and with more than one.
    n_unmatched
        Nuclei without a cell.
    missing, unmatched
        Ids of the cells without a nucleus and of the nuclei without a cell, as text.
    in_place
        Share of the nuclei that lie closest to their own cell; NaN where the places of cells are unknown.
    tried
        Every possible pairing of ids: ``nuclei`` and ``table`` (what is joined), ``n_nuclei`` and ``n_cells`` (how many
        match), ``in_place``.
    """

    ok: bool
    verdict: str
    by: str
    n_nuclei: int
    n_cells: int
    n_matched: int
    n_missing: int
    n_several: int
    n_unmatched: int
    missing: NDArray[Any]
    unmatched: NDArray[Any]
    in_place: float
    tried: pd.DataFrame

    def __repr__(self) -> str:
        return f"Join {'ok' if self.ok else 'NOT ok'}: {self.verdict}\n{show(self.tried)}"


@doc
def check_join(sdata: SpatialData, *, shapes_key: str = "nucleus_boundaries", table_key: str = "table") -> JoinReport:
    """Check which nuclei belong to which cells of the table, and which ids say so. Needs no image.

    `lm.pp.extract_nuclei` joins in the same way. A join that finds nothing is reported, not raised, with all pairings
    of ids that could have been meant and what to set to use the best of them. Numbers may coincide without meaning the
    same cells; so where the table has ``obsm["spatial"]``, the nuclei are looked for at their cells, too.

    Parameters
    ----------
    %(sdata)s
    %(shapes_key)s
    %(table_key)s

    Returns
    -------
    A frozen report, which reads well when printed:

    `.ok`
        Whether the join can be believed: half of the nuclei belong to a cell or half of the cells have a nucleus, and
        these lie together.
    `.verdict`
        In words, with what to do if it is not ok.
    `.by`
        The ids that are joined.
    `.n_nuclei`, `.n_cells`
        How many nuclei there are, and rows of the table that they could belong to: of a table of several regions, those
        of the region of the nuclei.
    `.n_matched`, `.n_missing`, `.n_several`
        Cells with at least one nucleus, with none, and with more than one.
    `.n_unmatched`
        Nuclei without a cell.
    `.missing`, `.unmatched`
        Ids of the cells without a nucleus (row names where the id itself is missing), and of the nuclei without a cell,
        as text.
    `.in_place`
        Share of the nuclei that lie closest to their own cell; NaN where the places of cells are unknown.
    `.tried`
        DataFrame, one row per possible pairing of ids: ``nuclei`` and ``table`` (what is joined), ``n_nuclei`` and
        ``n_cells`` (how many match), ``in_place``.

    Raises
    ------
    MissingKeyError
        If the nuclei, the table, or a column that the table declares is not there.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> report = lm.pp.check_join(lm.datasets.phantom(n_cells=200))
    >>> report.ok
    True
    """
    if not isinstance(sdata, SpatialData):
        msg = f"`sdata` must be a SpatialData, got {type(sdata).__name__}."
        raise TypeError(msg)
    adata = as_table(sdata, table_key=table_key)
    nuclei, kind = find_nuclei(sdata, shapes_key)
    labels = None
    if kind == "labels":
        values, centres = label_centres(label_blocks(nuclei))
        labels = Labels(values=values, xy=centres.xy)
    element = Element(sdata=sdata, element=nuclei, kind=kind, key=shapes_key, labels=labels)
    attempt = attempt_join(adata, element)
    report = _report(adata, element, attempt)
    (logger.info if report.ok else logger.warning)("Join of %r: %s", shapes_key, report.verdict)
    return report


def _report(adata: ad.AnnData, element: Element, attempt: Attempt) -> JoinReport:
    """Count what was matched, and judge it."""
    join, sides = attempt.join, attempt.sides
    matched = join.row >= 0
    n_of_cell = np.bincount(join.row[matched], minlength=adata.n_obs)
    named = np.where(sides.table_ids == NO_ID, adata.obs_names.to_numpy(dtype=object), sides.table_ids)
    share = share_in_place(element.xy(), join.row, cell_places(adata))
    counts = {
        "n_nuclei": len(matched),
        "n_cells": int(sides.asked.sum()),
        "n_matched": int((n_of_cell > 0).sum()),
        "n_missing": int((sides.asked & (n_of_cell == 0)).sum()),
        "n_several": int((n_of_cell > 1).sum()),
        "n_unmatched": int((~matched).sum()),
    }
    ok, verdict = _judge(counts, share, attempt, element.key)
    return JoinReport(
        ok=ok,
        verdict=verdict,
        by=join.by,
        missing=named[sides.asked & (n_of_cell == 0)],
        unmatched=join.nucleus_id[~matched],
        in_place=share,
        tried=_tried(adata, element, attempt, counts, share),
        **counts,
    )


def _judge(counts: dict[str, int], share: float, attempt: Attempt, shapes_key: str) -> tuple[bool, str]:
    """Whether the join can be believed, and the reason."""
    if attempt.problem:
        return False, attempt.problem
    if not counts["n_nuclei"]:
        return False, f"{shapes_key!r} holds no nuclei."
    several = f", {counts['n_several']} of them more than one" if counts["n_several"] else ""
    found = (
        f"{counts['n_matched']} of {counts['n_cells']} cells have a nucleus{several}, and {counts['n_unmatched']} of "
        f"{counts['n_nuclei']} nuclei belong to no cell of the table (joined by {attempt.join.by})."
    )
    if share < IN_PLACE:
        return False, (
            f"the ids match, but only {share:.0%} of the nuclei lie closest to their own cell "
            f'(`obsm["spatial"]`), so they may not mean the same cells. {found}'
        )
    enough = max(1 - counts["n_unmatched"] / counts["n_nuclei"], counts["n_matched"] / max(counts["n_cells"], 1))
    if enough < FEW_MATCHED:
        return False, f"only a part matches: {found}"
    return True, found


def _tried(adata: ad.AnnData, element: Element, attempt: Attempt, counts: dict[str, int], share: float) -> pd.DataFrame:
    """All pairings of ids; also that of nuclei and the cells they lie in, where it is the one that holds."""
    tried = tried_pairings(adata, element, attempt.sides) if attempt.tried is None else attempt.tried
    if not attempt.by_cells:
        return tried
    left, right = attempt.join.by.split(" = ")
    n_nuclei = counts["n_nuclei"] - counts["n_unmatched"]
    first = pd.DataFrame([(left, right, n_nuclei, counts["n_matched"], share)], columns=tried.columns)
    return pd.concat([first, tried], ignore_index=True)
