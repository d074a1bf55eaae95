"""Metrics: arrays in, numbers out.

What needs neighbours or torch loads on first use.
"""

from __future__ import annotations

from lemon_sc._core.lazy import lazy
from lemon_sc.metrics.classification import ClassificationScores, classification, classification_intervals
from lemon_sc.metrics.clustering import GroupClustering, group_clustering
from lemon_sc.metrics.decomposition import DecompositionScores, decomposition
from lemon_sc.metrics.matching import Matches, match_centroids, match_nuclei
from lemon_sc.metrics.panoptic import (
    PanopticQuality,
    TypedPanopticQuality,
    panoptic_quality,
    typed_panoptic_quality,
)
from lemon_sc.metrics.regression import RegressionScores, regression
from lemon_sc.metrics.retrieval import median_rank, recall_at
from lemon_sc.metrics.segmentation import segmentation
from lemon_sc.metrics.typed import DetectionScores, detection, typed_counts, typed_f1
from lemon_sc.metrics.uncertainty import Interval, PairedTest, bootstrap, paired_bootstrap, paired_test

# These rest on the nearest neighbours and probes of `lemon_sc.analysis`, two layers up; they are offered here because
# this is where users look for them.
_LATER = {
    "ExpressionGain": "lemon_sc.analysis.expression_gain",
    "GroupIdentity": "lemon_sc.analysis.leakage",
    "MILScores": "lemon_sc.analysis.mil",
    "Stability": "lemon_sc.analysis.stability",
    "expression_gain": "lemon_sc.analysis.expression_gain",
    "group_identity": "lemon_sc.analysis.leakage",
    "mil_probe": "lemon_sc.analysis.mil",
    "stability": "lemon_sc.analysis.stability",
}

__all__ = [
    "ClassificationScores",
    "DecompositionScores",
    "DetectionScores",
    "GroupClustering",
    "Interval",
    "Matches",
    "PairedTest",
    "PanopticQuality",
    "RegressionScores",
    "TypedPanopticQuality",
    "bootstrap",
    "classification",
    "classification_intervals",
    "decomposition",
    "detection",
    "group_clustering",
    "match_centroids",
    "match_nuclei",
    "median_rank",
    "paired_bootstrap",
    "paired_test",
    "panoptic_quality",
    "recall_at",
    "regression",
    "segmentation",
    "typed_counts",
    "typed_f1",
    "typed_panoptic_quality",
    *_LATER,
]

__getattr__, __dir__ = lazy(__name__, _LATER)
