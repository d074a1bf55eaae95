"""Pairs made ready for a run: a panel, values on it, and which units must not meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from lemon_sc._core.log import logger
from lemon_sc.models.gene_panel import GenePanel, log_normalised
from lemon_sc.train.seal_counts import GeneSums, choose_panel, lattice_neighbours, near_units, smooth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lemon_sc.train.seal_pairs import Pairs

SD_FLOOR = 1e-8
"""Added to the standard deviation of a gene before it divides."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SealData:
    """Rows of several sets of pairs under one another.

    Letters of array names: N crops, P genes of the panel, U units.
    """

    pairs: tuple[Pairs, ...]
    panel: GenePanel
    values: sparse.csr_matrix
    """Log-normalised expression, (N, P)."""
    present: NDArray[np.bool_]
    """Which genes each set has, (number of sets, P)."""
    place: NDArray[np.int64]
    """Set, and row in it, of each row, (N, 2)."""
    slide: NDArray[np.int64]
    """Number of the slide of each row, (N,)."""
    unit: NDArray[np.int64]
    """Number of the unit of each row, 0 .. U - 1, (N,)."""
    apart: sparse.csr_matrix
    """1 for rows that are no negatives of each other, (N, N)."""

    @property
    def n_units(self) -> int:
        """Units that have counts."""
        return int(self.unit.max(initial=-1)) + 1

    def crops(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Crops of some rows, uint8 (b, S, S, 3)."""
        first = self.pairs[self.place[rows[0], 0]].read(self.place[rows[:1], 1]) if len(rows) else None
        out = np.empty((len(rows), *(() if first is None else first.shape[1:])), np.uint8)
        for which, pairs in enumerate(self.pairs):
            mine = np.flatnonzero(self.place[rows, 0] == which)
            if len(mine):
                out[mine] = pairs.read(self.place[rows[mine], 1])
        return out

    def expression(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values of some rows, (b, P), and which of them are known, (b, P)."""
        return self.values[rows].toarray(), self.present[self.place[rows, 0]]

    def record(self) -> dict[str, Any]:
        """What is kept of the data with a run."""
        return {"sources": [pairs.record() for pairs in self.pairs], "n_rows": len(self.unit), "n_units": self.n_units}


def prepare_pairs(pairs: Sequence[Pairs], *, n_genes: int, smoothed: bool, panel: GenePanel | None = None) -> SealData:
    """Put sets of pairs under one another, on one panel.

    Parameters
    ----------
    pairs
        One set or several; a slide or patient of one name is another one in another set.
    n_genes
        Size of the panel.
    smoothed
        Whether counts are smoothed over neighbours on the lattice, where there is one.
    panel
        Of a run, for data that are not learned from; None chooses one.

    Returns
    -------
    The data. Rows without counts are left out.

    Raises
    ------
    ValueError
        No gene varies, none is on the panel, or no unit has counts.
    """
    tables, places, apart, sums = [], [], [], GeneSums.empty()
    for which, one in enumerate(pairs):
        rows = np.flatnonzero(np.asarray(one.counts.sum(axis=1)).ravel() >= 1)
        if not len(rows):
            msg = f"No unit of {one.name!r} has counts of its {len(one.genes)} genes."
            raise ValueError(msg)
        if len(rows) < len(one):
            n_empty = len(one) - len(rows)
            logger.info("%d of %d units of %r have no counts and are left out", n_empty, len(one), one.name)
        values = log_normalised(one.counts)
        if panel is None:
            sums.add(one.counts[rows], values[rows], one.genes)
        units = _Units.of(one)
        if smoothed and units.lattice is not None:
            values = log_normalised(smooth(one.counts[units.first], units.lattice))[units.number]
        tables.append((values[rows], one.genes))
        places.append(np.stack([np.full(len(rows), which), rows], axis=1))
        apart.append(_together(one, units)[rows][:, rows])
    genes = choose_panel(sums, n_genes=n_genes) if panel is None else panel.genes
    names = GenePanel(genes=genes, mean=np.zeros(len(genes), np.float32), sd=np.ones(len(genes), np.float32))
    taken = [names.take(*table) for table in tables]
    values, present = sparse.vstack([v for v, _ in taken], format="csr"), np.stack([p for _, p in taken])
    place = np.concatenate(places)
    label = {name: _numbers(pairs, place, name) for name in ("slide", "unit")}
    return SealData(
        pairs=tuple(pairs),
        panel=panel if panel is not None else _measured(genes, values, present[place[:, 0]]),
        values=values,
        present=present,
        place=place,
        slide=label["slide"],
        unit=label["unit"],
        apart=sparse.block_diag(apart, format="csr"),
    )


@dataclass(frozen=True, eq=False)
class _Units:
    """Units of a set of pairs, which may have several crops each."""

    number: NDArray[np.int64]
    """Unit of each crop, 0 .. U - 1."""
    first: NDArray[np.int64]
    """A crop of each unit."""
    lattice: sparse.csr_matrix | None
    """Which units are neighbours, (U, U)."""

    @classmethod
    def of(cls, pairs: Pairs) -> _Units:
        _, first, number = np.unique(pairs.unit, return_index=True, return_inverse=True)
        if (pairs.slide != pairs.slide[first][number]).any():
            msg = f"Some unit of {pairs.name!r} has crops on several slides. Number the units of all slides apart."
            raise ValueError(msg)
        group = np.unique(pairs.slide, return_inverse=True)[1][first]
        lattice = None if pairs.lattice is None else lattice_neighbours(pairs.array[first], group, pairs.lattice)
        return cls(number, first, lattice)


def _together(pairs: Pairs, units: _Units) -> sparse.csr_matrix:
    """1 for crops of one unit, of neighbours on the lattice, and of units that touch; (n, n)."""
    n, n_units = len(pairs), len(units.first)
    member = sparse.csr_matrix((np.ones(n, np.float32), (np.arange(n), units.number)), shape=(n, n_units))
    near = sparse.identity(n_units, np.float32, format="csr")
    if units.lattice is not None:
        near = near + units.lattice
    if pairs.xy_um is not None and pairs.touching_um is not None:
        group = np.unique(pairs.slide, return_inverse=True)[1]
        near = near + near_units(pairs.xy_um[units.first], group[units.first], within=pairs.touching_um)
    made = sparse.csr_matrix(member @ near @ member.T)
    made.data[:] = 1
    return made


def _numbers(pairs: Sequence[Pairs], place: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """A label as numbers 0, 1, ..., no number in two sets, (N,)."""
    numbers, begin = np.empty(len(place), np.int64), 0
    for which, one in enumerate(pairs):
        mine = np.flatnonzero(place[:, 0] == which)
        found, number = np.unique(getattr(one, name)[place[mine, 1]], return_inverse=True)
        numbers[mine] = begin + number
        begin += len(found)
    return numbers


def _measured(genes: tuple[str, ...], values: sparse.csr_matrix, known: NDArray[np.bool_]) -> GenePanel:
    """The panel with mean and standard deviation over the rows that have a gene."""
    n = known.sum(axis=0)
    wide = values.astype(np.float64)
    mean = np.asarray(wide.sum(axis=0)).ravel() / n
    square = np.asarray(wide.multiply(wide).sum(axis=0)).ravel() / n
    sd = np.sqrt(np.maximum(square - mean**2, 0)) + SD_FLOOR
    return GenePanel(genes=genes, mean=mean.astype(np.float32), sd=sd.astype(np.float32))
