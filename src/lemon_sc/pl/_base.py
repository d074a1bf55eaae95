"""What every plot shares: style, axes, scale bars, bounded numbers of points, and where nucleus images come from."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.font_manager import FontProperties
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.rng import RNG, as_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray
    from spatialdata import SpatialData

P = ParamSpec("P")
R = TypeVar("R")

MAX_POINTS = 50_000
"""A scatter plot shows at most this many cells, drawn at random; more only costs time and hides what lies beneath."""

GREY = "#8c8c8c"
BASES = ("X_umap", "X_tsne", "X_draw_graph_fr", "X_mde")

RC: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "image.interpolation": "antialiased",
}
"""The look of all plots, set only while one is drawn."""


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Draw with the package's style and leave the user's settings as they were."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        # not `mpl.rc_context`: it would also undo what a notebook's backend sets up when it draws its first figure
        before = {key: mpl.rcParams[key] for key in RC}
        mpl.rcParams.update(RC)
        try:
            return function(*args, **kwargs)
        finally:
            mpl.rcParams.update(before)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches whose layout looks after itself."""
    return plt.figure(figsize=(width, height), layout="constrained")


def axes_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or the single axes of a new figure (inches)."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def bare(ax: Axes) -> None:
    """Take ticks and frame away: for images and manifolds, whose coordinates mean nothing by themselves."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def note(ax: Axes, text: str) -> None:
    """Small grey remark above the axes, at the left."""
    ax.set_title(text, loc="left", fontsize=6, color=GREY)


def gene_axis(ax: Axes, genes: list[str]) -> None:
    """Genes down the y axis, the first on top, in italics as gene names are set."""
    ax.set_yticks(np.arange(len(genes)), genes, fontstyle="italic")
    ax.set_ylim(len(genes) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines[["left", "top", "right"]].set_visible(False)


def round_length(um: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above `um`."""
    power = 10.0 ** np.floor(np.log10(um))
    return float(max(step * power for step in (1, 2, 5) if step * power <= um * (1 + 1e-9)))


def scale_bar(ax: Axes, um_per_unit: float, *, span: float, below: bool = False) -> float:
    """Draw a scale bar of about a quarter of `span` data units, return its length in um.

    On the image by default, on a pale ground, so that it reads on any stain; ``below`` puts it under the axes.
    """
    um = round_length(span * um_per_unit / 4)
    bar = AnchoredSizeBar(
        ax.transData,
        um / um_per_unit,
        f"{um:g} µm",
        loc="upper right" if below else "lower right",
        pad=0.3,
        borderpad=0.2 if below else 0.5,
        sep=2,
        frameon=not below,
        size_vertical=0,
        fontproperties=FontProperties(size=6 if below else 8),
        fill_bar=False,
        bbox_to_anchor=(1, 0) if below else None,
        bbox_transform=ax.transAxes if below else None,
    )
    for patch in bar.size_bar.get_children():
        patch.set(linewidth=1.5, edgecolor="black")
    if not below:
        bar.patch.set(facecolor="white", edgecolor="none", alpha=0.85)
    bar.set_zorder(5)
    ax.add_artist(bar)
    return um


def subsample(rows: NDArray[np.integer], *, most: int, rng: RNG) -> NDArray[np.integer]:
    """At most `most` of `rows`, drawn without replacement, in their order."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(as_generator(rng).choice(len(rows), most, replace=False))]


def point_size(n: int) -> float:
    """Marker area (pt^2) that fills a panel of a few inches about evenly."""
    return float(np.clip(12_000 / max(n, 1), 0.4, 8))


def manifold(adata: AnnData, basis: str | None) -> tuple[str, NDArray[np.float64]]:
    """Name and first two columns (n_obs, 2) of a 2-D map in ``adata.obsm``.

    ``None`` takes the first of `BASES` that is there.
    """
    fix = "Compute a map first, for instance `sc.pp.neighbors(adata, use_rep='X_lemon')` and `sc.tl.umap(adata)`."
    if basis is None:
        name = next((b for b in BASES if b in adata.obsm), BASES[0])
    else:
        name = basis if basis in adata.obsm or f"X_{basis}" not in adata.obsm else f"X_{basis}"
    if name not in adata.obsm:
        raise missing_key(name, where="adata.obsm", have=adata.obsm, fix=fix)
    xy = np.asarray(adata.obsm[name])
    if xy.ndim != 2 or xy.shape[1] < 2:
        msg = f"`adata.obsm[{name!r}]` must have two columns to be drawn, got shape {xy.shape}."
        raise ValueError(msg)
    return name, xy[:, :2].astype(np.float64)


def label_axes(ax: Axes, basis: str) -> None:
    """Short axis names of a 2-D map ("UMAP 1", "UMAP 2") without ticks."""
    name = basis.removeprefix("X_")
    name = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PC"}.get(name, name)
    ax.set(xticks=[], yticks=[], xlabel=f"{name} 1", ylabel=f"{name} 2")
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(False)


def has_nucleus(adata: AnnData) -> NDArray[np.bool_]:
    """Bool (n_obs,): cells with a usable nucleus. Without a QC column, all."""
    if keys.NUCLEUS_QC not in adata.obs:
        return np.ones(adata.n_obs, dtype=bool)
    return (adata.obs[keys.NUCLEUS_QC] == keys.QC_OK).to_numpy()


def crops_at_hand(data: AnnData | SpatialData, adata: AnnData) -> bool:
    """Whether nucleus images can be read: kept in memory, in a store, or in the image of a SpatialData."""
    record = adata.uns.get(keys.UNS, {}).get(keys.NUCLEI)
    return record is not None and (keys.NUCLEI in adata.obsm or bool(record["store"]) or data is not adata)


def crops_of(
    data: AnnData | SpatialData, rows: ArrayLike, *, table_key: str = "table"
) -> tuple[NDArray[np.uint8], float]:
    """Nucleus images of the given table rows, and their um per px: uint8 (n, S, S, 3), float."""
    from lemon_sc._objects.nuclei import read_crops  # reaches torch, which plots without nuclei do without

    return read_crops(data, np.asarray(rows, dtype=np.int64), table_key=table_key)


def noun_of(adata: AnnData) -> str:
    """What the images of a table show: ``"nuclei"``, or ``"patches"`` of tissue around spots or bins."""
    record = adata.uns.get(keys.UNS, {}).get(keys.NUCLEI, {})
    return "patches" if record.get(keys.UNIT) == keys.PATCH else "nuclei"


def positive(name: str, value: int) -> int:
    """`value` if it is an int >= 1, else an error that names the parameter."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise bad_value(name, must="be an int >= 1", got=value)
    return int(value)
