"""Names that a namespace offers and loads on first use."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazy(module: str, later: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a module that imports some of its names only when they are asked for.

    Parameters
    ----------
    module
        Its ``__name__``; it has an ``__all__``.
    later
        Names, and the modules that they are imported from.

    Returns
    -------
    Both functions, to be assigned in the module. The first raises AttributeError for any other name.
    """

    def load(name: str) -> Any:
        if name in later:
            return getattr(importlib.import_module(later[name]), name)
        msg = f"module {module!r} has no attribute {name!r} (it has: {', '.join(sys.modules[module].__all__)})"
        raise AttributeError(msg)

    def names() -> list[str]:
        here = sys.modules[module]
        return sorted({*vars(here), *here.__all__})

    return load, names
