"""Benchmarks: what encoders know of nuclei, by the protocols of the published tables, and beside their values.

What needs torch, scikit-learn or scverse packages loads on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_LATER = {
    "Labelled": "lemon_sc.bench.kinds",
    "MissingDataError": "lemon_sc.bench.kinds",
    "Source": "lemon_sc.bench.kinds",
    "Task": "lemon_sc.bench.kinds",
    "compare": "lemon_sc.bench.summaries",
    "reference": "lemon_sc.bench.reference_rows",
    "report": "lemon_sc.bench.report_page",
    "run": "lemon_sc.bench.runner",
    "summary": "lemon_sc.bench.summaries",
    "task": "lemon_sc.bench.catalogue",
    "tasks": "lemon_sc.bench.catalogue",
}

__all__ = [*_LATER]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    msg = f"module 'lemon_sc.bench' has no attribute {name!r} (it has: {', '.join(__all__)})"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
