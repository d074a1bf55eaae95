"""The tidy table: one row per fold and score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lemon_sc.bench.kinds import Task

COLUMNS = (
    "task", "version", "encoder", "dim", "protocol", "fold", "metric", "value", "n", "n_train", "seconds", "kind",
)  # fmt: skip
"""Columns of the results."""

KEY = ("task", "version", "encoder", "protocol", "fold", "metric")
"""What tells rows apart."""

MEASURED = "measured"
"""What the column ``kind`` says of rows that were computed here."""

POOLED = "pooled"
"""What the column ``fold`` says of a score over all folds together."""

POOLED_SCORE = "pooled_"
"""What a score over the nuclei of all folds together begins with."""

LOW, HIGH = "_low", "_high"
"""What the ends of its 95 % interval end with."""

UNITS = "pooled_units"
"""Slides or patients that the interval is drawn from."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one task and encoder."""

    task: Task
    encoder: str
    dim: int

    def row(
        self, protocol: str, fold: str, metric: str, value: float, *, n: int, n_train: int = 0, seconds: float = 0.0
    ) -> dict[str, Any]:
        """One row.

        Parameters
        ----------
        protocol, fold, metric, value
            What was measured.
        n, n_train
            Nuclei that were scored, and those that were learned from.
        seconds
            Of the probe, over all folds.

        Returns
        -------
        The row.
        """
        return {
            "task": self.task.name,
            "version": self.task.version,
            "encoder": self.encoder,
            "dim": self.dim,
            "protocol": protocol,
            "fold": fold,
            "metric": metric,
            "value": float(value),
            "n": int(n),
            "n_train": int(n_train),
            "seconds": float(seconds),
            "kind": MEASURED,
        }


def as_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table with all columns, also where there are none.

    Parameters
    ----------
    rows
        The rows.

    Returns
    -------
    The table.
    """
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """All rows, new ones in place of old ones of the same task, encoder, protocol, fold and score.

    Parameters
    ----------
    old, new
        Tables.

    Returns
    -------
    The table.
    """
    whole = pd.concat([part for part in (old, new) if len(part)] or [new], ignore_index=True)
    return whole.drop_duplicates(list(KEY), keep="last", ignore_index=True)
