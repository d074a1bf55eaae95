"""The text of a benchmark report, page by page, from the results of a run alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lemon_sc.bench.report_tables import in_order, markdown, measured_cell, measured_part, published_part
from lemon_sc.bench.report_words import PAGES, PROTOCOLS, Page, encoder_label, metric_label, short_label, task_label
from lemon_sc.bench.rows import POOLED_SCORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

MAPS = Page(
    name="maps",
    title="Maps of nuclei",
    lead="What an embedding holds to be alike, with the nuclei themselves.",
    tasks=(),
    metrics=(),
)
COST = "cost"
"""Task that also counts encoders whose weights are not here."""

HEADLINE = ("mitosis", "nuclei")
"""Pages whose tasks stand in the table of the first page."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Results:
    """All that the pages say.

    Attributes
    ----------
    run
        Id of the run.
    version
        Of the package.
    summary, reference
        Measured and published scores.
    pictures
        Caption of each figure that was drawn, by its file in the folder of figures.
    skipped
        What was left out: ``task``, ``encoder``, ``reason``.
    reading
        A paragraph for each figure, by its name.
    read
        Id of the run that the paragraphs were written on.
    """

    run: str
    version: str
    summary: pd.DataFrame
    reference: pd.DataFrame
    pictures: Mapping[str, str]
    skipped: Sequence[Mapping[str, str]] = ()
    reading: Mapping[str, str] = field(default_factory=dict)
    read: str = ""


def pages(results: Results) -> dict[str, str]:
    """The pages of a report.

    Parameters
    ----------
    results
        What they say.

    Returns
    -------
    Markdown (MyST) by the name of the page; the first is ``"index"``.
    """
    written = {page.name: "\n".join(page_parts(results, page)) for page in PAGES if has_content(results, page)}
    further = [task for task in results.summary["task"].unique() if task not in known_tasks()]
    if further:
        written["further"] = "\n".join(further_parts(results, further))
    if any(not is_of_page(name) for name in results.pictures):
        written[MAPS.name] = "\n".join(map_parts(results))
    return {"index": "\n".join(index_parts(results, list(written))), **written}


def known_tasks() -> set[str]:
    """Tasks that have a page.

    Returns
    -------
    Names.
    """
    return {task for page in PAGES for task in page.tasks}


def is_of_page(picture: str) -> bool:
    """Whether a figure stands on a page with numbers, and not among the maps.

    Parameters
    ----------
    picture
        Its file.

    Returns
    -------
    Yes or no.
    """
    name = picture.rpartition(".")[0]
    return name in {page.name for page in PAGES}


def has_content(results: Results, page: Page) -> bool:
    """Whether a page has anything to say: a task that was run, or published values.

    Parameters
    ----------
    results
        The run.
    page
        The page.

    Returns
    -------
    Yes or no.
    """
    return bool(page.published) or bool(results.summary["task"].isin(page.tasks).any())


def page_parts(results: Results, page: Page) -> Iterator[str]:
    """A page, part by part: figure and reading, measured tables, published tables.

    Parameters
    ----------
    results
        The run.
    page
        The page.

    Yields
    ------
    Markdown.
    """
    yield f"# {page.title}\n\n{page.lead}\n"
    yield from figures(results, [name for name in results.pictures if name.rpartition(".")[0] == page.name])
    measured = [measured_part(results.summary, task, page.metrics) for task in page.tasks]
    measured = [part for part in measured if part]
    yield "## Measured here\n"
    yield from measured or ["Nothing of this page was measured in this run.\n"]
    if page.published:
        yield f"## Published\n\n{page.aside}\n"
        for task, table in page.published:
            yield published_part(results.reference, results.summary, task=task, table=table, metrics=page.metrics)


def further_parts(results: Results, tasks: Sequence[str]) -> Iterator[str]:
    """The page of tasks that no other page has, such as a user's own.

    Parameters
    ----------
    results
        The run.
    tasks
        Their names.

    Yields
    ------
    Markdown.
    """
    yield ("# Further tasks\n\nTasks that no other page has.\n")
    for task in tasks:
        yield measured_part(results.summary, task, ())


def map_parts(results: Results) -> Iterator[str]:
    """The page of maps.

    Parameters
    ----------
    results
        The run.

    Yields
    ------
    Markdown.
    """
    yield f"# {MAPS.title}\n\n{MAPS.lead}\n"
    yield from figures(results, [name for name in results.pictures if not is_of_page(name)])


def figures(results: Results, names: Sequence[str]) -> Iterator[str]:
    """Figures, each with its caption and the paragraph that was written of it.

    Parameters
    ----------
    results
        The run.
    names
        Their files.

    Yields
    ------
    Markdown.
    """
    for name in names:
        caption = results.pictures[name]
        yield f"![{name.rpartition('.')[0].replace('_', ' ')}](figures/{name})\n\n*{caption}*\n"
        text = results.reading.get(name.rpartition(".")[0], "").strip()
        if text:
            older = "" if results.read == results.run else f" (Written of run `{results.read}`, not of this one.)"
            yield f"**Reading.** {text}{older}\n"


def index_parts(results: Results, names: Sequence[str]) -> Iterator[str]:
    """The first page: what was run, how to read it, the main scores, and where the rest is.

    Parameters
    ----------
    results
        The run.
    names
        The other pages.

    Yields
    ------
    Markdown.
    """
    summary = results.summary
    run = summary.loc[summary["task"] != COST, "encoder"]
    encoders = list(dict.fromkeys(run if len(run) else summary["encoder"]))
    yield "# What embeddings know\n"
    yield (
        f"Run `{results.run}` of lemon_sc {results.version}: {len(encoders)} encoders, "
        f"{summary['task'].nunique()} tasks. All of these pages, figures and tables come from one command:\n"
    )
    yield f"```shell\nlemon-sc bench --data DATA --report docs/benchmarks --encoders {' '.join(encoders)}\n```\n"
    yield (
        "**Measured** values were computed here, on data at hand, and come with 95 % intervals (bootstrap over folds, "
        "slides or genes): they say how far the mean would move with other folds, not with another laboratory. "
        "**Published** values are copied from the LEMON paper, with the standard deviations it prints. The two never "
        "stand in one ranking where the data differ. What the paper prints in two ways is noted under its tables. The "
        "sets at hand are small; a difference within the intervals is none.\n"
    )
    yield (
        "The labels on shuffled data show chance. *Whole slides held out* is what a new slide will see; with random "
        "folds, nuclei of one slide stand on both sides, as in the paper.\n"
    )
    if summary["metric"].str.startswith(POOLED_SCORE).any():
        yield (
            "Scores of classes over all folds together come with intervals from drawing whole patients, or slides "
            "where patients are not known: they say how far the score would move with other ones of the same kind.\n"
        )
    yield headline(summary)
    if results.skipped:
        yield "## Left out\n"
        rows = [[task_label(s["task"]), encoder_label(s["encoder"]), s["reason"]] for s in results.skipped]
        yield markdown(["task", "encoder", "why"], rows)
    yield "## Pages\n"
    yield "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```\n"


def headline(summary: pd.DataFrame) -> str:
    """The table of main scores: encoders down, tasks across.

    Parameters
    ----------
    summary
        Measured scores.

    Returns
    -------
    Markdown, empty where no main task was run.
    """
    shown = [page for page in PAGES if page.name in HEADLINE]
    metric = shown[0].metrics[0]
    rows = summary[(summary["metric"] == metric) & summary["task"].isin([t for page in shown for t in page.tasks])]
    if not len(rows):
        return ""
    kinds = rows[["task", "protocol"]].drop_duplicates().itertuples(index=False)
    columns = [(str(task), str(protocol)) for task, protocol in kinds]
    first = rows[(rows["task"] == columns[0][0]) & (rows["protocol"] == columns[0][1])]
    order = [*in_order(first, metric)]
    order += [name for name in rows["encoder"].unique() if name not in order]
    table = rows.set_index(["encoder", "task", "protocol"])
    body = [
        [
            encoder_label(name),
            *(measured_cell(table.loc[(name, *k)]) if (name, *k) in table.index else "–" for k in columns),
        ]
        for name in order
    ]
    header = [
        f"{short_label(task)}: {PROTOCOLS.get(protocol, protocol)}".replace("\n", " ") for task, protocol in columns
    ]
    return f"## {metric_label(metric).capitalize()}, measured\n\n" + markdown(["encoder", *header], body)
