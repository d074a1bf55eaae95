"""Metrics: arrays in, numbers out."""

from lemon_sc.metrics.classification import ClassificationScores, classification

__all__ = ["ClassificationScores", "classification"]
