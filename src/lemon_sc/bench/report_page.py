"""The report of a benchmark run: pages in Markdown and figures, measured values beside published ones."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd

import lemon_sc
from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import logger
from lemon_sc.bench.reference_rows import reference
from lemon_sc.bench.report_cost import cost, curves
from lemon_sc.bench.report_figures import bars, colors_of, dots, moran, panels_of
from lemon_sc.bench.report_pages import COST, Results, pages
from lemon_sc.bench.report_words import PAGES, Page, metric_label
from lemon_sc.bench.summaries import check_table, summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from matplotlib.figure import Figure

TABLE, RECORD, READING, FIGURES = "run.csv.gz", "run.json", "reading.toml", "figures"
PROBE, ORIGINAL = "stain_probe", "original"

TIMED = ("nuclei_per_second",)
"""Scores that differ from run to run of the same thing."""


def report(
    table: pd.DataFrame,
    *,
    out: str | PathLike[str],
    data: str | PathLike[str] | None = None,
    encoder: object = None,
    cache: str | PathLike[str] | None = None,
) -> Path:
    """Write the report of a benchmark run: pages, figures, and the table they were made of.

    Measured values stand beside those that the LEMON paper published (`lm.bench.reference`), told apart in every table
    and figure.

    Parameters
    ----------
    table
        Of `lm.bench.run`.
    out
        Folder; files of an earlier report are replaced. Paragraphs to stand under the figures are taken from
        ``reading.toml`` in it: ``run``, the id of the run that they were written on, and a table ``figures`` of texts
        by the name of the figure.
    data
        The data folder, to draw maps of nuclei; without it there are none.
    encoder
        That of these maps, as `model` in `lm.tl.embed`.
    cache
        Folder of `lm.bench.run` that keeps embeddings, to be used for the maps, too.

    Returns
    -------
    Path of the first page, ``index.md``. Beside it stand a page for each kind of task, ``figures/``, ``run.csv.gz``
    (the table) and ``run.json`` (id, version, captions, what was left out).

    Raises
    ------
    MissingKeyError
        If `table` lacks a column.
    ValueError
        If it has no rows.
    """
    check_table(table)
    if not len(table):
        raise bad_value("table", must="have rows", got="none", fix="Was every task left out? See `table.attrs`.")
    scores = scored(table)
    out = Path(out)
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, caption, figure in drawn(table, scores, data=data, encoder=encoder, cache=cache):
        pictures[save(figure, out / FIGURES, name)] = caption
    table.to_csv(out / TABLE, index=False, compression={"method": "gzip", "mtime": 0})
    record = {
        "run": run_id(table),
        "version": lemon_sc.__version__,
        "pictures": pictures,
        "skipped": [{**row, "reason": without_path(row["reason"])} for row in table.attrs.get("skipped", ())],
    }
    (out / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    results = read_results(out, scores=scores)
    lacking = [name for name in (file.rpartition(".")[0] for file in pictures) if name not in results.reading]
    if lacking:
        logger.info("no paragraph in %s on the figures %s", out / READING, ", ".join(lacking))
    for name, text in pages(results).items():
        (out / f"{name}.md").write_text(text, encoding="utf-8")
    return out / "index.md"


def without_path(reason: str) -> str:
    """Why something was left out, without saying where on this machine it was looked for.

    Parameters
    ----------
    reason
        As `lm.bench.run` says it.

    Returns
    -------
    Text.
    """
    _, found, rest = reason.partition("They are published at ")
    return f"no data here; published at {rest}" if found else reason


def run_id(table: pd.DataFrame) -> str:
    """Digest of what was measured: the same for the same scores, however long they took.

    Parameters
    ----------
    table
        Of `lm.bench.run`.

    Returns
    -------
    8 hexadecimal digits.
    """
    rows = table[~table["metric"].isin(TIMED)].sort_values(["task", "encoder", "protocol", "metric", "fold"])
    text = rows[["task", "version", "encoder", "protocol", "fold", "metric", "n"]].astype(str).agg("|".join, axis=1)
    lines = [f"{key}|{value:.4g}" for key, value in zip(text, rows["value"], strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def read_results(folder: Path, *, scores: pd.DataFrame | None = None) -> Results:
    """What a report was made of, from its folder.

    Parameters
    ----------
    folder
        Of the report.
    scores
        `scored` of its table, where that is at hand.

    Returns
    -------
    The results.
    """
    if scores is None:
        kept = pd.read_csv(folder / TABLE, dtype={"fold": str}, keep_default_na=False, na_values={"value": [""]})
        scores = scored(kept)
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    written: dict[str, Any] = {}
    if (folder / READING).is_file():
        written = tomllib.loads((folder / READING).read_text(encoding="utf-8"))
    return Results(
        summary=scores,
        reference=reference(),
        reading=written.get("figures", {}),
        read=str(written.get("run", "")),
        **record,
    )


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """Summary of a run, in which a probe's scores on the original stains are not averaged with those under a shift.

    Parameters
    ----------
    table
        Of `lm.bench.run`.

    Returns
    -------
    As `lm.bench.summary`.
    """
    original = (table["protocol"] == PROBE) & (table["fold"] == ORIGINAL)
    return summary(table.assign(protocol=table["protocol"].mask(original, f"{PROBE}_{ORIGINAL}")))


def drawn(
    table: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    data: str | PathLike[str] | None = None,
    encoder: object = None,
    cache: str | PathLike[str] | None = None,
) -> Iterator[tuple[str, str, Figure]]:
    """All figures of a report, one after the other.

    Parameters
    ----------
    table, data, encoder, cache
        As for `report`.
    scores
        `scored` of the table.

    Yields
    ------
    Name, caption and figure.
    """
    printed = reference()
    run = scores[scores["task"] != COST]
    colors = colors_of(list((run if len(run) else scores)["encoder"].unique()))
    for page in PAGES:
        own = scores[scores["task"].isin(page.tasks)]
        if not len(own) or (page.figure == "curves" and own["encoder"].nunique() < 2):  # one point is no curve
            continue
        yield page.name, caption_of(page), draw_page(page, table, scores, printed, colors)
    if data is not None:
        from lemon_sc.bench.report_maps import pictures

        for picture in pictures(Path(data), model=encoder, cache=None if cache is None else Path(cache)):
            yield picture.name, picture.caption, picture.figure


def draw_page(
    page: Page, table: pd.DataFrame, scores: pd.DataFrame, printed: pd.DataFrame, colors: dict[str, str]
) -> Figure:
    """The figure of a page.

    Parameters
    ----------
    page
        The page.
    table, scores, printed
        The run, its summary, and published scores.
    colors
        Colour of each measured encoder.

    Returns
    -------
    The figure.
    """
    if page.figure == "bars":
        return bars(scores, printed, page, colors)
    if page.figure == "cost":
        return cost(scores, printed, colors)
    if page.figure == "moran":
        return moran(table, page.tasks[0], colors)
    if page.figure == "curves":
        return curves(table[table["task"].isin(page.tasks)], colors)
    return dots(panels_of(scores, printed, page), colors)


def caption_of(page: Page) -> str:
    """What is said beneath the figure of a page.

    Parameters
    ----------
    page
        The page.

    Returns
    -------
    Text.
    """
    if page.figure == "cost":
        return (
            "Balanced accuracy against multiply-accumulates for one nucleus; the area of a marker grows with the "
            "parameters. Hollow: published (LEMON paper). Filled: measured here, with 95 % intervals, on other data."
        )
    if page.figure == "bars":
        return (
            "Restained against original embeddings, mean over six reference slides, with 95 % intervals. Filled: "
            "measured here. Hollow: published (LEMON paper), on other data."
        )
    if page.figure == "moran":
        return "Moran's I of markers on the graph of each encoder's embedding, cells of the Xenium crop; chance is 0."
    if page.figure == "curves":
        return "Mean balanced accuracy with its standard error, against crops (left) and slides (right)."
    return (
        f"{metric_label(page.metrics[0]).capitalize()} of a linear probe. Filled: measured here, with 95 % intervals; "
        "broken line: labels shuffled. Hollow: published (LEMON paper), on other data, with standard deviations."
    )


def save(figure: Figure, folder: Path, name: str) -> str:
    """Save a figure, as JPEG where it is made of images of nuclei, and close it.

    Parameters
    ----------
    figure
        The figure.
    folder
        Where.
    name
        File, without its ending.

    Returns
    -------
    Name of the file.
    """
    if name.startswith("map"):
        options: dict[str, Any] = {"dpi": 150, "pil_kwargs": {"quality": 80, "optimize": True}}
        file = f"{name}.jpg"
    else:
        options, file = {"dpi": 130}, f"{name}.png"
    figure.savefig(folder / file, bbox_inches="tight", **options)
    plt.close(figure)
    return file
