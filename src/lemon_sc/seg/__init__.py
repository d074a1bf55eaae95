"""Nuclei from H&E alone: detection, outlines and types of nuclei on images and slides.

What needs torch or scikit-learn loads on first use.
"""

from __future__ import annotations

from lemon_sc._core.lazy import lazy
from lemon_sc.seg.consensus import Annotation, Consensus, consensus

_LATER = {
    "NuClick": "lemon_sc.seg.nuclick",
    "RareTypeModel": "lemon_sc.seg.rare_type",
    "SegCard": "lemon_sc.seg.card",
    "Segmenter": "lemon_sc.seg.segmenter",
    "Uncertainty": "lemon_sc.seg.active",
    "click_masks": "lemon_sc.seg.nuclick",
    "diverse_tiles": "lemon_sc.seg.active",
    "fit_rare_type": "lemon_sc.seg.rare_type",
    "load": "lemon_sc.seg.checkpoint",
    "load_histoplus": "lemon_sc.seg.histoplus",
    "segment_image": "lemon_sc.seg.image",
    "segmentation_reference": "lemon_sc.seg.reference",
    "top_tiles": "lemon_sc.seg.active",
    "train_nuclick": "lemon_sc.seg.nuclick_training",
    "uncertain_tiles": "lemon_sc.seg.active",
    "uncertainty": "lemon_sc.seg.active",
}

__all__ = ["Annotation", "Consensus", "consensus", *_LATER]

__getattr__, __dir__ = lazy(__name__, _LATER)
