"""Metrics: arrays in, numbers out.

What needs neighbours or torch loads on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from lemon_sc.metrics.classification import ClassificationScores, classification
from lemon_sc.metrics.matching import Matches, match_centroids, match_nuclei
from lemon_sc.metrics.panoptic import (
    PanopticQuality,
    TypedPanopticQuality,
    panoptic_quality,
    typed_panoptic_quality,
)
from lemon_sc.metrics.regression import RegressionScores, regression
from lemon_sc.metrics.segmentation import segmentation
from lemon_sc.metrics.typed import DetectionScores, detection, paired_bootstrap, typed_counts, typed_f1
from lemon_sc.metrics.uncertainty import Interval, PairedTest, bootstrap, paired_test

# These rest on the nearest neighbours and probes of `lemon_sc.analysis`, two layers up; they are offered here because
# this is where users look for them.
_LATER = {
    "GroupIdentity": "lemon_sc.analysis.leakage",
    "Stability": "lemon_sc.analysis.stability",
    "group_identity": "lemon_sc.analysis.leakage",
    "stability": "lemon_sc.analysis.stability",
}

__all__ = [
    "ClassificationScores",
    "DetectionScores",
    "Interval",
    "Matches",
    "PairedTest",
    "PanopticQuality",
    "RegressionScores",
    "TypedPanopticQuality",
    "bootstrap",
    "classification",
    "detection",
    "match_centroids",
    "match_nuclei",
    "paired_bootstrap",
    "paired_test",
    "panoptic_quality",
    "regression",
    "segmentation",
    "typed_counts",
    "typed_f1",
    "typed_panoptic_quality",
    *_LATER,
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    msg = f"module 'lemon_sc.metrics' has no attribute {name!r} (it has: {', '.join(__all__)})"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
