"""What a search found: the best hits of each query, beside nuclei or patches at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, listing, one_of
from lemon_sc._core.record import read_record
from lemon_sc._core.table import as_table
from lemon_sc.pl._base import crops_of, new_figure, positive, styled
from lemon_sc.pl._colors import expression
from lemon_sc.pl._nuclei import GAP, GalleryRow, draw_gallery

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

QUERY_COLOR = "#d62728"
"""Frame of an image that is the query itself."""


def rows_named(adata: AnnData, names: Sequence[str]) -> NDArray[np.int64]:
    """Rows of the table by name; an error if some are gone."""
    at = adata.obs_names.get_indexer(list(names))
    if (at < 0).any():
        lost = np.asarray(names)[at < 0]
        msg = (
            f"{len(lost)} of the retrieved rows are not in the table ({listing(lost, most=3)}). "
            "Run `lm.tl.retrieve` on this table."
        )
        raise ValueError(msg)
    return np.asarray(at, dtype=np.int64)


def caption(name: str, metrics: pd.DataFrame) -> str:
    """The query, and how much of its gene the hits have, if it is one."""
    value = metrics[metrics["query"] == name].set_index("metric")["value"]
    if "fold" not in value:
        return name
    fold = f"{value['fold']:.2g} x the mean" if np.isfinite(value["fold"]) else "nowhere expressed"
    return f"{name}\n{fold}\np = {value['pvalue']:.2g}"


def write_values(ax: Axes, values: NDArray[np.float64], *, row: int) -> None:
    """Numbers in the corners of a gallery row's images."""
    box: Any = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for column, value in enumerate(values):
        ax.text(column + 0.08, row + 0.92, f"{value:.3g}", fontsize=5, va="bottom", ha="left", bbox=box)


@doc
@styled
def retrieved(
    data: AnnData | SpatialData,
    *,
    key: str = keys.RETRIEVE,
    queries: str | Sequence[str] | None = None,
    n: int = 8,
    table_key: str = "table",
) -> Axes:
    """Gallery of what `lm.tl.retrieve` found: the best hits of each query, and below them images at random.

    By gene, the number on an image is the measured expression of the gene there, and the caption says how it compares.
    By image, a query that is a row of the table is shown first, in a red frame.

    Parameters
    ----------
    %(data)s
    key
        ``key_added`` of `lm.tl.retrieve`.
    queries
        Which of its queries; ``None``: all, up to eight.
    n
        Images per row, at most the `k` that were searched for.
    %(table_key)s

    Returns
    -------
    The axes of a new figure.

    Raises
    ------
    MissingKeyError
        If `lm.tl.retrieve` has not run.
    ValueError
        If a query was not asked, a retrieved row is not in the table any more, or has no image to show.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.extract_nuclei(sdata, store="memory")
    >>> lm.tl.embed(sdata, model="morphometry")
    >>> adata = sdata["table"]
    >>> lm.tl.retrieve(adata, query=adata.obs_names[adata.obs["nucleus_qc"] == "ok"][:2], k=20)
    >>> ax = lm.pl.retrieved(adata)
    """
    adata = as_table(data, table_key=table_key)
    record = read_record(adata, keys.RETRIEVE, key=key, fix="Run `lm.tl.retrieve` first.")
    n = min(positive("n", n), int(record["k"]))
    hits = record["hits"]
    asked = list(dict.fromkeys(hits["query"]))
    names = [queries] if isinstance(queries, str) else asked[:8] if queries is None else list(queries)
    if not names:
        raise bad_value("queries", must=f"name one of {listing(asked)}", got=names)
    for name in names:
        one_of("queries", name, asked)
    itself = record["by"] == "image" and all(name in adata.obs_names for name in names)
    gallery = []
    for name in names:
        found = list(hits.loc[hits["query"] == name, "obs_name"][:n])
        gallery.append(
            GalleryRow(label=caption(name, record["metrics"]), rows=rows_named(adata, [name] * itself + found))
        )
    gallery.append(GalleryRow(label="random", rows=rows_named(adata, list(record["random"][: n + itself]))))
    shown, mpp = crops_of(data, np.concatenate([row.rows for row in gallery]), table_key=table_key)
    ax = new_figure(0.75 * (n + itself) + 1.2, 0.75 * len(gallery) + 0.3).add_subplot()
    draw_gallery(ax, gallery, shown, mpp=mpp, n=n + itself)
    if record["by"] == "gene":
        for r, name in enumerate(names):
            values = expression(adata, name, layer=record["layer"] or None)
            write_values(ax, values[gallery[r].rows], row=r)
            if len(names) == 1:
                write_values(ax, values[gallery[-1].rows], row=1)
    if itself:
        frame: Any = {"edgecolor": QUERY_COLOR, "facecolor": "none", "linewidth": 1.5}
        for r in range(len(names)):
            ax.add_patch(Rectangle((GAP / 2, r + GAP / 2), 1 - GAP, 1 - GAP, **frame))
    return ax
