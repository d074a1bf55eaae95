"""The figures of a benchmark report: measured values filled, published ones hollow, never in one ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from lemon_sc.bench.report_tables import in_order
from lemon_sc.bench.report_words import PROTOCOLS, encoder_label, metric_label, short_label
from lemon_sc.pl._base import GREY, new_figure, styled
from lemon_sc.pl._colors import OKABE_ITO

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lemon_sc.bench.report_words import Page

MARKERS = ("o", "s", "D", "^", "v")
ACROSS = 3
"""Panels side by side."""
HOLLOW: dict[str, Any] = {"facecolor": "white", "edgecolor": "#404040", "linewidth": 0.9}


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """Encoders down, one score across.

    Attributes
    ----------
    title, metric
        Heading and score.
    rows
        ``encoder``, ``protocol``, ``mean``, ``low``, ``high``.
    order
        Encoders from the top down.
    published
        Whether the values are printed ones.
    chance
        Score on shuffled labels, NaN where there is none.
    """

    title: str
    metric: str
    rows: pd.DataFrame
    order: Sequence[str]
    published: bool
    chance: float = np.nan


def colors_of(encoders: Sequence[str]) -> dict[str, str]:
    """A colour for each measured encoder, the same in all figures of a report.

    Parameters
    ----------
    encoders
        Names, in the order of the run.

    Returns
    -------
    Name to colour.
    """
    return {name: OKABE_ITO[k % len(OKABE_ITO)] for k, name in enumerate(encoders)}


def panels_of(summary: pd.DataFrame, reference: pd.DataFrame, page: Page) -> list[Panel]:
    """What the figure of a page shows: a panel for each task that was run, then one for each published set.

    Parameters
    ----------
    summary
        Measured scores.
    reference
        Published scores.
    page
        The page.

    Returns
    -------
    Panels. Encoders stand in one order in all measured ones, that of the first task; published ones have their own.
    """
    metric, panels = page.metrics[0], []
    order: list[str] = []
    for task in page.tasks:
        rows = summary[(summary["task"] == task) & (summary["metric"] == metric)]
        if not len(rows):
            continue
        order = [*order, *(name for name in in_order(rows, metric) if name not in order)]
        null = summary[(summary["task"] == task) & (summary["metric"] == f"null_{metric}")]
        panels.append(
            Panel(
                title=f"{short_label(task)}\nmeasured here",
                metric=metric,
                rows=rows[["encoder", "protocol", "mean", "low", "high"]],
                order=order,
                published=False,
                chance=float(null["mean"].mean()) if len(null) else np.nan,
            )
        )
    panels = [Panel(**{**vars(panel), "order": order}) for panel in panels]
    for task in dict.fromkeys(task for task, _ in page.published):
        table = next(t for name, t in page.published if name == task)
        rows = reference[(reference["task"] == task) & (reference["table"] == table) & (reference["metric"] == metric)]
        rows = rows.assign(low=rows["mean"] - rows["sd"], high=rows["mean"] + rows["sd"])
        other = "" if (summary["task"] == task).any() else ", other data"
        title = f"{short_label(task)}\npublished{other}"
        panels.append(Panel(title=title, metric=metric, rows=rows, order=in_order(rows, metric), published=True))
    return panels


@styled
def dots(panels: Sequence[Panel], colors: dict[str, str]) -> Figure:
    """One panel beside the other: a dot for each encoder and kind of folds, with its interval.

    Parameters
    ----------
    panels
        What is shown.
    colors
        Colour of each measured encoder.

    Returns
    -------
    The figure.
    """
    n_rows = -(-len(panels) // ACROSS)
    heights = [
        max(len(panel.order) for panel in panels[r * ACROSS : (r + 1) * ACROSS]) * 0.24 + 0.9 for r in range(n_rows)
    ]
    figure = new_figure(3.1 * min(ACROSS, len(panels)), sum(heights))
    grid = figure.add_gridspec(n_rows, min(ACROSS, len(panels)), height_ratios=heights)
    protocols = list(dict.fromkeys(str(p) for panel in panels if not panel.published for p in panel.rows["protocol"]))
    for k, panel in enumerate(panels):
        draw_panel(figure.add_subplot(grid[divmod(k, ACROSS)]), panel, colors, protocols)
    keys = [
        Line2D([], [], marker=MARKERS[k % len(MARKERS)], linestyle="", color=GREY, markersize=4, label=_folds(name))
        for k, name in enumerate(protocols)
    ]
    keys.append(
        Line2D([], [], marker="o", linestyle="", markerfacecolor="white", color="#404040", markersize=4,
               label="published (whiskers: standard deviation)")
    )  # fmt: skip
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    return figure


def _folds(protocol: str) -> str:
    return f"{PROTOCOLS.get(protocol, protocol)} (95 % interval)"


def draw_panel(ax: Axes, panel: Panel, colors: dict[str, str], protocols: Sequence[str]) -> None:
    """Draw one panel.

    Parameters
    ----------
    ax
        Where.
    panel
        What.
    colors
        Colour of each measured encoder.
    protocols
        Kinds of folds, in the order of their markers.
    """
    place = {name: k for k, name in enumerate(panel.order)}
    n_kinds = max(panel.rows["protocol"].nunique(), 1)
    ax.axvline(panel.chance, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    for k, (protocol, rows) in enumerate(panel.rows.groupby("protocol", sort=False)):
        at = rows["encoder"].map(place).to_numpy(float) + (k - (n_kinds - 1) / 2) * 0.3
        paint = ["#404040" if panel.published else colors[name] for name in rows["encoder"]]
        ax.hlines(at, rows["low"], rows["high"], color=paint, linewidth=1)
        filled: dict[str, Any] = {"facecolor": paint, "edgecolor": paint, "linewidth": 0.9}
        marker = "o" if panel.published else MARKERS[list(protocols).index(str(protocol)) % len(MARKERS)]
        ax.scatter(rows["mean"], at, s=20, marker=marker, zorder=3, **(HOLLOW if panel.published else filled))
    ax.set_yticks(range(len(panel.order)), [encoder_label(name) for name in panel.order])
    ax.set_ylim(len(panel.order) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#ececec", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel(metric_label(panel.metric))
    ax.set_title(panel.title, loc="left", color="#404040" if panel.published else "black")


@styled
def bars(summary: pd.DataFrame, reference: pd.DataFrame, page: Page, colors: dict[str, str]) -> Figure:
    """Bars, a panel for each score: measured ones filled, published ones hollow beneath, apart.

    Parameters
    ----------
    summary, reference
        Measured and published scores.
    page
        The page.
    colors
        Colour of each measured encoder.

    Returns
    -------
    The figure.
    """
    task, (cited, table) = next(t for t in page.tasks if (summary["task"] == t).any()), page.published[0]
    own = summary[(summary["task"] == task) & summary["metric"].isin(page.metrics)]
    printed = reference[(reference["task"] == cited) & (reference["table"] == table)]
    first = in_order(own, "knn_overlap")
    last = in_order(printed, "knn_overlap")
    at = np.concatenate([np.arange(len(first)), len(first) + 1 + np.arange(len(last))])
    figure = new_figure(8.6, 0.24 * (len(at) + 1) + 0.8)
    axes = figure.subplots(1, len(page.metrics), sharey=True)
    for ax, metric in zip(axes, page.metrics, strict=True):
        measured = own[own["metric"] == metric].groupby("encoder").first().reindex(first)
        stated = printed[printed["metric"] == metric].set_index("encoder").reindex(last)
        ax.barh(at[: len(first)], measured["mean"], height=0.7, color=[colors[name] for name in first])
        ax.hlines(at[: len(first)], measured["low"], measured["high"], color="black", linewidth=0.9)
        ax.barh(at[len(first) :], stated["mean"], height=0.62, **HOLLOW)
        ax.set_xlabel(metric_label(metric))
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(at, [encoder_label(name) for name in [*first, *last]])
    axes[0].set_ylim(at[-1] + 0.6, -1.2)
    axes[0].text(0, -0.75, f"measured here: {short_label(task)}", fontsize=7)
    axes[0].text(0, len(first) + 0.25, "published: other slides, other references", fontsize=7, color="#404040")
    return figure


@styled
def moran(table: pd.DataFrame, task: str, colors: dict[str, str]) -> Figure:
    """Moran's I of each gene on the graph of each encoder: dots where p < 0.05 by permutation, crosses elsewhere.

    Parameters
    ----------
    table
        The run: a row per gene, encoder and score (``I``, ``pval_sim``).
    task
        Which task.
    colors
        Colour of each measured encoder.

    Returns
    -------
    The figure.
    """
    rows = table[table["task"] == task]
    wide = rows.pivot_table(index="fold", columns=["metric", "encoder"], values="value")
    wide = wide.loc[wide["I"].mean(axis=1).sort_values(ascending=False).index]
    figure = new_figure(4.4, 0.17 * len(wide) + 1.3)
    ax = figure.add_subplot()
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    encoders = [name for name in colors if name in wide["I"]]
    for k, name in enumerate(encoders):
        at = np.arange(len(wide)) + (k - (len(encoders) - 1) / 2) * 0.12
        sure = (wide["pval_sim", name] < 0.05).to_numpy()
        ax.scatter(wide["I", name][sure], at[sure], s=13, color=colors[name], linewidths=0, label=encoder_label(name))
        ax.scatter(wide["I", name][~sure], at[~sure], s=11, color=colors[name], marker="x", linewidths=0.7)
    ax.set_yticks(range(len(wide)), list(wide.index), fontstyle="italic")
    ax.set_ylim(len(wide) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="#ececec", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("Moran's I (dot: p < 0.05 by permutation; cross: not)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
