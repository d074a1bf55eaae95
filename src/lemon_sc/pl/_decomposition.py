"""Predicted cell-type compositions beside those that were to be predicted, spot by spot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from scipy.spatial import cKDTree

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, listing, missing_key, one_of
from lemon_sc._core.record import read_record
from lemon_sc._core.table import as_table
from lemon_sc.pl._base import bare, new_figure, note, styled
from lemon_sc.pl._colors import MISSING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SPATIAL = "spatial"
CMAP = "magma_r"
MOST_TYPES = 8
MOST_WIDE = 12.0  # inches
ROWS = ("estimate", "predicted")


@doc
@styled
def decomposition(
    adata: AnnData,
    *,
    key: str = keys.DECOMPOSITION,
    types: Sequence[str] | None = None,
    slide: str | None = None,
) -> Figure:
    """Maps of one slide, a column per cell type: above what the deconvolution says, below what was predicted.

    Both maps of a type share one scale, so that a prediction that only says the mean is seen to be flat.

    Parameters
    ----------
    %(spots)s
    key
        The ``key_added`` of `lm.tl.decompose`.
    types
        Cell types, eight beside each other; ``None`` takes the (up to eight) best predicted ones, the best first.
    slide
        Name of the slide, as in the record's ``slides``; ``None`` takes the first that is in the table. Of a slide
        without a deconvolution, the upper maps are grey.

    Returns
    -------
    The figure. CC and L1 of the slide stand above the lower maps.

    Raises
    ------
    MissingKeyError
        `lm.tl.decompose` has not been run under this key, the spots have no coordinates, or there is no such type.
    ValueError
        There is no such slide, none of its spots is in the table, or the deconvolution has lost cell types.
    """
    adata = as_table(adata)
    record = read_record(adata, keys.DECOMPOSE, key=key, fix="Run `lm.tl.decompose` first.")
    if SPATIAL not in adata.obsm:
        raise missing_key(SPATIAL, where="adata.obsm", have=adata.obsm, fix="A map needs the centres of the spots.")
    if key not in adata.obsm:
        raise missing_key(key, where="adata.obsm", have=adata.obsm, fix="Run `lm.tl.decompose` on this table.")
    chosen, rows = _rows(adata, record, slide)
    shown = _types(record, types)
    xy = np.asarray(adata.obsm[SPATIAL], dtype=np.float64)[rows, :2]
    maps = {
        ROWS[0]: truth_of(adata, record)[rows],
        ROWS[1]: adata.obsm[key].loc[:, list(record["summary"].index)].to_numpy(dtype=np.float64)[rows],
    }
    at = [list(record["summary"].index).index(name) for name in shown]
    scores = record["scores"]
    scores = scores[scores["slide"] == chosen].set_index("type")
    width = float(np.clip(np.ptp(xy[:, 0]) / max(np.ptp(xy[:, 1]), 1e-9), 0.5, 2.0))
    beside = min(len(shown), MOST_TYPES)
    deep = -(-len(shown) // beside)
    panel = min(1.5 * width, MOST_WIDE / beside)
    figure = new_figure(0.5 + panel * beside, deep * (1.0 + 2 * panel / width))
    axes = figure.subplots(2 * deep, beside, squeeze=False)
    for ax in axes.ravel():
        bare(ax)
    for i, (name, c) in enumerate(zip(shown, at, strict=True)):
        pair = axes[2 * (i // beside) :][:2, i % beside]
        both = np.concatenate([maps[row][:, c] for row in ROWS])
        top = np.max(both, initial=0.0, where=np.isfinite(both))
        norm = Normalize(0.0, float(top) if top > 0 else 1.0)
        for row, ax in zip(ROWS, pair, strict=True):
            drawn = _spots(ax, xy, maps[row][:, c], norm)
            if i % beside == 0:
                ax.set_ylabel(row)
        pair[0].set_title(name)
        scored = name in scores.index
        note(pair[1], f"CC {scores.loc[name, 'cc']:.2f}, L1 {scores.loc[name, 'l1']:.2g}" if scored else "not scored")
        figure.colorbar(drawn, ax=pair, orientation="horizontal", shrink=0.8, aspect=15, pad=0.02)
    figure.suptitle(f"{chosen}, {record['target']}", fontsize=8)
    return figure


def truth_of(adata: AnnData, record: dict[str, Any]) -> NDArray[np.float64]:
    """(n_obs, C) what was to be predicted, on the scale of the prediction; NaN where nothing is known."""
    name, columns = record["truth"], np.asarray(record["columns"], dtype=np.intp)
    if name not in adata.obsm:
        raise missing_key(name, where="adata.obsm", have=adata.obsm, fix="It is what was to be predicted.")
    values = np.asarray(adata.obsm[name], dtype=np.float64)
    if values.shape[1] <= columns.max():
        msg = f"`adata.obsm[{name!r}]` has lost cell types since `lm.tl.decompose` was run. Run it again."
        raise ValueError(msg)
    kept = values[:, columns]
    if record["target"] == "abundance":
        return kept
    total = kept.sum(axis=1, keepdims=True)
    return np.where(total > 0, kept / np.where(total > 0, total, 1.0), np.nan)


def _types(record: dict[str, Any], types: Sequence[str] | None) -> list[str]:
    summary = record["summary"]
    if types is None:
        return [str(name) for name in summary["cc"].sort_values(ascending=False).index[:MOST_TYPES]]
    asked = [types] if isinstance(types, str) else list(types)
    if not asked:
        raise bad_value("types", must=f"name one of {listing(summary.index)}", got=asked)
    for name in asked:
        if name not in summary.index:
            raise missing_key(name, where="types", have=summary.index)
    return asked


def _rows(adata: AnnData, record: dict[str, Any], slide: str | None) -> tuple[str, NDArray[np.intp]]:
    """A slide, by default the first that is here, and its spots that have coordinates."""
    slides = record["slides"]
    names = [str(name) for name in slides.index]
    for column in (record["groups_key"], record["slides_key"]):
        if column not in adata.obs:
            raise missing_key(column, where="adata.obs", have=adata.obs.columns, fix="It names the slides.")
    group, section = (adata.obs[record[name]].astype(str).to_numpy() for name in ("groups_key", "slides_key"))
    placed = np.isfinite(np.asarray(adata.obsm[SPATIAL], dtype=np.float64)[:, :2]).all(axis=1)
    for name in names if slide is None else [one_of("slide", slide, names)]:
        row = slides.loc[name]
        rows = np.flatnonzero((group == str(row["group"])) & (section == str(row["section"])) & placed)
        if len(rows):
            return name, rows
    msg = f"No spot with coordinates is of {'any slide' if slide is None else repr(slide)} that `lm.tl.decompose` saw."
    raise ValueError(msg)


def _spots(ax: Axes, xy: NDArray[np.float64], values: NDArray[np.float64], norm: Normalize) -> EllipseCollection:
    """One disc per spot, grey where there is no value."""
    step = float(np.median(cKDTree(xy).query(xy, k=min(2, len(xy)))[0][..., -1]))
    step = step if step > 0 else 1.0  # a single spot, or all in one place
    size = np.full(len(xy), 0.95 * step)
    drawn = EllipseCollection(
        size,
        size,
        np.zeros(len(xy)),
        units="xy",
        offsets=xy,
        transOffset=ax.transData,
        linewidths=0,
        cmap=mpl.colormaps[CMAP].with_extremes(bad=MISSING),
        norm=norm,
    )
    drawn.set_array(np.ma.masked_invalid(values))
    ax.add_collection(drawn)
    half = step / 2
    ax.set(
        xlim=(xy[:, 0].min() - half, xy[:, 0].max() + half), ylim=(xy[:, 1].max() + half, xy[:, 1].min() - half)
    )  # y runs down, as in the image
    ax.set_aspect("equal")
    bare(ax)
    return drawn
