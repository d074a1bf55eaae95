"""Genes that a network knows: a fixed list in a fixed order, onto which any table of counts is brought.

Letters of array names: N units (nuclei, spots or bins), G genes of a table, P genes of the panel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from lemon_sc._core.errors import listing
from lemon_sc._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TARGET_SUM = 1e4
"""Counts of a unit are scaled to this sum before the logarithm."""
_CONTROL = re.compile(r"BLANK|CONTROL|AMBIGUOUS|^(ANTISENSE|UNASSIGNED|DEPRECATED|INTERGENIC)_?")


def check_counts(counts: Any, genes: Sequence[str]) -> sparse.csr_matrix:
    """Counts as a sparse matrix, after a look at every value.

    Parameters
    ----------
    counts
        (N, G), dense or sparse.
    genes
        Names of the columns.

    Returns
    -------
    Float32 (N, G).

    Raises
    ------
    ValueError
        Another number of names than of columns; values that are not finite, negative, or no whole numbers.
    """
    found = sparse.csr_matrix(counts)
    if found.shape[1] != len(genes):
        msg = f"`counts` has {found.shape[1]} columns and `genes` {len(genes)} names. Give one name per column."
        raise ValueError(msg)
    values = found.data
    wrong = {
        "not finite (NaN or infinite)": ~np.isfinite(values),
        "negative": values < 0,
        "no whole numbers: they look normalised": values != np.floor(values),
    }
    for what, where in wrong.items():
        if where.any():
            columns = np.unique(found.indices[where])
            names = listing((genes[k] for k in columns), most=4)
            msg = f"{where.sum()} values of `counts` are {what}, of the genes {names}. Pass the raw counts."
            raise ValueError(msg)
    return found.astype(np.float32)


def clean_genes(counts: sparse.csr_matrix, genes: Sequence[str]) -> tuple[sparse.csr_matrix, list[str]]:
    """Upper-case names; controls are dropped, and columns of one name added up.

    Parameters
    ----------
    counts
        (N, G), from `check_counts`.
    genes
        Names of the columns. Those that hold BLANK, CONTROL or AMBIGUOUS, or begin as control features of Xenium do,
        are no genes.

    Returns
    -------
    Counts and names of what is left, in the order in which names first appear.

    Raises
    ------
    ValueError
        Nothing is left.
    """
    upper = [str(gene).upper() for gene in genes]
    names = list(dict.fromkeys(name for name in upper if not _CONTROL.search(name)))
    if not names:
        msg = f"None of the {len(upper)} names is a gene: {listing(upper, most=6)}."
        raise ValueError(msg)
    if names == upper:
        return counts, names
    place = {name: k for k, name in enumerate(names)}
    kept = [(k, place[name]) for k, name in enumerate(upper) if name in place]
    rows, columns = np.array(kept).T
    merge = sparse.csr_matrix((np.ones(len(kept), np.float32), (rows, columns)), shape=(len(upper), len(names)))
    return sparse.csr_matrix(counts @ merge), names


def log_normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """``log(1 + 1e4 x / sum of the row)``.

    Parameters
    ----------
    counts
        (N, G) >= 0.

    Returns
    -------
    Float32 (N, G); a row without counts stays 0.
    """
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scale = np.divide(TARGET_SUM, total, out=np.zeros_like(total), where=total > 0)
    made = sparse.csr_matrix(sparse.diags(scale) @ counts)
    made.data = np.log1p(made.data)
    return made.astype(np.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class GenePanel:
    """Genes in order, with what their training values were like."""

    genes: tuple[str, ...]
    """Names, upper case, (P,)."""
    mean: NDArray[np.float32]
    """Mean of the log-normalised training values, (P,)."""
    sd: NDArray[np.float32]
    """Their standard deviation, > 0, (P,)."""

    def __len__(self) -> int:
        return len(self.genes)

    def values(self, counts: Any, genes: Sequence[str]) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
        """Bring a table onto the panel.

        Parameters
        ----------
        counts
            Raw counts (N, G), dense or sparse.
        genes
            Names of the columns, in any case.

        Returns
        -------
        Log-normalised values, float32 (N, P), 0 for genes that the table has not; and which it has, (P,).

        Raises
        ------
        ValueError
            No counts (see `check_counts`), or no gene of the panel among the names.
        """
        cleaned, names = clean_genes(check_counts(counts, genes), genes)
        return self.take(log_normalised(cleaned), names)

    def take(self, values: sparse.csr_matrix, names: Sequence[str]) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
        """Columns of the panel.

        Parameters
        ----------
        values
            (N, G).
        names
            Names of the columns, as `clean_genes` gives them.

        Returns
        -------
        As of `values`.

        Raises
        ------
        ValueError
            No gene of the panel is there.
        """
        place = {name: k for k, name in enumerate(names)}
        present = np.array([gene in place for gene in self.genes])
        n_found = int(present.sum())
        if not n_found:
            msg = (
                f"None of the panel's {len(self)} genes ({listing(self.genes, most=4)}) is in the table "
                f"({listing(names, most=4)}). Are the names symbols in one and identifiers in the other?"
            )
            raise ValueError(msg)
        if 2 * n_found < len(self):
            logger.warning("Of the panel's %d genes the table has %d; the others count as missing", len(self), n_found)
        columns = [place[gene] for gene in self.genes if gene in place]
        pick = sparse.csr_matrix(
            (np.ones(n_found, np.float32), (columns, np.flatnonzero(present))), shape=(len(names), len(self))
        )
        return sparse.csr_matrix(values @ pick), present
