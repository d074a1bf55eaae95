"""One door for optional packages."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def require(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Parameters
    ----------
    package
        Import name.
    extra
        The extra of lemon_sc that installs it.
    purpose
        What needs it, as the subject of a sentence.

    Returns
    -------
    The package.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        msg = f'{purpose} needs {package}: pip install "lemon_sc[{extra}]".'
        raise ImportError(msg) from error
