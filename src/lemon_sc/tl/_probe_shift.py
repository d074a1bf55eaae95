"""A probe that learns from nuclei as they are, and is tested on held-out nuclei that look otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc.analysis.logistic import logistic_probe
from lemon_sc.analysis.probe import ridge_probe
from lemon_sc.analysis.protocol import ProbeProtocol
from lemon_sc.metrics.means import nanmean
from lemon_sc.tl._probe import log_expression, targets_of
from lemon_sc.tl._probe_cells import Cells, take_cells
from lemon_sc.tl._probe_tables import HEADLINE, METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

PLAN = ProbeProtocol(folds="blocks", n_null=0)


@dataclass(frozen=True, eq=False, kw_only=True)
class ShiftedProbe:
    """Cells, folds and targets that stay, whatever the cells look like."""

    cells: Cells
    y_NG: NDArray[np.floating] | None
    """(N, G) expression; ``None`` for classes, which `cells` holds."""
    settings: dict[str, Any]
    """Entries of the record."""
    seed: int

    @classmethod
    def of(
        cls,
        adata: AnnData,
        target: str | Sequence[str],
        *,
        label: str | None,
        use_rep: str,
        rng: np.random.Generator,
    ) -> ShiftedProbe:
        """Take cells and targets of a table.

        Parameters
        ----------
        adata
            The table.
        target, label
            As in `lm.tl.probe`; the column of the classes, or None.
        use_rep
            The original embedding.
        rng
            Draws the folds.

        Returns
        -------
        The probe.
        """
        cells = take_cells(adata, use_rep=use_rep, groups=None, label=label, protocol=PLAN, rng=rng)
        y, names = None, list(np.unique(cells.labels)) if cells.labels is not None else []
        if label is None:
            names, _ = targets_of(adata, target, layer=None, cells=cells, train_only=False)
            y, _ = log_expression(adata, names, layer=None, rows=cells.rows)
        settings = {
            "target_key": label or "",
            "targets": np.array(names, dtype=object),
            "score_metric": "pcc" if label is None else HEADLINE,
            "folds": cells.folds.kind,
            "n_cells_probed": cells.counts["n_cells"],
        }
        return cls(cells=cells, y_NG=y, settings=settings, seed=int(rng.integers(2**31)))

    def score(self, held_out: NDArray[np.floating] | None) -> float:
        """Mean over folds of the score on held-out cells.

        Parameters
        ----------
        held_out
            Embedding of the cells of the table as they look now, (n_obs, D); ``None``: as they are.

        Returns
        -------
        Balanced accuracy, or mean Pearson correlation of the genes.
        """
        rng = np.random.default_rng(self.seed)
        seen = None if held_out is None else held_out[self.cells.rows]
        options: dict[str, Any] = {"rng": rng, "n_null": 0, "held_out_ND": seen}
        if self.y_NG is not None:
            return float(nanmean(ridge_probe(self.cells.x, self.y_NG, self.cells.folds, **options).fold_score, axis=0))
        if self.cells.labels is None:
            return float("nan")
        result = logistic_probe(self.cells.x, self.cells.labels, self.cells.folds, **options)
        return float(nanmean(result.metrics[:, METRICS.index(HEADLINE)], axis=0))
