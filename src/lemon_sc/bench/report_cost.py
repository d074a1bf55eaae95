"""Figures of what a result costs: against multiply-accumulates, and against the size and diversity of a corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.bench.report_figures import HOLLOW
from lemon_sc.bench.report_words import encoder_label, metric_label, short_label
from lemon_sc.pl._base import new_figure, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORE = "balanced_accuracy"
PAIRS = (
    (("midog25", "1"), ("midog25", "amibr", "amibr_all", "ami_br")),
    (("nucls_super", "1"), ("nucls_super", "nucls_sample", "consep", "brecahad")),
)
"""Published values, and the tasks of which the first that was run stands beside them."""
SIZES = (20, 300, 1100)
"""Millions of parameters in the key."""
SAME_NETWORK = {"volta": "volta_nucls"}
"""Published encoders that have one card for each set they were trained on."""


def area(million_parameters: float) -> float:
    """Area of a marker.

    Parameters
    ----------
    million_parameters
        Size of the encoder.

    Returns
    -------
    pt^2, in proportion to the parameters, with enough added to be seen.
    """
    return 14 + 0.3 * million_parameters


def costs_of(summary: pd.DataFrame) -> pd.DataFrame:
    """What encoders cost, run or not.

    Parameters
    ----------
    summary
        Measured scores, those of the task ``"cost"`` among them.

    Returns
    -------
    Columns ``gmacs`` and ``million_parameters``, by encoder; NaN where there is no network.
    """
    rows = summary[summary["task"] == "cost"]
    found = rows.pivot_table(index="encoder", columns="metric", values="mean")
    return found.reindex(columns=["gmacs", "million_parameters"])


@styled
def cost(summary: pd.DataFrame, reference: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Score against multiply-accumulates: published encoders hollow at the left, measured ones filled beside them.

    Encoders without a network are lines across.

    Parameters
    ----------
    summary, reference
        Measured scores, those of the task ``"cost"`` among them, and published ones.
    colors
        Colour of each measured encoder.

    Returns
    -------
    The figure.
    """
    there, costs = set(summary["task"]), costs_of(summary)
    figure = new_figure(8.0, 6.0)
    axes = figure.subplots(len(PAIRS), 2, sharex=True, sharey="row")
    for row, ((cited, table), own) in zip(axes, PAIRS, strict=True):
        printed = reference[(reference["task"] == cited) & (reference["table"] == table)]
        draw_published(row[0], printed, costs, f"{short_label(cited)}\npublished (LEMON paper)")
        task = next((name for name in own if name in there), None)
        if task is None:
            row[1].set_visible(False)
            continue
        other = "" if task == cited else ": other data than at the left"
        draw_measured(row[1], summary, costs, colors, task=task, title=f"{short_label(task)}\nmeasured here{other}")
    for ax in axes[-1]:
        ax.set_xlabel("multiply-accumulates per nucleus, billions")
    keys = [axes[0, 0].scatter([], [], s=area(m), label=f"{m:,} M parameters", **HOLLOW) for m in SIZES]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    return figure


def draw_published(ax: Axes, rows: pd.DataFrame, costs: pd.DataFrame, title: str) -> None:
    """Published scores of encoders, hollow.

    Parameters
    ----------
    ax
        Where.
    rows
        Published scores of one task.
    costs
        From `costs_of`.
    title
        Heading.
    """
    rows = rows[rows["metric"] == SCORE]
    names = [SAME_NETWORK.get(name, name) for name in rows["encoder"]]
    known = costs.reindex(names)
    ax.scatter(known["gmacs"], rows["mean"], s=area(known["million_parameters"].to_numpy()), **HOLLOW)
    for name, x, y in zip(rows["encoder"], known["gmacs"], rows["mean"], strict=True):
        ax.annotate(encoder_label(name), (x, y), (0, 7), textcoords="offset points", fontsize=5.5, ha="center")
    _frame(ax, title)


def draw_measured(
    ax: Axes, summary: pd.DataFrame, costs: pd.DataFrame, colors: dict[str, str], *, task: str, title: str
) -> None:
    """Measured scores of encoders, filled, with their intervals; lines across for those without a network.

    Parameters
    ----------
    ax
        Where.
    summary
        Measured scores.
    costs
        From `costs_of`.
    colors
        Colour of each measured encoder.
    task
        Which task; of several kinds of folds the first.
    title
        Heading.
    """
    rows = summary[(summary["task"] == task) & (summary["metric"] == SCORE)].groupby("encoder", sort=False).first()
    known = costs.reindex(rows.index)
    for name, row in rows.iterrows():
        x, color = known.loc[name, "gmacs"], colors[str(name)]
        if not np.isfinite(x):
            ax.axhline(row["mean"], color=color, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
            ax.annotate(
                f"{encoder_label(str(name))}: no network", (0.99, row["mean"]), (0, 1.5), color=color, fontsize=5.5,
                xycoords=ax.get_yaxis_transform(), textcoords="offset points", ha="right", va="bottom",
            )  # fmt: skip
            continue
        ax.vlines(x, row["low"], row["high"], color=color, linewidth=1)
        ax.scatter(x, row["mean"], s=area(known.loc[name, "million_parameters"]), color=color, zorder=3)
        ax.annotate(encoder_label(str(name)), (x, row["mean"]), (6, 4), textcoords="offset points", fontsize=5.5)
    _frame(ax, title)


def _frame(ax: Axes, title: str) -> None:
    ax.set_xscale("log")
    ax.set_ylabel(metric_label(SCORE))
    ax.set_title(title, loc="left")
    ax.grid(color="#ececec", linewidth=0.6)
    ax.set_axisbelow(True)


@styled
def curves(table: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Mean score over tasks against the crops, and against the slides, of the corpus that each encoder was trained on.

    Parameters
    ----------
    table
        Rows of the task ``"composition"``: protocols ``"size"`` and ``"slides"``, the number as ``fold``, scores
        ``balanced_accuracy`` and ``standard_error``.
    colors
        Colour of each measured encoder.

    Returns
    -------
    The figure.
    """
    figure = new_figure(6.4, 2.6)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, protocol, label in zip(axes, ("size", "slides"), ("crops", "slides"), strict=True):
        rows = table[table["protocol"] == protocol].assign(count=lambda part: part["fold"].astype(float))
        found = rows.pivot_table(index=["count", "encoder"], columns="metric", values="value").sort_index()
        counts = found.index.get_level_values("count")
        ax.plot(counts, found[SCORE], color="#c0c0c0", linewidth=1, zorder=0)
        for (count, name), row in found.iterrows():
            color = colors[str(name)]
            ax.errorbar(count, row[SCORE], row["standard_error"], color=color, marker="o", markersize=4)
            ax.annotate(encoder_label(str(name)), (count, row[SCORE]), (4, 4), textcoords="offset points", fontsize=5.5)
        ax.set(xscale="log", xlabel=f"{label} in the corpus")
    axes[0].set_ylabel(f"{metric_label(SCORE)},\nmean over tasks")
    return figure
