"""Results in short: mean, spread and interval over folds, and encoders against each other on the same folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc.bench.rows import COLUMNS, HIGH, LOW, POOLED, POOLED_SCORE
from lemon_sc.metrics.uncertainty import bootstrap, paired_test

if TYPE_CHECKING:
    from lemon_sc._core.rng import RNG

BY = ["task", "version", "encoder", "protocol", "metric"]
SUMMARY = ("task", "encoder", "protocol", "metric", "mean", "sd", "low", "high", "n", "n_folds", "dim", "kind")

FOLDED = ("stratified", "slide", "patient", "blocks")
"""Protocols whose folds hold different nuclei."""


def summary(table: pd.DataFrame, *, rng: RNG = 0) -> pd.DataFrame:
    """Mean over the folds of each task, encoder, protocol and score, with its spread and 95 % bootstrap interval.

    Folds are what is drawn: five folds of one data set say how much the score depends on the split, not what other data
    would give, and intervals of few folds are narrow. Folds where a score is undefined are left out and not counted.

    Parameters
    ----------
    table
        Rows of `lm.bench.run`.
    rng
        Draws the folds.

    Returns
    -------
    One row each: ``mean``, ``sd`` (over folds, NaN for one), ``low``, ``high``, ``n`` (nuclei that were scored),
    ``n_folds``, ``dim``, ``kind``.

    Raises
    ------
    MissingKeyError
        If `table` lacks a column.
    """
    check_table(table)
    made = []
    table, ends = _ends_apart(table)
    for (task, version, encoder, protocol, metric), part in table.groupby(BY, sort=False):
        value = part["value"].to_numpy(np.float64)
        value = value[np.isfinite(value)]
        spread = tuple(ends.get((task, version, encoder, protocol, f"{metric}{end}"), np.nan) for end in (LOW, HIGH))
        if len(value) > 1:
            found = bootstrap(value, rng=rng)
            spread = (found.low, found.high)
        pooled = part["fold"].isin([POOLED, ""]) | (part["protocol"].iloc[0] not in FOLDED)
        made.append(
            {
                "task": task,
                "encoder": encoder,
                "protocol": protocol,
                "metric": metric,
                "mean": value.mean() if len(value) else np.nan,
                "sd": value.std(ddof=1) if len(value) > 1 else np.nan,
                "low": spread[0],
                "high": spread[1],
                "n": int(part["n"].max() if pooled.all() else part["n"].sum()),
                "n_folds": len(value),
                "dim": int(part["dim"].iloc[0]),
                "kind": part["kind"].iloc[0],
            }
        )
    return pd.DataFrame(made, columns=list(SUMMARY))


def _ends_apart(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple[object, ...], float]]:
    """The table without the ends of intervals that it holds, and these by task, encoder and the like."""
    metric = table["metric"].astype(str)
    is_end = metric.str.startswith(POOLED_SCORE) & metric.str.endswith((LOW, HIGH))
    ends = table[is_end].set_index(BY)["value"].astype(np.float64)
    return table[~is_end], dict(zip(ends.index, ends.to_numpy(), strict=True))


def compare(table: pd.DataFrame, *, metric: str, baseline: str, rng: RNG = 0) -> pd.DataFrame:
    """Every encoder against one of them, on the same folds.

    Parameters
    ----------
    table
        Rows of `lm.bench.run`.
    metric
        The score.
    baseline
        Name of the encoder that the others are held against.
    rng
        Draws for intervals and tests.

    Returns
    -------
    One row per task, protocol and other encoder: ``difference`` (other minus baseline), ``low``, ``high`` (95 %),
    ``pvalue`` (two-sided, from exchanging the two fold by fold; no smaller than ``2 ** (1 - n_folds)``), ``n_folds``.

    Raises
    ------
    MissingKeyError
        If `table` lacks a column.
    ValueError
        If it has no rows of the score or the encoder.
    """
    check_table(table)
    rows = table[table["metric"] == metric]
    for name, value, have in (("metric", metric, table["metric"]), ("baseline", baseline, rows["encoder"])):
        if value not in set(have):
            raise bad_value(name, must=f"be one of {sorted(set(have))[:12]}", got=value)
    made = []
    for (task, protocol), part in rows.groupby(["task", "protocol"], sort=False):
        wide = part.pivot_table(index="fold", columns="encoder", values="value", sort=False)
        for other in [name for name in wide if name != baseline and baseline in wide]:
            both = wide[[baseline, other]].dropna()
            if len(both) < 2:
                continue
            found = paired_test(both[baseline].to_numpy(), both[other].to_numpy(), rng=rng)
            values = {key: getattr(found, key) for key in ("difference", "low", "high", "pvalue")}
            made.append({"task": task, "protocol": protocol, "encoder": other, **values, "n_folds": len(both)})
    columns = ["task", "protocol", "encoder", "difference", "low", "high", "pvalue", "n_folds"]
    return pd.DataFrame(made, columns=columns)


def check_table(table: pd.DataFrame) -> None:
    """Raise unless a table has the columns of results.

    Parameters
    ----------
    table
        The table.

    Raises
    ------
    MissingKeyError
        If one is missing.
    """
    for name in COLUMNS:
        if name not in table:
            raise missing_key(name, where="table", have=table.columns, fix="Pass what `lm.bench.run` returned.")
