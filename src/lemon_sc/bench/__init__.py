"""Benchmarks: what encoders know of nuclei, by the protocols of the published tables, and beside their values.

What needs torch, scikit-learn or scverse packages loads on first use.
"""

from __future__ import annotations

from lemon_sc._core.lazy import lazy

_LATER = {
    "Labelled": "lemon_sc.bench.kinds",
    "MissingDataError": "lemon_sc.bench.kinds",
    "Source": "lemon_sc.bench.kinds",
    "Task": "lemon_sc.bench.kinds",
    "compare": "lemon_sc.bench.summaries",
    "decomposition_reference": "lemon_sc.bench.decomposition_rows",
    "reference": "lemon_sc.bench.reference_rows",
    "report": "lemon_sc.bench.report_page",
    "run": "lemon_sc.bench.runner",
    "summary": "lemon_sc.bench.summaries",
    "task": "lemon_sc.bench.catalogue",
    "tasks": "lemon_sc.bench.catalogue",
}

__all__ = [*_LATER]

__getattr__, __dir__ = lazy(__name__, _LATER)
