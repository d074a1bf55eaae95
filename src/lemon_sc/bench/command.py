"""The command line of the benchmark: tasks, data, encoders, and a report of what came out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    import pandas as pd


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a benchmark needs to be told.

    Parameters
    ----------
    parser
        Gets the arguments.
    """
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="tasks; without any, all whose data are there")
    parser.add_argument("--data", type=Path, help="folder of the data; without it, LEMON_SC_DATA")
    parser.add_argument("--out", type=Path, help="folder that keeps embeddings and results; the same command goes on")
    parser.add_argument("--encoders", nargs="+", metavar="MODEL", help="names, weight files, folders of training runs")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="folder for tables and figures, published values beside"
    )
    parser.add_argument("--most", type=int, help="at most so many nuclei of a task (of a slide, for expression)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scheduler", help="address of a Dask scheduler, such as host:8786")
    parser.add_argument("--list", action="store_true", help="list the tasks and where their data are published")


def bench(args: argparse.Namespace) -> list[str]:
    """Run the benchmark that the arguments describe.

    Parameters
    ----------
    args
        From a parser that `add_arguments` prepared.

    Returns
    -------
    Lines to be shown: the first score of each task, what was left out, or the list of tasks.
    """
    from lemon_sc.bench.catalogue import TASKS, task

    if args.list:
        return [f"{t.name:<26}{t.title}\n{'':<26}{t.source.url} ({t.source.licence})" for t in TASKS.values()]
    for name in args.tasks:
        task(name)
    from lemon_sc.bench.runner import EMBEDDINGS, run

    table = run(
        args.tasks or None,
        encoders=args.encoders,
        data=args.data,
        out=args.out,
        rng=args.seed,
        most=args.most,
        device=args.device,
    )
    lines = headlines(table)
    lines += [f"left out: {entry['task']} {entry['encoder']}".rstrip() for entry in table.attrs["skipped"]]
    if args.report is not None:
        from lemon_sc.bench.report_page import report

        model = args.encoders[-1] if args.encoders else None
        cache = None if args.out is None else args.out / EMBEDDINGS
        report(table, out=args.report, data=args.data, encoder=model, cache=cache)
        lines.append(f"Wrote {args.report}")
    return lines


def headlines(table: pd.DataFrame) -> list[str]:
    """The first score of each task, by protocol and encoder, as lines of text.

    Parameters
    ----------
    table
        Results.

    Returns
    -------
    Lines.
    """
    from lemon_sc.bench.catalogue import TASKS
    from lemon_sc.bench.summaries import summary

    lines = []
    for row in summary(table).itertuples():
        if row.metric == TASKS[row.task].metrics[0]:
            spread = f" (sd {row.sd:.3f})" if row.n_folds > 1 else ""
            lines.append(
                f"{row.task:<22} {row.protocol:<12} {row.encoder:<26} {row.metric} {row.mean:.3f}{spread}, n {row.n}"
            )
    return lines
