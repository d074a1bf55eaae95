"""lemon_sc: nuclear morphology as a modality of single-cell spatial transcriptomics.

The namespaces load on first use, so that ``import lemon_sc`` stays cheap: it imports neither torch nor spatialdata.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from lemon_sc import bench, datasets, metrics, models, pl, pp, seg, tl, train

__all__ = ["bench", "datasets", "metrics", "models", "pl", "pp", "seg", "tl", "train"]

try:
    __version__ = version("lemon_sc")
except PackageNotFoundError:  # used from a source tree that is not installed, as on a bare GPU node
    __version__ = "0+unknown"


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"lemon_sc.{name}")
    msg = f"module 'lemon_sc' has no attribute {name!r} (it has: {', '.join(__all__)})"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
