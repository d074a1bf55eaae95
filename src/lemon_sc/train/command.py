"""The command line of training: a recipe by name, and fields of it to set."""

from __future__ import annotations

import argparse
import ast
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemon_sc.train.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a run needs to be told.

    Parameters
    ----------
    parser
        Gets the arguments.
    """
    parser.add_argument("recipe", choices=sorted(RECIPES), help="what to compute")
    parser.add_argument("--corpus", type=Path, required=True, help="crops to train on, from lm.train.build_corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; one that was cut off goes on there")
    field = "a field of the recipe, such as epochs=10 or options.hidden=512; may be repeated"
    parser.add_argument("--set", dest="changes", metavar="FIELD=VALUE", action="append", default=[], help=field)
    parser.add_argument("--probe", type=Path, help="labelled crops (.npz) that a linear probe reads after each epoch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--log-steps", type=int, default=10, help="steps per row of the log")
    parser.add_argument("--save-steps", type=int, help="steps per checkpoint; without it, an epoch")
    parser.add_argument("--probe-epochs", type=int, default=1, help="epochs per probe")


def settings(given: Sequence[str]) -> dict[str, Any]:
    """Fields and values from the command line: a value that Python reads as a literal is one, else it is a text.

    Parameters
    ----------
    given
        ``"field=value"`` each.

    Returns
    -------
    Values by field.

    Raises
    ------
    ValueError
        One without ``=``, or a field that is set twice.
    """
    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not name:
            msg = f"`--set` takes FIELD=VALUE, for instance epochs=10, got {item!r}."
            raise ValueError(msg)
        if name in found:
            msg = f"`--set` names {name!r} twice."
            raise ValueError(msg)
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def train(args: argparse.Namespace) -> None:
    """Make the run that the arguments describe.

    Parameters
    ----------
    args
        From a parser that `add_arguments` prepared.
    """
    from lemon_sc.train.loop import fit

    recipe = RECIPES[args.recipe](**settings(args.changes))
    run = fit(
        recipe,
        corpus=args.corpus,
        out=args.out,
        probe=args.probe,
        device=args.device,
        log_steps=args.log_steps,
        save_steps=args.save_steps,
        probe_epochs=args.probe_epochs,
    )
    shown = ", ".join(f"{k} {run.metrics[k]:.4g}" for k in ("loss", "rank", "cosine", "probe") if k in run.metrics)
    logging.getLogger("lemon_sc").info("%d steps: %s. Checkpoint: %s", recipe.steps, shown, run.checkpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m lemon_sc.train``.

    Parameters
    ----------
    argv
        Arguments without the program's name; None takes the command line's.

    Returns
    -------
    Exit status: 0; 1 after an error that was printed; 130 after an interruption.
    """
    parser = argparse.ArgumentParser(prog="python -m lemon_sc.train", description="Train an encoder of nuclei.")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    add_arguments(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, one speaks
    logging.getLogger("lemon_sc").setLevel(logging.INFO if first else logging.ERROR)
    try:
        train(args)
    except KeyboardInterrupt:
        sys.stderr.write("lemon_sc.train: interrupted; the same command goes on\n")
        return 130
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError, MemoryError) as error:
        if args.traceback:
            raise
        sys.stderr.write(f"lemon_sc.train: {error}\n")
        return 1
    return 0
