"""`lm.tl.pool_nuclei`: what the nuclei within each spot or bin look like, on average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.log import logger
from lemon_sc._core.record import record_id, write_record
from lemon_sc._core.table import as_table, check_key
from lemon_sc._objects.nuclei import extraction
from lemon_sc._objects.units import annotated, members_of
from lemon_sc.analysis.pooling import pool
from lemon_sc.tl._expression import embedded_rows

if TYPE_CHECKING:
    import anndata as ad
    from spatialdata import SpatialData

DECIDES = ("use_rep", "table_key", "shapes_key", "embedding")


@doc
def pool_nuclei(
    sdata: SpatialData,
    *,
    use_rep: str = keys.X_LEMON,
    table_key: str = "table",
    units_key: str = keys.SPOTS + keys.OWN_TABLE,
    shapes_key: str | None = None,
    key_added: str | None = None,
) -> None:
    """Mean and spread of the nucleus embeddings within each spot or bin, in the table of the spots.

    A nucleus belongs to every circle or polygon that its centre lies in; of polygons that share a border, as bins do, a
    centre on it belongs to the first, so that bins which tile the tissue hold each nucleus once. All transformations
    between nuclei, image and units are honoured.

    Parameters
    ----------
    %(sdata)s
    %(use_rep)s
    table_key
        The table of the nuclei in ``sdata.tables``, embedded by `lm.tl.embed`.
    units_key
        The table of the spots or bins, to which the result is added.
    shapes_key
        The spots (circles) or bins (polygons) in ``sdata.shapes``; ``None`` takes the element that their table
        annotates.
    key_added
        Name of the result; ``None`` takes `use_rep`.

    Returns
    -------
    Nothing. Adds to the table of the units:

    `.obsm[key_added]`
        Mean over the nuclei, float32 (n_units, D); NaN for units without nuclei, never zero.
    `.obsm[key_added + "_sd"]`
        Standard deviation over the nuclei (ddof 0, so 0 for a single one), NaN without.
    `.obs[key_added + "_n"]`
        How many nuclei with an embedding lie in the unit.
    `.obs[key_added + "_encoder"]`
        In words, what was pooled.
    `.uns["lemon_sc"]["pool"][key_added]`
        Tables, shapes, and how many nuclei lie in no unit and units hold no nucleus.

    Raises
    ------
    MissingKeyError
        If a table, the embedding or the units are not there, or nuclei were not extracted.
    ValueError
        If no nucleus lies in any unit, the units have no extent, the table of the nuclei holds patches, or something
        that was not pooled has the name of the result.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200, spots=20.0)
    >>> lm.pp.extract_nuclei(sdata)
    >>> lm.tl.embed(sdata, model="morphometry")
    >>> lm.tl.pool_nuclei(sdata)
    >>> sdata["spots_table"].obsm["X_lemon"].shape[1] == sdata["table"].obsm["X_lemon"].shape[1]
    True
    """
    key = check_key(use_rep if key_added is None else key_added)
    cells = as_table(sdata, table_key=table_key)
    if units_key not in sdata.tables:
        fix = "Pass `units_key=`, the table of the spots or bins."
        raise missing_key(units_key, where="sdata.tables", have=sdata.tables, fix=fix)
    units = as_table(sdata, table_key=units_key)
    made = extraction(cells)
    _check(made, table_key, units, units_key, key)
    rep, rows = embedded_rows(cells, use_rep)
    shapes_key = annotated(units, units_key) if shapes_key is None else shapes_key
    xy = np.asarray(cells.obsm[keys.NUCLEUS_XY], dtype=np.float64)[rows]
    members = members_of(sdata, units, xy, record=made, shapes_key=shapes_key)
    if not members.nnz:
        msg = (
            f"None of the {len(xy)} nuclei with an embedding lies in one of the {units.n_obs} units of {shapes_key!r}. "
            "Check their transformations: both must lie where they do in the image."
        )
        raise ValueError(msg)
    found = pool(rep[rows], members)
    units.obsm[key], units.obsm[key + keys.SD] = found.mean_MD, found.sd_MD
    units.obs[key + keys.COUNT] = found.n_M.astype(np.int32)
    words = cells.obs[use_rep + keys.ENCODER].dropna() if use_rep + keys.ENCODER in cells.obs else pd.Series([use_rep])
    said = pd.Series(f"mean of nuclei: {words.iloc[0]}", index=units.obs_names, dtype="category")
    units.obs[key + keys.ENCODER] = said.where(found.n_M > 0)
    record = {
        "use_rep": use_rep,
        "table_key": table_key,
        "shapes_key": shapes_key,
        "embedding": record_id(cells, keys.EMBED, use_rep),
        "n_nuclei": len(xy),
        "n_nuclei_without_unit": int((np.asarray(members.sum(axis=0)).ravel() == 0).sum()),
        "n_units_without_nucleus": int((found.n_M == 0).sum()),
    }
    write_record(units, keys.POOL, record, key=key, decides=DECIDES)
    report(units, record, key)


def _check(made: dict[str, Any], table_key: str, units: ad.AnnData, units_key: str, key: str) -> None:
    """Raise unless nuclei are pooled, and nothing else is lost by it."""
    if made.get(keys.UNIT) == keys.PATCH:
        msg = f"`sdata.tables[{table_key!r}]` holds patches. Pass the table of the nuclei as `table_key=`."
        raise ValueError(msg)
    records = units.uns.get(keys.UNS, {})
    own = key in records.get(keys.POOL, {}) and key not in records.get(keys.EMBED, {})
    taken = [name for name in (key, key + keys.SD) if name in units.obsm and not own]
    if taken:
        must = f"not be a name that holds something else in `sdata.tables[{units_key!r}].obsm`"
        raise bad_value("key_added", must=must, got=taken[0], fix="Give the result another name.")


def report(units: ad.AnnData, record: dict[str, object], key: str) -> None:
    """Say what holds no nucleus, and what lies in no unit."""
    logger.info(
        "%s: %d nuclei pooled in %d units; %d units without a nucleus are NaN, %d nuclei lie in no unit",
        key,
        record["n_nuclei"],
        units.n_obs,
        record["n_units_without_nucleus"],
        record["n_nuclei_without_unit"],
    )
