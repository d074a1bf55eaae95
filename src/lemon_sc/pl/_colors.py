"""Values of cells by name (obs column or gene), and the colours they get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, to_hex, to_rgba
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc.pl._base import GREY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Eight colours that people with any common colour vision tell apart (Okabe & Ito 2008)."""

MISSING = "#d9d9d9"
MAX_CATEGORIES = 40


def expression(adata: AnnData, gene: str, *, layer: str | None = None) -> NDArray[np.float64]:
    """Expression of one gene, (n_obs,)."""
    if gene not in adata.var_names:
        raise missing_key(gene, where="adata.var_names", have=adata.var_names)
    if layer is not None and layer not in adata.layers:
        raise missing_key(layer, where="adata.layers", have=adata.layers)
    column = np.flatnonzero(adata.var_names == gene)
    if len(column) > 1:
        msg = f"{gene!r} stands {len(column)} times in `adata.var_names`. Call `adata.var_names_make_unique()` first."
        raise ValueError(msg)
    x = (adata.X if layer is None else adata.layers[layer])[:, [int(column[0])]]
    dense = x.toarray() if hasattr(x, "toarray") else np.asarray(x)
    return dense.reshape(-1).astype(np.float64)


def obs_column(adata: AnnData, name: str) -> pd.Series:
    """``adata.obs[name]``, or an error that says what is there."""
    if name not in adata.obs:
        raise missing_key(name, where="adata.obs", have=adata.obs.columns)
    return adata.obs[name]


def is_number(values: pd.Series) -> bool:
    """Whether a column is drawn on a scale rather than by category."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def as_categories(adata: AnnData, name: str) -> pd.Categorical:
    """An obs column as categories, or an error where there are too many to tell apart."""
    column = obs_column(adata, name)
    groups = column if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category")
    if (n := len(groups.cat.categories)) > MAX_CATEGORIES:
        raise bad_value(
            name, must=f"have at most {MAX_CATEGORIES} categories to be drawn", got=n, fix="Pass a coarser column."
        )
    return pd.Categorical(groups)


def palette(adata: AnnData, name: str, n: int) -> list[str]:
    """Colours of the `n` categories of an obs column: scanpy's if stored in `uns`, else Okabe-Ito up to eight."""
    stored = adata.uns.get(f"{name}_colors")
    if stored is not None and len(stored) >= n:
        return [to_hex(c) for c in list(stored)[:n]]
    if n <= len(OKABE_ITO):
        return list(OKABE_ITO[:n])
    if n <= 20:
        return [to_hex(c) for c in mpl.colormaps["tab20"].colors[:n]]  # type: ignore[attr-defined]
    return [to_hex(c) for c in mpl.colormaps["turbo"](np.linspace(0.03, 0.97, n))]


def color_range(values: NDArray[np.float64]) -> Normalize:
    """Scale from the minimum (0 for expression) to the 99th percentile, or to the maximum where that is no range."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Normalize(0, 1)
    low = min(float(finite.min()), 0.0) if finite.min() >= 0 else float(finite.min())
    high = float(np.quantile(finite, 0.99))
    if high <= low:
        high = max(float(finite.max()), low + 1e-9)
    return Normalize(low, high, clip=True)


@dataclass(frozen=True, kw_only=True)
class Coloring:
    """One colour per cell.

    Attributes
    ----------
    name
        Obs column or gene.
    rgba
        Float (n_obs, 4); light grey where there is no value.
    labels
        Categories that occur, with their colour; empty for numbers.
    norm
        Scale of the numbers; None for categories.
    """

    name: str
    rgba: NDArray[np.float64]
    labels: Sequence[tuple[str, str]] = ()
    norm: Normalize | None = None


def coloring(adata: AnnData, name: str, *, layer: str | None = None, cmap: str = "viridis") -> Coloring:
    """Colours by an obs column, or by a gene where no column has that name."""
    if name in adata.obs and not is_number(adata.obs[name]):
        groups = as_categories(adata, name)
        colors = palette(adata, name, len(groups.categories))
        table = np.array([to_rgba(c) for c in [*colors, MISSING]])
        there = np.unique(groups.codes[groups.codes >= 0])
        labels = [(str(groups.categories[k]), colors[k]) for k in there]
        return Coloring(name=name, rgba=table[groups.codes], labels=labels)  # code -1, no category, is the last colour
    if name in adata.obs:
        values = adata.obs[name].to_numpy(dtype=np.float64, na_value=np.nan)
    elif name in adata.var_names:
        values = expression(adata, name, layer=layer)
    else:
        have = [*adata.obs.columns, *adata.var_names]
        raise missing_key(name, where="adata.obs` or `adata.var_names", have=have)
    norm = color_range(values)
    rgba = mpl.colormaps[cmap](norm(np.nan_to_num(values)))
    rgba[~np.isfinite(values)] = to_rgba(MISSING)
    return Coloring(name=name, rgba=rgba, norm=norm)


def add_key(ax: Axes, colors: Coloring, *, cmap: str = "viridis") -> None:
    """Legend of the categories, or colour bar of the numbers, to the right of the axes."""
    if colors.norm is None:
        dots = [
            Line2D([], [], marker="o", linestyle="", markersize=4, color=color, label=label)
            for label, color in colors.labels
        ]
        ax.legend(handles=dots, title=colors.name, loc="upper left", bbox_to_anchor=(1.0, 1.0), alignment="left")
        return
    color_bar(ax, colors.norm, cmap=cmap, label=colors.name)


def color_bar(ax: Axes, norm: Normalize, *, cmap: str, label: str = "") -> None:
    """Slim colour bar at the right."""
    mappable = mpl.cm.ScalarMappable(norm=norm, cmap=cmap)
    bar = ax.figure.colorbar(mappable, ax=ax, shrink=0.45, aspect=14, pad=0.02, anchor=(0, 0.5))
    bar.locator = MaxNLocator(4, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, width=0.5, labelsize=6)
    bar.set_label(label, color="black" if label else GREY)
