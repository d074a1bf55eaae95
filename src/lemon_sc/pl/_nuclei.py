"""Gallery of nucleus images: by category, by expression, or at the extremes of a dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.rng import RNG, spawn
from lemon_sc._core.table import as_table, get_rep
from lemon_sc.pl._base import bare, crops_of, has_nucleus, new_figure, noun_of, positive, scale_bar, styled
from lemon_sc.pl._colors import as_categories, expression, is_number, obs_column, palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

N_BINS = 4
GAP = 0.06
"""White between images, in image widths."""


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """One row of the gallery.

    Attributes
    ----------
    label
        What stands before the row.
    rows
        Table rows of the nuclei shown, in order.
    color
        Colour of the category, or None.
    """

    label: str
    rows: NDArray[np.int64]
    color: str | None = None


def draw(rows: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`n` of `rows` (all if fewer) at random; a larger `n` extends the choice of a smaller one."""
    return rng.permutation(rows)[:n]


def quantile_bins(values: NDArray[np.float64], *, n_bins: int = N_BINS) -> list[NDArray[np.int64]]:
    """Rows by ascending value in up to `n_bins` groups of about equal size.

    Zeros of a non-negative quantity are a group of their own, equal values never part, and NaN belong to no group.
    """
    rows = np.flatnonzero(np.isfinite(values))
    zero = rows[values[rows] == 0] if len(rows) and values[rows].min() == 0 else rows[:0]
    rest = np.setdiff1d(rows, zero, assume_unique=True)
    n_rest = max(n_bins - bool(len(zero)), 1)
    edges = np.quantile(values[rest], np.linspace(0, 1, n_rest + 1)[1:-1], method="lower") if len(rest) else []
    group = np.searchsorted(np.unique(edges), values[rest], side="left")
    return [g for g in (zero, *(rest[group == k] for k in range(n_rest))) if len(g)]


def span(values: NDArray[np.float64]) -> str:
    """Range of values for a label."""
    low, high = (f"{v:,.0f}" if abs(v) >= 100 else f"{v:.3g}" for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def rows_by_value(
    name: str, values: NDArray[np.float64], *, usable: NDArray[np.bool_], n: int, rng: RNG, noun: str = "nuclei"
) -> list[GalleryRow]:
    """Gallery rows for bins of a quantity."""
    bins = quantile_bins(np.where(usable, values, np.nan))
    draws = spawn(rng, N_BINS)
    return [
        GalleryRow(label=f"{name} {span(values[b])}\n{len(b):,} {noun}", rows=draw(b, n, g))
        for b, g in zip(bins, draws, strict=False)
    ]


def rows_by_category(adata: AnnData, by: str, *, usable: NDArray[np.bool_], n: int, rng: RNG) -> list[GalleryRow]:
    """Gallery rows for the categories of an obs column."""
    groups = as_categories(adata, by)
    names, noun = groups.categories, noun_of(adata)
    members = [np.flatnonzero((groups.codes == k) & usable) for k in range(len(names))]
    parts = zip(names, palette(adata, by, len(names)), members, spawn(rng, len(names)), strict=True)
    return [GalleryRow(label=f"{c}\n{len(m):,} {noun}", rows=draw(m, n, g), color=color) for c, color, m, g in parts]


def can_be_shown(adata: AnnData, *, border: bool) -> NDArray[np.bool_]:
    """Bool (n_obs,): rows whose nucleus or patch has pixels; at the border, only the image has them.

    Of patches, only usable ones are kept: the others are in the image alone, too.
    """
    judged = [*keys.QC_FROM_PIXELS] if border or noun_of(adata) == "nuclei" else []
    verdicts = [keys.QC_OK, *judged, *([keys.QC_BORDER] if border else [])]
    return obs_column(adata, keys.NUCLEUS_QC).isin(verdicts).to_numpy()


def dimension(adata: AnnData, use_rep: str, dim: int | str) -> tuple[str, NDArray[np.float64]]:
    """Name and values (n_obs,) of one dimension of an embedding, by index or by feature name."""
    rep = get_rep(adata, use_rep)
    record = adata.uns.get(keys.UNS, {}).get(keys.EMBED, {}).get(use_rep, {})
    features = [str(f) for f in record.get("features", [])]
    if isinstance(dim, str):
        if dim not in features:
            where = f'adata.uns["{keys.UNS}"]["{keys.EMBED}"]["{use_rep}"]["features"]'
            fix = "Dimensions without a name are given by their index."
            raise missing_key(dim, where=where, have=features, fix=fix)
        index = features.index(dim)
    else:
        if not 0 <= dim < rep.shape[1]:
            raise bad_value("dim", must=f"be between 0 and {rep.shape[1] - 1} for {use_rep!r}", got=dim)
        index = int(dim)
    name = features[index] if features else f"{use_rep} [{index}]"
    return name, rep[:, index].astype(np.float64)


def rows_by_extreme(name: str, values: NDArray[np.float64], *, usable: NDArray[np.bool_], n: int) -> list[GalleryRow]:
    """Two gallery rows: the `n` lowest (ascending) and the `n` highest (descending) values."""
    rows = np.flatnonzero(usable & np.isfinite(values))
    order = rows[np.argsort(values[rows], kind="stable")]
    ends = {"lowest": order[:n], "highest": order[::-1][:n]}
    return [GalleryRow(label=f"{name}\n{end}: {span(values[r])}", rows=r) for end, r in ends.items() if len(r)]


def draw_gallery(ax: Axes, gallery: Sequence[GalleryRow], crops: NDArray[np.uint8], *, mpp: float, n: int) -> None:
    """Place `crops` (all rows of the gallery, one after the other) with labels and a scale bar."""
    at = 0
    for r, row in enumerate(gallery):
        for c in range(len(row.rows)):
            left, top = c + GAP / 2, r + GAP / 2
            extent = (left, left + 1 - GAP, top + 1 - GAP, top)
            ax.imshow(crops[at], extent=extent, interpolation="bilinear")
            at += 1
        if row.color is not None:
            ax.add_patch(Rectangle((-0.12, r + GAP / 2), 0.08, 1 - GAP, color=row.color, clip_on=False))
    ax.set(xlim=(-0.15, n), ylim=(len(gallery), 0), aspect="equal")
    bare(ax)
    ax.set_yticks(np.arange(len(gallery)) + 0.5, [row.label for row in gallery])
    ax.tick_params(axis="y", length=0)
    scale_bar(ax, crops.shape[1] * mpp / (1 - GAP), span=2.5, below=True)


@doc
@styled
def nuclei(
    data: AnnData | SpatialData,
    *,
    by: str | None = None,
    gene: str | None = None,
    dim: int | str | None = None,
    use_rep: str = keys.X_LEMON,
    layer: str | None = None,
    n: int = 12,
    table_key: str = "table",
    rng: RNG = 0,
) -> Axes:
    """Gallery of nuclei, or of patches: one row per category, per bin of expression, or the two ends of a dimension.

    Only the nuclei that are shown are read, whatever the size of the table. Cells whose ``obs["nucleus_qc"]`` is not
    ``"ok"`` are left out, unless they are what is asked for: ``by="nucleus_qc"`` gives one row per verdict. There,
    nuclei that the border of the image cuts off can be shown of a SpatialData, padded with white; cells without a
    nucleus in the image have nothing to show.

    Parameters
    ----------
    %(data)s
    by
        Column of ``adata.obs``: categories give one row each (colours from ``adata.uns[f"{by}_colors"]``), numbers up
        to four bins of about equal size.
    gene
        Gene whose expression is binned: zeros, then up to three bins of about equal size.
    dim
        Dimension of `use_rep`, an index or the name of a feature: shows the nuclei with the lowest and the highest
        value, the most extreme first. Columns of the default encoder have the names of measurements, and no units.
    use_rep
        The embedding in ``adata.obsm``, for `dim`.
    %(layer)s
    n
        Nuclei per row.
    %(table_key)s
    %(rng)s

    Returns
    -------
    The axes of a new figure.

    Raises
    ------
    ValueError
        More than one of `by`, `gene` and `dim` is given, or no cell has a usable nucleus.
    MissingKeyError
        A column, gene, layer, embedding or feature that is not there.
    """
    adata = as_table(data, table_key=table_key)
    gallery = choose(
        adata,
        by=by,
        gene=gene,
        dim=dim,
        use_rep=use_rep,
        layer=layer,
        n=positive("n", n),
        rng=rng,
        has_image=data is not adata,
    )
    rows = np.concatenate([row.rows for row in gallery] or [np.zeros(0, dtype=np.int64)])
    if not len(rows):
        msg = f"No cell with a usable nucleus has a value of {by or gene or dim!r}, so there is nothing to draw."
        raise ValueError(msg)
    crops, mpp = crops_of(data, rows, table_key=table_key)
    ax = new_figure(0.5 * n + 1.2, 0.5 * len(gallery) + 0.4).add_subplot()
    draw_gallery(ax, gallery, crops, mpp=mpp, n=n)
    return ax


def choose(
    adata: AnnData,
    *,
    by: str | None,
    gene: str | None,
    dim: int | str | None,
    use_rep: str,
    layer: str | None,
    n: int,
    rng: RNG,
    has_image: bool,
) -> list[GalleryRow]:
    """The rows of the gallery: which nuclei, in which order, under which label."""
    given = [name for name, value in (("by", by), ("gene", gene), ("dim", dim)) if value is not None]
    if len(given) > 1:
        msg = f"Pass one of `by`, `gene` and `dim`, got {' and '.join(given)}."
        raise ValueError(msg)
    if by == keys.NUCLEUS_QC:
        verdicts = rows_by_category(adata, by, usable=can_be_shown(adata, border=has_image), n=n, rng=rng)
        return [row for row in verdicts if len(row.rows)]
    usable, noun = has_nucleus(adata), noun_of(adata)
    if not usable.any():
        msg = f"There are no usable {noun}: `adata.obs[{keys.NUCLEUS_QC!r}]` is never {keys.QC_OK!r}."
        raise ValueError(msg)
    if by is not None and not is_number(obs_column(adata, by)):
        return rows_by_category(adata, by, usable=usable, n=n, rng=rng)
    if by is not None:
        values = adata.obs[by].to_numpy(dtype=np.float64, na_value=np.nan)
        return rows_by_value(by, values, usable=usable, n=n, rng=rng, noun=noun)
    if gene is not None:
        return rows_by_value(gene, expression(adata, gene, layer=layer), usable=usable, n=n, rng=rng, noun=noun)
    if dim is not None:
        return rows_by_extreme(*dimension(adata, use_rep, dim), usable=usable, n=n)
    rows = np.flatnonzero(usable)
    return [GalleryRow(label=f"{len(rows):,} {noun}", rows=draw(rows, n, spawn(rng, 1)[0]))]
