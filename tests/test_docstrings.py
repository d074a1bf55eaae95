"""Functions of shared modules say what they take and what they give; verbs are checked in `test_architecture.py`."""

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "lemon_sc"
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
NOTHING = {"None", "Never", "NoReturn"}
NOT_CALLED_BY_OTHERS = {"cli.py", "crops/kernel.py", "crops/lanes.py"}
"""Handlers of the command line, which take its arguments, and the insides of one compiled loop, described there."""


def modules():
    """Modules that others import: those of `_core`, and all without a leading underscore."""
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).parts
        if not any(part.startswith("_") and part != "_core" for part in parts):
            name = "/".join(parts)
            if name not in NOT_CALLED_BY_OTHERS:
                yield pytest.param(path, id=name)


def sections(text):
    """Text of a docstring's sections by heading."""
    _, *found = SECTION.split(text)
    return dict(zip(found[::2], found[1::2], strict=True))


def wanting(function):
    """What the docstring of a function lacks; without parameters, the summary is enough to say what is returned."""
    found = sections(ast.get_docstring(function) or "")
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    takes = [a.arg for a in arguments if a is not None and not a.arg.startswith("_")]
    heads = re.findall(r"^(\S.*)$", found.get("Parameters", ""), re.MULTILINE)
    named = [name.strip(" *") for head in heads for name in re.sub(r"^%\((\w+)\)s$", r"\1", head).split(",")]
    yield from (f"parameter {name!r}" for name in takes if name not in named)
    yield from (f"no parameter is called {name!r}" for name in named if name not in takes)
    gives = function.returns is not None and ast.unparse(function.returns) not in NOTHING
    if takes and gives and not {"Returns", "Yields"} & found.keys():
        yield "what is returned"


@pytest.mark.parametrize("path", modules())
def test_functions_say_what_they_take_and_give(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    assert {n.name: lacks for n in public if (lacks := [*wanting(n)])} == {}


TAKES, GIVES = "\n\nParameters\n----------\n", "\n\nReturns\n-------\nA number."


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        (f"Sum.{TAKES}x, y\n    Terms.{GIVES}", []),
        (f"Sum.{TAKES}x\n    One.\ny\n    Other.{GIVES.replace('Returns', 'Yields')}", []),
        (f"Sum.{TAKES}x, y\n    Terms.", ["what is returned"]),
        (f"Sum.{TAKES}x\n    Term.{GIVES}", ["parameter 'y'"]),
        (f"Sum.{TAKES}x, y, z\n    Terms.{GIVES}", ["no parameter is called 'z'"]),
        ("Sum.", ["parameter 'x'", "parameter 'y'", "what is returned"]),
    ],
    ids=["whole", "yields", "no return", "one not named", "one too many", "nothing"],
)
def test_what_is_missing_is_found(text, lacks):
    (function,) = ast.parse("def add(x: int, *, y: int = 0) -> int: ...").body
    function.body = [ast.Expr(ast.Constant(text))]
    assert [*wanting(function)] == lacks
