"""Counts before SEAL sees them: neighbours on a lattice, smoothing, and the choice of a panel.

Letters of array names: N units, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RINGS = {
    "square": ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
    "hexagonal": ((-1, -1), (-1, 1), (0, -2), (0, 2), (1, -1), (1, 1)),
}
"""Steps in (row, column) to the neighbours of a unit. On Visium's lattice the columns of a row go up by two."""
MIN_COUNTS = 3
"""Counts that a gene must have in the whole training data."""
N_BINS = 20
"""Bins of mean expression in which dispersions are compared."""


def lattice_neighbours(array: NDArray[np.integer], group: NDArray[np.integer], lattice: str) -> sparse.csr_matrix:
    """Which units are next to each other on a lattice, and in the same group.

    Parameters
    ----------
    array
        Row and column, whole numbers (N, 2).
    group
        Slide of each unit, (N,): neighbours never lie across groups.
    lattice
        A key of `RINGS`.

    Returns
    -------
    (N, N) of 0 and 1, symmetric.

    Raises
    ------
    ValueError
        Two units at one place.
    """
    n, (rows, columns) = len(array), np.asarray(array, np.int64).T
    rows, columns = rows - rows.min(initial=0) + 1, columns - columns.min(initial=0) + 2
    height, width = rows.max(initial=0) + 2, columns.max(initial=0) + 3
    key = (np.asarray(group, np.int64) * height + rows) * width + columns
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    if (ordered[1:] == ordered[:-1]).any():
        twice = array[order[1:][ordered[1:] == ordered[:-1]][0]].tolist()
        must = "hold each place once per slide"
        fix = "Number the slides apart, and give patches of one unit the same `unit`."
        raise bad_value("array", must=must, got=f"{twice} twice", fix=fix)
    i, j = [], []
    for step_row, step_column in RINGS[lattice]:
        wanted = key + step_row * width + step_column
        at = np.searchsorted(ordered, wanted).clip(max=max(n - 1, 0))
        hit = np.flatnonzero(ordered[at] == wanted) if n else np.zeros(0, np.int64)
        i.append(hit)
        j.append(order[at[hit]])
    ends = (np.concatenate(i), np.concatenate(j))
    return sparse.csr_matrix((np.ones(len(ends[0]), np.float32), ends), shape=(n, n))


def near_units(xy: Array, group: NDArray[np.integer], *, within: float) -> sparse.csr_matrix:
    """Which units lie so close along both axes that squares of this side around them touch.

    Parameters
    ----------
    xy
        Centres (N, 2).
    group
        Slide of each unit, (N,).
    within
        Side of the squares, in the unit of `xy`.

    Returns
    -------
    (N, N) of 0 and 1, symmetric, without a unit itself.
    """
    found = [np.zeros((0, 2), np.int64)]
    for one in np.unique(group):
        rows = np.flatnonzero(group == one)
        found.append(rows[cKDTree(xy[rows]).query_pairs(within, p=np.inf, output_type="ndarray")])
    pairs = np.concatenate(found)
    half = sparse.csr_matrix((np.ones(len(pairs), np.float32), tuple(pairs.T)), shape=(len(xy), len(xy)))
    return sparse.csr_matrix(half + half.T)


def smooth(counts: sparse.csr_matrix, neighbours: sparse.csr_matrix) -> sparse.csr_matrix:
    """Half a unit's own counts, half the mean of its neighbours'; a unit without neighbours stays as it is.

    Parameters
    ----------
    counts
        (N, G).
    neighbours
        (N, N) of 0 and 1.

    Returns
    -------
    (N, G).
    """
    degree = np.asarray(neighbours.sum(axis=1)).ravel()
    alone = degree == 0
    share = sparse.diags(0.5 / np.where(alone, 1.0, degree)) @ neighbours
    return sparse.csr_matrix((share + sparse.diags(np.where(alone, 1.0, 0.5))) @ counts, dtype=np.float32)


@dataclass(eq=False)
class GeneSums:
    """Sums over all training units, by gene, so that tables of different genes add up to one."""

    n: dict[str, int]
    total: dict[str, float]
    """Counts."""
    first: dict[str, float]
    second: dict[str, float]
    """Sum and sum of squares of ``1e4 x / sum of the row``, in which dispersion is measured."""

    @classmethod
    def empty(cls) -> GeneSums:
        """Nothing yet."""
        return cls({}, {}, {}, {})

    def add(self, counts: sparse.csr_matrix, values: sparse.csr_matrix, genes: Sequence[str]) -> None:
        """Add a table.

        Parameters
        ----------
        counts
            (N, G).
        values
            `log_normalised` of them.
        genes
            Names of the columns.
        """
        scaled = values.astype(np.float64)
        scaled.data = np.expm1(scaled.data)
        columns = (
            np.full(len(genes), counts.shape[0]),
            np.asarray(counts.sum(axis=0)).ravel(),
            np.asarray(scaled.sum(axis=0)).ravel(),
            np.asarray(scaled.multiply(scaled).sum(axis=0)).ravel(),
        )
        sums: tuple[dict[str, Any], ...] = (self.n, self.total, self.first, self.second)
        for kept, column in zip(sums, columns, strict=True):
            for gene, value in zip(genes, column.tolist(), strict=True):
                kept[gene] = kept.get(gene, 0) + value


def choose_panel(sums: GeneSums, *, n_genes: int) -> tuple[str, ...]:
    """The genes of highest normalised dispersion, as Seurat (flavour "mean.var.plot") and scanpy rank them.

    The logarithm of variance over mean is standardised among genes of like mean expression. Satija et al., Nature
    Biotechnology 2015.

    Parameters
    ----------
    sums
        Of all training units.
    n_genes
        How many; all that vary if there are fewer.

    Returns
    -------
    Names, the highest dispersion first; equal ones by name.

    Raises
    ------
    ValueError
        No gene varies.
    """
    table = pd.DataFrame({"n": sums.n, "total": sums.total, "first": sums.first, "second": sums.second})
    table = table[(table["total"] >= MIN_COUNTS) & (table["n"] > 1)]
    mean = table["first"] / table["n"]
    variance = (table["second"] - table["n"] * mean**2) / (table["n"] - 1)
    varies = variance > 1e-9 * mean**2  # below lies what rounding leaves of a constant
    if not varies.any():
        msg = (
            f"None of {len(sums.n)} genes has {MIN_COUNTS} counts and varies between units. Are counts and genes those "
            "of the units?"
        )
        raise ValueError(msg)
    dispersion = np.log((variance / mean).where(varies))
    groups = dispersion.groupby(pd.cut(np.log1p(mean), bins=N_BINS), observed=True)
    centre, spread = groups.transform("mean"), groups.transform("std")
    alone = spread.isna()  # a gene that has its bin for itself counts as one sd above the mean, as in Seurat
    normalised = ((dispersion - centre) / spread).where(~alone, 1.0)[varies]
    ranked = pd.DataFrame({"score": -normalised, "name": normalised.index}).sort_values(["score", "name"])
    return tuple(ranked["name"].head(n_genes))
