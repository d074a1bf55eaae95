"""Crops paired with expression, one pair per unit: nucleus, spot or bin."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from lemon_sc._core.errors import bad_value, listing, one_of
from lemon_sc._core.rng import as_generator
from lemon_sc.models.gene_panel import check_counts, clean_genes
from lemon_sc.train.seal_counts import RINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from lemon_sc._core.rng import RNG

DIGEST_CROPS = 256
"""Crops that stand for all of them in the record of a run."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Crops and counts of the same units, with what is needed to keep apart what must not be compared.

    Genes are upper case; controls are dropped and columns of one name added up, see
    `lemon_sc.models.gene_panel.clean_genes`.
    """

    crops: Any
    """RGB crops, uint8 (n, S, S, 3), as an array or an object with ``shape`` and ``read(index)``."""
    counts: Any
    """Raw counts (n, G), dense or sparse."""
    genes: Sequence[str]
    """Names of the columns."""
    slide: Any
    """Slide of each unit, (n,), or one name for all."""
    patient: Any = None
    """Patient of each unit; None takes every slide for another patient."""
    unit: Any = None
    """Unit of each crop, where units have several crops; None: each crop is a unit of its own."""
    mpp: float | None = None
    """um per px of the crops, held against the encoder's card; None where nobody knows."""
    xy_um: Any = None
    """Centre of each unit in um (n, 2), for `touching_um`."""
    touching_um: float | None = None
    """Units of a slide whose centres lie within this along both axes are no negatives of each other: the side of the
    crops, say."""
    array: Any = None
    """Row and column of each unit on its lattice (n, 2), for `lattice`."""
    lattice: str | None = None
    """``"square"``, or ``"hexagonal"`` for Visium, where the columns of a row go up by two. Neighbours on the lattice
    are no negatives of each other, and counts are smoothed over them."""
    name: str = "pairs"
    """What the data are called on the card."""
    licence: str = ""
    """Their licence, in words."""

    def __repr__(self) -> str:
        """What they are, not their pixels."""
        patients = len(set(map(str, self.patient)))
        return f"Pairs({self.name!r}: {len(self.slide)} crops, {len(self.genes)} genes, {patients} patients)"

    def __post_init__(self) -> None:
        shape: tuple[int, ...] = tuple(getattr(self.crops, "shape", ()))
        if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
            raise bad_value("crops", must="have the shape (n, S, S, 3)", got=shape)
        n = shape[0]
        if not n:
            raise bad_value("crops", must="hold at least one crop", got="none")
        counts, genes = clean_genes(check_counts(self.counts, self.genes), self.genes)
        if counts.shape[0] != n:
            raise bad_value("counts", must=f"have a row per crop, {n}", got=counts.shape[0])
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "genes", tuple(genes))
        slide = np.broadcast_to(self.slide, (n,)) if np.ndim(self.slide) == 0 else self.slide
        object.__setattr__(self, "slide", self._labels("slide", slide))
        patient = self.slide if self.patient is None else self.patient
        patient = np.broadcast_to(patient, (n,)) if np.ndim(patient) == 0 else patient
        object.__setattr__(self, "patient", self._labels("patient", patient))
        object.__setattr__(self, "unit", np.arange(n) if self.unit is None else self._labels("unit", self.unit))
        self._check_places()

    def _labels(self, name: str, values: ArrayLike) -> NDArray[Any]:
        found = np.asarray(values)
        if found.shape != (len(self),):
            raise bad_value(name, must=f"hold one value per crop, ({len(self)},)", got=found.shape)
        text = found.astype(str)
        missing = np.isin(text, ("nan", "None", "<NA>", ""))
        if missing.any():
            fix = "Drop these rows with `take`, or name them."
            raise bad_value(name, must="be known for all crops", got=f"{missing.sum()} missing", fix=fix)
        return text

    def _check_places(self) -> None:
        for place, how in (("xy_um", "touching_um"), ("array", "lattice")):
            if (getattr(self, place) is None) != (getattr(self, how) is None):
                msg = f"`{place}` and `{how}` go together: where units are, and which of them are neighbours."
                raise ValueError(msg)
        for name, dtype in (("xy_um", np.float64), ("array", np.int64)):
            if getattr(self, name) is not None:
                found = np.asarray(getattr(self, name), np.float64)
                if found.shape != (len(self), 2) or not np.isfinite(found).all():
                    raise bad_value(name, must=f"be finite, of the shape ({len(self)}, 2)", got=found.shape)
                if dtype is np.int64 and (found != np.floor(found)).any():
                    raise bad_value(name, must="hold whole numbers, row and column", got=found[:2].tolist())
                object.__setattr__(self, name, found.astype(dtype))
        if self.lattice is not None:
            one_of("lattice", self.lattice, RINGS)
        if self.touching_um is not None and not 0 <= self.touching_um < np.inf:
            raise bad_value("touching_um", must="be a number of um >= 0", got=self.touching_um)

    def __len__(self) -> int:
        return int(self.crops.shape[0])

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Crops at some positions, uint8 (b, S, S, 3)."""
        return self.crops.read(index) if hasattr(self.crops, "read") else np.asarray(self.crops[index])

    def take(self, rows: NDArray[Any]) -> Pairs:
        """Some of the pairs.

        Parameters
        ----------
        rows
            Positions, or bool (n,).

        Returns
        -------
        The pairs; crops are read.
        """
        index = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, np.int64)
        changes: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[index]
            for name in ("counts", "slide", "patient", "unit", "xy_um", "array")
        }
        return dataclasses.replace(self, crops=self.read(index), **changes)

    def hold_out(self, names: str | Iterable[str], *, by: str = "patient") -> tuple[Pairs, Pairs]:
        """Keep patients or slides for testing.

        Parameters
        ----------
        names
            Which.
        by
            ``"patient"``, or ``"slide"``.

        Returns
        -------
        The others, and these.

        Raises
        ------
        ValueError
            A name that is not there; or nothing would be left to learn from, as with a single patient.
        """
        one_of("by", by, ("patient", "slide"))
        label, wanted = np.asarray(getattr(self, by)), [names] if isinstance(names, str) else [str(n) for n in names]
        there = sorted(set(label.tolist()))
        if unknown := sorted(set(wanted) - set(there)):
            raise bad_value("names", must=f"be among the {by}s, {listing(there)}", got=unknown)
        out = np.isin(label, wanted)
        if out.all() or not out.any():
            fix = (
                "A test needs units of another patient." if by == "patient" else "A test needs units of another slide."
            )
            raise bad_value("names", must=f"leave some of the {by}s, {listing(there)}", got=wanted, fix=fix)
        return self.take(~out), self.take(out)

    def shuffled(self, *, rng: RNG = 0) -> Pairs:
        """The same crops, each unit with the counts of another of its slide: a control, from which nothing is learned.

        No unit keeps its own counts, and all crops of a unit get those of the first crop of one other unit.

        Parameters
        ----------
        rng
            Draws who gets what.

        Returns
        -------
        The pairs.

        Raises
        ------
        ValueError
            A slide with a single unit, which has nothing to be exchanged with.
        """
        draw, order = as_generator(rng), np.arange(len(self))
        slide = np.asarray(self.slide)
        for one in np.unique(slide):
            rows = np.flatnonzero(slide == one)
            first, number = np.unique(self.unit[rows], return_index=True, return_inverse=True)[1:]
            if len(first) < 2:
                must = "have two units or more on every slide, which exchange their counts"
                raise bad_value("pairs", must=must, got=f"one on {str(one)!r}", fix="Leave that slide out with `take`.")
            ring = draw.permutation(len(first))  # each gets the counts of the one before it: none keeps its own
            giver = np.empty_like(ring)
            giver[ring] = np.roll(ring, 1)
            order[rows] = rows[first[giver[number]]]
        return dataclasses.replace(self, counts=self.counts[order])

    def record(self) -> dict[str, Any]:
        """What is kept of the pairs with everything that is trained on them.

        Returns
        -------
        ``name``, ``licence``, numbers of units, slides and patients, and a digest.
        """
        made = hashlib.sha256("\0".join(self.genes).encode())
        counts = sparse.csr_matrix(self.counts)
        some = np.unique(np.linspace(0, len(self) - 1, DIGEST_CROPS).astype(np.int64))
        parts: list[Any] = [counts.indptr, counts.indices, counts.data, self.read(some)]
        parts += [getattr(self, name) for name in ("slide", "patient", "unit", "xy_um", "array")]
        for part in parts:
            made.update(np.ascontiguousarray(np.asarray(part, dtype=str) if part is None else part).data)
        made.update(f"{self.lattice} {self.touching_um}".encode())
        return {
            "name": self.name,
            "licence": self.licence,
            "n_crops": len(self),
            "n_units": len(np.unique(self.unit)),
            "n_genes": len(self.genes),
            "slides": sorted(set(np.asarray(self.slide).tolist())),
            "patients": sorted(set(np.asarray(self.patient).tolist())),
            "sha256": made.hexdigest(),
        }
