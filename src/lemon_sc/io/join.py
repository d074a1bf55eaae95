"""Which nucleus belongs to which row of the table, by the table's own keys, never by position in a list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.errors import listing
from lemon_sc._core.log import logger
from lemon_sc.io.cells import cells_at
from lemon_sc.io.ids import ATTRS, CELL_ID, IN_PLACE, INDEX, NO_ID, as_text, repeated, rows_of, share_in_place, without
from lemon_sc.io.pairings import advice, shape_columns, show, table_sides, try_pairings
from lemon_sc.io.sides import Element, Sides, cell_places, declared, sides_of
from lemon_sc.io.words import WORDS

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    import spatialdata as sd
    from numpy.typing import NDArray

    from lemon_sc.io.elements import Kind
    from lemon_sc.io.sides import Labels
    from lemon_sc.io.words import Noun, Words


@dataclass(frozen=True, eq=False, kw_only=True)
class Join:
    """Nuclei joined to table rows.

    Attributes
    ----------
    row
        Row of the table for each nucleus, int64 (n_nuclei,); -1 where the table has no such cell.
    nucleus_id, cell_id
        Ids as text, (n_nuclei,).
    by
        How the two were joined, for reports: "left = right".
    """

    row: NDArray[np.int64]
    nucleus_id: NDArray[Any]
    cell_id: NDArray[Any]
    by: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Attempt:
    """A join, or why there is none.

    Attributes
    ----------
    join
        The result; no nucleus has a row if there is a problem.
    sides
        What was joined to what.
    problem
        What is wrong and what to do, "" if nothing is.
    tried
        What every possible pairing of ids would match, where that was asked.
    by_cells
        Whether the nuclei were given to the cells that they lie in.
    """

    join: Join
    sides: Sides
    problem: str = ""
    tried: pd.DataFrame | None = None
    by_cells: bool = False


def _one_region(adata: ad.AnnData, sides: Sides, nuclei: Element) -> Sides:
    """Keep the one region whose cells lie where the nuclei do, if ids repeat between regions only."""
    _, _, region_of = declared(adata)
    places = cell_places(adata)
    if region_of is None or places is None:
        return sides
    xy = nuclei.xy()
    kept = []
    for region in np.unique(region_of):
        ids = without(sides.table_ids, region_of != region)
        if len(repeated(ids)):
            return sides
        if share_in_place(xy, rows_of(sides.ids, ids), places) >= IN_PLACE:
            kept.append(replace(sides, table_ids=ids, asked=sides.asked & (region_of == region), region=str(region)))
    return kept[0] if len(kept) == 1 else sides


def _join_by_cells(adata: ad.AnnData, nuclei: Element, sides: Sides) -> Attempt | None:
    """Give each nucleus to the cell that its centre lies in, among the cells that the table annotates."""
    regions, instance_key, region_of = declared(adata)
    if instance_key is None or region_of is None:
        return None
    ids = as_text(adata.obs[instance_key])
    found = []
    for region in regions:
        at = cells_at(nuclei.sdata, region, nuclei.element, nuclei.xy())
        asked = region_of == region
        table_ids = without(ids, ~asked)
        if at is None or len(repeated(table_ids)) or not (rows_of(at, table_ids) >= 0).any():
            continue
        row = rows_of(at, table_ids)
        named = as_text(adata.obs[CELL_ID]) if CELL_ID in adata.obs else ids
        cell_id = np.where(row >= 0, named[row], at)
        by = f"{nuclei.key} in {region} = table.{instance_key}"
        join = Join(row=row, nucleus_id=sides.own, cell_id=cell_id, by=by)
        found.append(
            Attempt(join=join, sides=replace(sides, table_ids=named, asked=asked, region=region), by_cells=True)
        )
    if len(found) != 1:
        return None
    logger.info("%r names no cells; each nucleus goes to the cell that its centre lies in", nuclei.key)
    return found[0]


def tried_pairings(adata: ad.AnnData, nuclei: Element, sides: Sides) -> pd.DataFrame:
    """What every possible pairing of ids would match: see `lemon_sc.io.pairings.try_pairings`.

    Parameters
    ----------
    adata
        The table.
    nuclei
        What is joined to its rows.
    sides
        What was joined first.

    Returns
    -------
    One row per pairing, best first.
    """
    left = {sides.left: sides.ids, INDEX: sides.own}
    if sides.cells is not None:
        left[CELL_ID] = sides.cells
    if nuclei.kind in {"polygons", "circles"}:
        left |= shape_columns(nuclei.element)
    right = {sides.right: sides.table_ids, **{k: v for k, v in table_sides(adata).items() if k != sides.right}}
    return try_pairings(left, right, name=nuclei.key, xy=nuclei.xy(), spatial=cell_places(adata))


def _nothing_matches(adata: ad.AnnData, nuclei: Element, sides: Sides, tried: pd.DataFrame) -> str:
    """Say which ids were joined, which would have matched, and what to set."""
    table_key = next((key for key, table in nuclei.sdata.tables.items() if table is adata), "table")
    ids = sides.table_ids[sides.table_ids != NO_ID]
    reason = "" if ATTRS in adata.uns else " The table annotates no element (it has no `spatialdata_attrs`)."
    used = (sides.left, sides.right)
    what = advice(tried, name=nuclei.key, table_key=table_key, adata=adata, used=used, noun=nuclei.noun)
    return (
        f"No {WORDS[nuclei.noun].one} of {nuclei.key!r} belongs to a row of the table: joined {_by(nuclei, sides)}, "
        f"for instance {listing(sides.ids, most=3)} against {listing(ids, most=3)}.{reason} {what}"
    )


def _by(nuclei: Element, sides: Sides) -> str:
    where = f" in {sides.region!r}" if sides.region else ""
    return f"{nuclei.key}.{sides.left} = table.{sides.right}{where}"


def _repeats(sides: Sides, twice: pd.Index, words: Words) -> str:
    return (
        f"`table.{sides.right}` names {len(twice)} {words.rows} more than once ({listing(twice, most=3)}); ids must be "
        "unique. If the table holds several slides whose ids repeat, give each a table of its own, or let "
        f"the table annotate the {words.many}."
    )


def attempt_join(adata: ad.AnnData, nuclei: Element) -> Attempt:
    """Join nuclei to the rows of a table, or say why that cannot be done; see `join_nuclei`.

    Parameters
    ----------
    adata
        The table whose rows are joined to.
    nuclei
        What is joined to them.

    Returns
    -------
    The join, or the problem.
    """
    sides = sides_of(adata, nuclei)
    if len(repeated(sides.table_ids)):
        sides = _one_region(adata, sides, nuclei)
    nothing = Join(
        row=np.full(len(sides.own), -1, dtype=np.int64), nucleus_id=sides.own, cell_id=sides.ids, by=_by(nuclei, sides)
    )
    twice = repeated(sides.table_ids)
    if len(twice):
        return Attempt(join=nothing, sides=sides, problem=_repeats(sides, twice, WORDS[nuclei.noun]))
    row = rows_of(sides.ids, sides.table_ids)
    matched = bool((row >= 0).any())
    elsewhere = matched and sides.only_numbers and share_in_place(nuclei.xy(), row, cell_places(adata)) < IN_PLACE
    if (matched and not elsewhere) or not len(row):
        return Attempt(join=replace(nothing, row=row), sides=sides)
    if sides.cells is None and not sides.annotates:
        by_cells = _join_by_cells(adata, nuclei, sides)
        if by_cells is not None:
            return by_cells
    tried = tried_pairings(adata, nuclei, sides)
    problem = _nothing_matches(adata, nuclei, sides, tried)
    return Attempt(join=nothing, sides=sides, problem=problem, tried=tried)


def join_nuclei(
    sdata: sd.SpatialData,
    adata: ad.AnnData,
    *,
    nuclei: Any,
    kind: Kind,
    shapes_key: str,
    labels: Labels | None = None,
    noun: Noun = "nuclei",
) -> Join:
    """Join nuclei to the rows of a table.

    If the table annotates the nuclei, its instance key is joined to their index. Otherwise the nuclei's ``cell_id``
    (column, else index) is joined to the table's ``cell_id``, its instance key, or its row names, the first there is.
    Equal numbers alone are believed only if nuclei and cells lie together, where that is known. Ids that repeat between
    the regions of a table are looked for in the region that lies where the nuclei do. Nuclei that carry no cell's id go
    to the cell that their centre lies in, among the cells that the table annotates.

    Parameters
    ----------
    sdata, adata
        SpatialData, and its table whose rows are joined to.
    nuclei, kind, shapes_key
        The element, what it is, and its name.
    labels
        What a label image holds; None for other elements.
    noun
        What messages call them.

    Returns
    -------
    Row of the table and ids of each nucleus.

    Raises
    ------
    ValueError
        If an id stands twice in the table, or no id of the nuclei is in it.
    """
    element = Element(sdata=sdata, element=nuclei, kind=kind, key=shapes_key, labels=labels, noun=noun)
    attempt = attempt_join(adata, element)
    if attempt.problem:
        raise ValueError(attempt.problem + ("" if attempt.tried is None else f"\n{show(attempt.tried, noun=noun)}"))
    return attempt.join
