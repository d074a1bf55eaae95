"""Training of encoders on crops of nuclei: corpus, views, self-supervised methods.

Reading, augmenting and training need torch and timm, nothing of scverse. What needs torch loads on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_LATER = {
    "Augmentation": "lemon_sc.train.views",
    "DINOv2": "lemon_sc.train.dino",
    "FolderSource": "lemon_sc.train.corpus_sources",
    "MoCoV3": "lemon_sc.train.moco",
    "Progress": "lemon_sc.train.schedules",
    "Sampler": "lemon_sc.train.sampler",
    "SlideSource": "lemon_sc.train.corpus_sources",
    "SpatialDataSource": "lemon_sc.train.corpus_sources",
    "StainMixture": "lemon_sc.train.stain",
    "a0": "lemon_sc.train.views",
    "a1": "lemon_sc.train.views",
    "augment": "lemon_sc.train.views",
    "build_corpus": "lemon_sc.train.corpus",
    "export_corpus": "lemon_sc.train.corpus_reader",
    "lab_statistics": "lemon_sc.train.stain",
    "norm_stats": "lemon_sc.train.stats",
    "open_corpus": "lemon_sc.train.corpus_reader",
}

__all__ = [*_LATER]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    msg = f"module 'lemon_sc.train' has no attribute {name!r} (it has: {', '.join(__all__)})"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
