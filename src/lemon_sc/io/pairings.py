"""Every way in which ids of nuclei and of a table could be joined: what each would match, and what to set for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc.io.ids import (
    ATTRS,
    CELL_ID,
    IN_PLACE,
    INDEX,
    OBS_NAMES,
    as_text,
    may_be_ids,
    repeated,
    rows_of,
    share_in_place,
)
from lemon_sc.io.words import WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad
    from numpy.typing import NDArray

    from lemon_sc.io.words import Noun

GEOMETRY = frozenset({"geometry", "radius"})
MOST_SHOWN = 8


def table_sides(adata: ad.AnnData) -> dict[str, NDArray[Any]]:
    """Ids that a table could be joined by, as text: its row names, and every column that tells its rows apart.

    Parameters
    ----------
    adata
        The table.

    Returns
    -------
    Ids by name of the column, (n_obs,) each.
    """
    sides = {OBS_NAMES: as_text(adata.obs_names)}
    for name, values in adata.obs.items():
        if isinstance(name, str) and may_be_ids(values) and values.dropna().is_unique:
            sides[name] = as_text(values)
    return {name: ids for name, ids in sides.items() if not len(repeated(ids))}


def shape_columns(shapes: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Columns of outlines that could hold ids, as text, without the geometry.

    Parameters
    ----------
    shapes
        Outlines with their columns.

    Returns
    -------
    Ids by name of the column, (n,) each.
    """
    columns = {str(c): shapes[c] for c in shapes.columns if c not in GEOMETRY}
    return {name: as_text(values) for name, values in columns.items() if may_be_ids(values)}


def try_pairings(
    nuclei: Mapping[str, NDArray[Any]],
    table: Mapping[str, NDArray[Any]],
    *,
    name: str,
    xy: NDArray[np.float64],
    spatial: NDArray[np.float64] | None,
) -> pd.DataFrame:
    """What each pairing of ids would match.

    Parameters
    ----------
    nuclei, table
        Ids as text by name of the column, (n_nuclei,) and (n_obs,); those preferred among equals first.
    name
        Of the nuclei's element.
    xy, spatial
        Centres of nuclei and of cells, as `share_in_place` takes them.

    Returns
    -------
    One row per pairing, the best first: ``nuclei``, ``table`` (what is joined), ``n_nuclei``, ``n_cells``
    (matched), ``in_place`` (share of these nuclei that lie closest to their own cell; NaN where unknown).
    """
    found = []
    for left, ids in nuclei.items():
        for right, table_ids in table.items():
            row = rows_of(ids, table_ids)
            hit = row[row >= 0]
            place = share_in_place(xy, row, spatial) if len(hit) else np.nan
            found.append((f"{name}.{left}", f"table.{right}", len(hit), len(np.unique(hit)), place))
    tried = pd.DataFrame(found, columns=["nuclei", "table", "n_nuclei", "n_cells", "in_place"])
    worth = np.where(tried["n_nuclei"] == 0, 2, np.where(tried["in_place"] < IN_PLACE, 1, 0))
    order = np.lexsort((-tried["n_nuclei"], worth))
    return tried.iloc[order].reset_index(drop=True)


def show(tried: pd.DataFrame, *, noun: Noun = "nuclei") -> str:
    """The pairings as text, with what the numbers are; shortened.

    Parameters
    ----------
    tried
        As `try_pairings` returns it.
    noun
        What was joined.

    Returns
    -------
    Some lines of text.
    """
    words = WORDS[noun]
    names = {"nuclei": words.many, "n_nuclei": f"n_{words.many}", "n_cells": f"n_{words.rows}"}
    table = tried.rename(columns=names).head(MOST_SHOWN).round({"in_place": 2}).to_string(index=False, na_rep="")
    more = f"\n(and {len(tried) - MOST_SHOWN} more)" if len(tried) > MOST_SHOWN else ""
    return (
        f"Pairings of ids (n_{words.many}, n_{words.rows}: matched; in_place: share of these {words.many} that lie "
        f"closest to their own {words.row}):\n{table}{more}"
    )


def advice(
    tried: pd.DataFrame,
    *,
    name: str,
    table_key: str,
    adata: ad.AnnData,
    used: tuple[str, str],
    noun: Noun = "nuclei",
) -> str:
    """What to set so that the best of the pairings is used, or what is missing if there is none.

    Parameters
    ----------
    tried
        As `try_pairings` returns it.
    name, table_key
        Of the nuclei's element, and of the table.
    adata
        The table.
    used
        The columns that were joined, of nuclei and table.
    noun
        What was joined.

    Returns
    -------
    One or two sentences.
    """
    words = WORDS[noun]
    matching = tried[tried["n_nuclei"] > 0]
    good = matching[~(matching["in_place"] < IN_PLACE)]
    if not len(good):
        apart = f"Numbers coincide, but {words.many} and {words.rows} of the same number lie apart. "
        return (
            f"{apart if len(matching) else ''}Give the {words.many} a `cell_id` column with the ids of their "
            f"{words.rows}, or the table the right `region` and `instance_key`."
        )
    best = good.iloc[0]
    left, right = best["nuclei"].removeprefix(f"{name}."), best["table"].removeprefix("table.")
    doubt = ""
    if np.isnan(best["in_place"]):
        doubt = f" These may be numbers that coincide by chance: be sure that they mean the same {words.rows}."
    code = fix(left, right, name=name, table_key=table_key, adata=adata, used=used)
    return (
        f"{best['nuclei']} = {best['table']} would match {best['n_nuclei']} {words.many} of {best['n_cells']} "
        f"{words.rows}. To use it, run `{code}`.{doubt}"
    )


def fix(left: str, right: str, *, name: str, table_key: str, adata: ad.AnnData, used: tuple[str, str]) -> str:
    """Code that makes one pairing the one that is used.

    Parameters
    ----------
    left, right
        The columns to be joined, of nuclei and table.
    name, table_key, adata, used
        As in `advice`.

    Returns
    -------
    Statements, joined by semicolons.
    """
    nuclei, table = f"sdata[{name!r}]", f"sdata[{table_key!r}]"
    steps = []
    attrs = adata.uns.get(ATTRS, {})
    regions = np.atleast_1d(np.asarray(attrs.get("region", []), dtype=object)).tolist()
    annotates = name in regions and attrs.get("instance_key") is not None
    source = f"{table}.obs_names" if right == OBS_NAMES else f"{table}.obs[{right!r}]"
    if annotates:  # index and instance key are joined
        if left != INDEX:
            steps.append(f"{nuclei}.index = {nuclei}[{left!r}]")
        if right == OBS_NAMES:
            steps.append(f"{table}.obs[{attrs['instance_key']!r}] = {source}")
        elif right != used[1]:
            steps.append(f'{table}.uns["spatialdata_attrs"]["instance_key"] = {right!r}')
        return "; ".join(steps)
    if left != used[0]:
        steps.append(f"{nuclei}[{CELL_ID!r}] = {nuclei}" + (".index" if left == INDEX else f"[{left!r}]"))
    if right != used[1]:
        steps.append(f"{table}.obs[{CELL_ID!r}] = {source}")
    return "; ".join(steps)
