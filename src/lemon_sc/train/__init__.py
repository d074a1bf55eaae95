"""Training of encoders on crops of nuclei: corpus, views, self-supervised methods, recipes and the loop.

Reading, augmenting and training need torch and timm, nothing of scverse. What needs torch loads on first use.
"""

from __future__ import annotations

from lemon_sc._core.lazy import lazy

_LATER = {
    "Augmentation": "lemon_sc.train.views",
    "DINOv2": "lemon_sc.train.dino",
    "FolderSource": "lemon_sc.train.corpus_sources",
    "MoCoV3": "lemon_sc.train.moco",
    "Pairs": "lemon_sc.train.seal_pairs",
    "Progress": "lemon_sc.train.schedules",
    "Recipe": "lemon_sc.train.recipes",
    "Run": "lemon_sc.train.loop",
    "Sampler": "lemon_sc.train.sampler",
    "SlideSource": "lemon_sc.train.corpus_sources",
    "SpatialDataSource": "lemon_sc.train.corpus_sources",
    "StainMixture": "lemon_sc.train.stain",
    "a0": "lemon_sc.train.policies",
    "a1": "lemon_sc.train.policies",
    "augment": "lemon_sc.train.views",
    "build_corpus": "lemon_sc.train.corpus",
    "cpu": "lemon_sc.train.recipes",
    "debug": "lemon_sc.train.recipes",
    "dinov2": "lemon_sc.train.recipes",
    "dinov2_kde": "lemon_sc.train.recipes",
    "dinov2_no_local": "lemon_sc.train.recipes",
    "Guided": "lemon_sc.train.guided",
    "export": "lemon_sc.train.release",
    "export_corpus": "lemon_sc.train.corpus_reader",
    "fit": "lemon_sc.train.loop",
    "cpu_guided": "lemon_sc.train.recipes",
    "lab_statistics": "lemon_sc.train.stain",
    "lemon": "lemon_sc.train.recipes",
    "norm_stats": "lemon_sc.train.stats",
    "open_corpus": "lemon_sc.train.corpus_reader",
    "push_to_hub": "lemon_sc.train.release",
    "NucleiFolder": "lemon_sc.train.seg_data",
    "NucleiSet": "lemon_sc.train.seg_data",
    "SegRecipe": "lemon_sc.train.seg_recipes",
    "SegRun": "lemon_sc.train.seg_loop",
    "SealRecipe": "lemon_sc.train.seal_recipe",
    "SealRun": "lemon_sc.train.seal_loop",
    "pairs_of": "lemon_sc.train.seal_table",
    "seal": "lemon_sc.train.seal_loop",
    "seal_published": "lemon_sc.train.seal_recipe",
    "seal_small": "lemon_sc.train.seal_recipe",
    "open_nuclei": "lemon_sc.train.seg_data",
    "seg_cellvit": "lemon_sc.train.seg_recipes",
    "seg_histoplus": "lemon_sc.train.seg_recipes",
    "seg_small": "lemon_sc.train.seg_recipes",
    "segmenter": "lemon_sc.train.seg_loop",
}

__all__ = [*_LATER]

__getattr__, __dir__ = lazy(__name__, _LATER)
