"""Moran's I per gene, against what chance gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import missing_key
from lemon_sc._core.record import warn_if_stale
from lemon_sc._core.table import as_table
from lemon_sc.pl._base import axes_or_new, gene_axis, note, positive, styled
from lemon_sc.pl._colors import OKABE_ITO

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

FDR = 0.05
FDR_COLUMNS = ("pval_sim_fdr_bh", "pval_norm_fdr_bh")
Z_95 = 1.959964


@dataclass(frozen=True, eq=False, kw_only=True)
class MoranRows:
    """What the plot shows.

    Attributes
    ----------
    genes, I
        The genes of highest I, highest first.
    significant
        Whether the false discovery rate is below 5 %; all True where the table has no rates.
    band
        Range in which 95 % of unrelated genes fall, (low, high); None where the table has no variance.
    n_genes
        Genes in the table with a value.
    """

    genes: list[str]
    I: NDArray[np.float64]
    significant: NDArray[np.bool_]
    band: tuple[float, float] | None
    n_genes: int


def moran_table(adata: AnnData, key: str) -> pd.DataFrame:
    """The table of `lm.tl.morans_i` or of squidpy, or an error that says what to run."""
    fix = "Run `lm.tl.morans_i` first."
    if key not in adata.uns:
        raise missing_key(key, where="adata.uns", have=adata.uns, fix=fix)
    table = adata.uns[key]
    if not isinstance(table, pd.DataFrame) or "I" not in table:
        msg = f"`adata.uns[{key!r}]` must be a DataFrame with a column 'I', got {type(table).__name__}. {fix}"
        raise ValueError(msg)
    return table


def moran_rows(table: pd.DataFrame, *, n_cells: int, n_top: int) -> MoranRows:
    """The `n_top` genes of highest I, and the range of I by chance: normal, about ``-1 / (n_cells - 1)``."""
    valid = table[table["I"].notna()].sort_values("I", ascending=False, kind="stable")
    if not len(valid):
        msg = "Moran's I is NaN for every gene of the table (all are constant), so there is nothing to draw."
        raise ValueError(msg)
    top = valid.head(n_top)
    rates = next((c for c in FDR_COLUMNS if c in top), None)
    significant = np.ones(len(top), dtype=bool) if rates is None else (top[rates] < FDR).to_numpy()
    band = None
    if "var_norm" in top:
        expected, half = -1 / (n_cells - 1), Z_95 * float(np.sqrt(top["var_norm"].iloc[0]))
        band = (expected - half, expected + half)
    return MoranRows(
        genes=[str(g) for g in top.index],
        I=top["I"].to_numpy(dtype=np.float64),
        significant=significant,
        band=band,
        n_genes=len(valid),
    )


@doc
@styled
def morans_i(adata: AnnData, *, key: str = keys.MORAN, n_top: int = 20, ax: Axes | None = None) -> Axes:
    """Dot plot of the genes of highest Moran's I, with the range that chance gives.

    The grey band holds 95 % of genes that are unrelated to the graph (normal approximation, ``var_norm``). Dots are
    filled where the false discovery rate is below 5 %, by permutations if the table has them.

    Parameters
    ----------
    %(adata)s
    key
        The table of `lm.tl.morans_i` (or of squidpy) in ``adata.uns``.
    n_top
        How many genes.
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        The table is not there.
    ValueError
        It is no table of Moran's I, or has no value.
    """
    adata = as_table(adata)
    table = moran_table(adata, key)
    warn_if_stale(adata, keys.MORAN, key)
    made = adata.uns.get(keys.UNS, {}).get(keys.MORAN, {}).get(key, {})
    shown = moran_rows(table, n_cells=int(made.get("n_cells", adata.n_obs)), n_top=positive("n_top", n_top))
    ax = axes_or_new(ax, 2.8, 0.16 * len(shown.genes) + 0.7)
    at = np.arange(len(shown.genes))
    if shown.band is not None:
        ax.axvspan(*shown.band, color="#e3e3e3", linewidth=0, zorder=0)
    color = OKABE_ITO[0]
    ax.hlines(at, 0, shown.I, color=color, linewidth=0.8, alpha=0.5)
    ax.scatter(shown.I, at, s=18, c=np.where(shown.significant, color, "white"), edgecolors=color, linewidths=0.8)
    gene_axis(ax, shown.genes)
    ax.set_xlabel("Moran's I")
    note(ax, f"{len(at):,} of {shown.n_genes:,} genes\nfilled: FDR < {100 * FDR:g} %; grey: 95 % by chance")
    return ax
