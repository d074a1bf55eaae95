"""What made each result of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lemon_sc._core.record import records
from lemon_sc._core.table import as_table

if TYPE_CHECKING:
    import anndata as ad
    import spatialdata as sd


def provenance(data: ad.AnnData | sd.SpatialData, *, table_key: str = "table") -> list[dict[str, Any]]:
    """What made each result of a table, one record per step, ready for `json.dumps`.

    Parameters
    ----------
    data
        A table, or a SpatialData object that holds it.
    table_key
        Name of the table in a SpatialData object.

    Returns
    -------
    One dict per result of a step, none for a table on which nothing was run; a record stands after the one that it was
    made from. Each has ``step`` (``"nuclei"``, ``"embed"``, ``"probe"``, ``"moranI"``, ...), ``key`` (the
    ``key_added``, or empty), ``id`` (a digest of the settings that decide the result), ``made_from`` (the ``id`` of the
    step before), ``version`` of this package, and the step's own settings and counts; ``stale``, only where a step
    before it was run again with other settings, says which. Tables of results and long arrays are named by ``shape``
    and ``sha256``, so that unequal records mean unequal results; their values are in ``uns["lemon_sc"]``.

    Raises
    ------
    TypeError
        Neither a table nor a SpatialData object.
    KeyError
        No such table.

    Examples
    --------
    >>> import json
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=100)
    >>> lm.pp.extract_nuclei(sdata)
    >>> lm.tl.embed(sdata, model="morphometry")
    >>> steps = lm.tl.provenance(sdata)
    >>> [step["step"] for step in steps]
    ['phantom', 'nuclei', 'embed']
    >>> steps[2]["made_from"] == steps[1]["id"]
    True
    >>> text = json.dumps(steps, allow_nan=False)
    """
    return records(as_table(data, table_key=table_key))
