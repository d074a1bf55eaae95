"""The tables of a benchmark report, in Markdown: measured values with their intervals, and published ones apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.bench import catalogue
from lemon_sc.bench.report_words import LESS_IS_BETTER, PROTOCOLS, encoder_label, metric_label, task_label
from lemon_sc.bench.rows import POOLED_SCORE, UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    Parameters
    ----------
    header
        Names of the columns; all but the first are set to the right.
    rows
        Cells, row by row.

    Returns
    -------
    Text with a line break at its end.
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def number(value: float) -> str:
    """A score, written with three digits behind the point below 10, none above 1,000.

    Parameters
    ----------
    value
        The score.

    Returns
    -------
    Text; a dash where there is none.
    """
    if not np.isfinite(value):
        return "–"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def measured_cell(row: pd.Series) -> str:
    """A measured score with its interval.

    Parameters
    ----------
    row
        ``mean``, ``low`` and ``high``.

    Returns
    -------
    Text, without an interval where a score was measured once.
    """
    if not (np.isfinite(row["low"]) and np.isfinite(row["high"])):
        return number(row["mean"])
    return f"{number(row['mean'])} [{number(row['low'])}, {number(row['high'])}]"


def published_cell(row: pd.Series) -> str:
    """A printed score with its standard deviation.

    Parameters
    ----------
    row
        ``mean`` and ``sd``.

    Returns
    -------
    Text.
    """
    return number(row["mean"]) + (f" ({number(row['sd'])})" if np.isfinite(row["sd"]) else "")


def in_order(rows: pd.DataFrame, metric: str) -> list[str]:
    """Encoders from the best to the worst of one score, those without it last.

    Parameters
    ----------
    rows
        Scores: ``encoder``, ``metric``, ``mean``.
    metric
        Which score.

    Returns
    -------
    Names, each once; of several kinds of folds the first counts.
    """
    scores = rows[rows["metric"] == metric].groupby("encoder", sort=False)["mean"].first().dropna()
    ranked = scores.sort_values(ascending=metric in LESS_IS_BETTER, kind="stable").index
    return [*ranked, *(name for name in rows["encoder"].unique() if name not in ranked)]


def columns_of(rows: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Scores that a table shows, the one that counts first.

    Parameters
    ----------
    rows
        Scores: ``metric``.
    metrics
        The scores of the page, in order.

    Returns
    -------
    Those of `metrics` that there are; without any, all that are no control, in the order of the rows.
    """
    there = dict.fromkeys(rows["metric"])
    return [m for m in metrics if m in there] or [m for m in there if not is_control(m)]


def is_control(metric: str) -> bool:
    """Whether a score is a control: on shuffled labels, of naming the slide, by chance, or a count of what may leak.

    Parameters
    ----------
    metric
        Name of the score.

    Returns
    -------
    Yes or no.
    """
    return metric.startswith(("null_", "slide_identity", "n_")) or metric.endswith("_chance")


def score_table(rows: pd.DataFrame, metrics: Sequence[str], *, own: pd.DataFrame | None = None) -> str:
    """Encoders down, scores across, the best encoder first.

    Parameters
    ----------
    rows
        One row per encoder and score: ``encoder``, ``metric``, ``mean``, and ``low``, ``high``, ``n_folds`` where they
        were measured, ``sd`` alone where they were published.
    metrics
        Scores across, in order.
    own
        Measured scores on the same data as the published ones of `rows`, to stand above them.

    Returns
    -------
    Markdown.
    """
    printed = "low" not in rows
    head = "published" if printed else "measured"
    body = score_rows(rows, metrics, cell=published_cell if printed else measured_cell)
    if own is not None and len(own):
        head = "measured here, then published"
        above = score_rows(own, metrics, cell=measured_cell)
        body = [[f"**{row[0]}**, measured", *row[1:]] for row in above] + body
    return markdown([head, *(metric_label(m) for m in metrics)], body)


def score_rows(rows: pd.DataFrame, metrics: Sequence[str], *, cell: Callable[[pd.Series], str]) -> list[list[str]]:
    """Cells of a table of scores, the best encoder first.

    Parameters
    ----------
    rows, metrics
        As for `score_table`.
    cell
        Writes a score.

    Returns
    -------
    Cells, row by row.
    """
    body = []
    for name in in_order(rows, metrics[0]):
        own = rows[rows["encoder"] == name].set_index("metric")
        body.append([encoder_label(name), *(cell(own.loc[m]) if m in own.index else "–" for m in metrics)])
    return body


def pooled_table(rows: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Scores over the nuclei of all folds together, with intervals from drawing patients, slides or nuclei.

    Parameters
    ----------
    rows
        Scores of one task and protocol.
    metrics
        Scores across, in order.

    Returns
    -------
    Markdown; empty where there are none, as in the tables of earlier runs.
    """
    pooled = rows[rows["metric"].str.startswith(POOLED_SCORE)]
    units = pooled.loc[pooled["metric"] == UNITS, ["mean", "n"]]
    pooled = pooled.assign(metric=pooled["metric"].str.removeprefix(POOLED_SCORE))
    shown = [m for m in metrics if m in set(pooled["metric"])]
    if not shown or units.empty:
        return ""
    drawn, n = (int(value) for value in units.iloc[0])
    what = "items" if drawn == n else "slides or patients"
    head = f"measured, all folds together; intervals from drawing {drawn:,} {what}"
    return markdown([head, *map(metric_label, shown)], score_rows(pooled, shown, cell=measured_cell))


def controls(rows: pd.DataFrame, metrics: Sequence[str]) -> str:
    """A sentence on the controls: of each the range over encoders.

    Parameters
    ----------
    rows
        Scores of one task and protocol, those of controls among them.
    metrics
        Scores that the table shows; of those on shuffled labels the first is told.

    Returns
    -------
    Text, empty where there are no controls. Counts of leaks that are 0 are left out.
    """
    found = []
    for metric in dict.fromkeys(m for m in rows["metric"] if is_control(m)):
        values = rows.loc[rows["metric"] == metric, "mean"].dropna()
        if (metric.startswith("null_") and metric != f"null_{[*metrics, ''][0]}") or not len(values):
            continue
        if metric.startswith("n_") and values.max() == 0:
            continue
        low, high = (f"{v:.0f}" if float(v).is_integer() else number(v) for v in (values.min(), values.max()))
        found.append(f"{metric_label(metric)} {low if low == high else f'{low} to {high}'}")
    return f"Controls, over encoders: {'; '.join(found)}.\n" if found else ""


def measured_part(summary: pd.DataFrame, task: str, metrics: Sequence[str]) -> str:
    """The tables of one task, a table for each kind of folds.

    Parameters
    ----------
    summary
        All measured scores (`lm.bench.summary`).
    task
        Which task.
    metrics
        Scores of the page, in order.

    Returns
    -------
    Markdown, empty where the task was not run.
    """
    parts = []
    for protocol, found in summary[summary["task"] == task].groupby("protocol", sort=False):
        rows = found[~found["metric"].str.startswith(POOLED_SCORE)]
        shown = columns_of(rows, metrics)
        if not shown:
            parts.append(controls(rows, shown))
            continue
        label = PROTOCOLS.get(str(protocol), str(protocol))
        n, folds = int(rows["n"].max()), int(rows["n_folds"].max())
        size = f"{n:,} items" + (f", {folds} folds" if folds > 1 else "")
        parts.append(f"**{task_label(task)}** (`{task}`), {label}; {size}.{_positive(task, shown)}\n")
        parts.append(score_table(rows, shown))
        parts.append(pooled_table(found, shown))
        parts.append(controls(rows, shown))
    return "\n".join(part for part in parts if part)


def _positive(task: str, metrics: Sequence[str]) -> str:
    """Which class AUC and AUPR are of, where it is one."""
    label = catalogue.task(task).pos_label if task in catalogue.tasks() else None
    return f" AUC and AUPR are of class `{label}`." if label and {"auc", "aupr"} & set(metrics) else ""


def published_part(
    reference: pd.DataFrame, summary: pd.DataFrame, *, task: str, table: str, metrics: Sequence[str]
) -> str:
    """The published values of one task, from one table of the paper, and what is to be known of them.

    Parameters
    ----------
    reference
        All published values (`lm.bench.reference`).
    summary
        All measured ones; those on the same data, in the same folds, stand above.
    task, table
        Which.
    metrics
        Scores of the page, in order.

    Returns
    -------
    Markdown.
    """
    rows = reference[(reference["task"] == task) & (reference["table"] == table)]
    where = "text" if table == "text" else f"Table {table}"
    heading = f"**{task_label(task)}** (`{task}`). Published: {rows['paper'].iloc[0]} paper, {where}.\n"
    same = (summary["task"] == task) & summary["protocol"].isin(rows["protocol"])
    values = score_table(rows, columns_of(rows, metrics), own=summary[same])
    return "\n".join([heading, values, *_notes(rows)])


def _notes(rows: pd.DataFrame) -> list[str]:
    """A list with each note once, and what it is about where it is about some rows only."""
    noted = rows[rows["note"] != ""]
    found: dict[str, list[str]] = {}
    for row in noted.itertuples():
        found.setdefault(str(row.note), []).append(
            f"{encoder_label(str(row.encoder))}, {metric_label(str(row.metric))}"
        )
    lines = []
    for text, rows_of in found.items():
        names = "" if len(rows_of) > 2 else f"{'; '.join(rows_of)}: "
        lines.append(f"- {names}{text}")
    return ["\n".join(lines) + "\n"] if lines else []
