"""Which features of a panel are genes, and which genes a probe takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse, stats

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CONTROL_PREFIXES = ("blank", "negcontrol", "antisense_", "unassigned", "deprecated")
"""Beginnings of the names of control features, in lower case (Xenium, CosMx, MERSCOPE)."""

GENE_TYPE = "Gene Expression"
"""What the column ``feature_types`` says of a gene in 10x files."""


def is_gene(names: Sequence[str], feature_types: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """(G,) True for genes, False for controls.

    A name that begins as in `CONTROL_PREFIXES` (any case) is a control. Where some `feature_types` are
    ``"Gene Expression"``, all features of other types are left out as well.

    Parameters
    ----------
    names
        Names of the G features.
    feature_types
        Their types, in the same order; None where they are unknown.

    Returns
    -------
    Bool (G,).
    """
    mask = np.array([not str(name).lower().startswith(CONTROL_PREFIXES) for name in names], dtype=bool)
    if feature_types is not None:
        typed = np.array([str(t) == GENE_TYPE for t in feature_types], dtype=bool)
        if typed.any():
            mask &= typed
    return mask


def mean_by_group(
    x_NG: NDArray[np.number] | sparse.spmatrix, codes_N: NDArray[np.intp], n_groups: int
) -> NDArray[np.float64]:
    """(n_groups, G) mean of each column in each group; rows with code -1 are left out, `x_NG` may be sparse.

    Parameters
    ----------
    x_NG
        Values, dense or sparse.
    codes_N
        Group of each row, 0 .. `n_groups` - 1, or -1.
    n_groups
        Number of groups, none empty.

    Returns
    -------
    Float64 (n_groups, G).
    """
    rows = np.flatnonzero(codes_N >= 0)
    size = np.bincount(codes_N[rows], minlength=n_groups)
    data = 1.0 / size[codes_N[rows]]
    pick = sparse.csr_matrix((data, (codes_N[rows], rows)), shape=(n_groups, len(codes_N)))
    means = pick @ x_NG
    return np.asarray(means.toarray() if sparse.issparse(means) else means, dtype=np.float64)


def top_genes(mean_FG: NDArray[np.float64], names: Sequence[str], *, n: int = 50) -> list[str]:
    """The HEST rule: genes ranked by mean expression within each slide, ranks summed, the `n` first.

    Parameters
    ----------
    mean_FG
        Mean expression by slide.
    names
        G names. Ties within a slide share the average rank; equal sums are ordered by name.
    n
        How many; all if there are fewer.

    Returns
    -------
    Names, first rank first.

    Raises
    ------
    ValueError
        If there are no genes.
    """
    if len(names) == 0:
        raise bad_value("names", must="hold at least one gene", got=list(names), fix="Are all features controls?")
    rank = stats.rankdata(-mean_FG, method="average", axis=1).sum(axis=0)
    return [str(names[i]) for i in np.lexsort((np.asarray(names, dtype=str), rank))[:n]]


def looks_like_counts(values: NDArray[np.number]) -> bool:
    """Whether all values are whole numbers >= 0.

    Parameters
    ----------
    values
        Numbers, of any shape.

    Returns
    -------
    True for an empty array, too.
    """
    return bool(np.issubdtype(values.dtype, np.unsignedinteger) or ((values >= 0) & (values == np.floor(values))).all())
