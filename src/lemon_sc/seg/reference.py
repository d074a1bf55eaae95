"""What HistoPLUS and its comparison models reach, as published, to stand beside one's own scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lemon_sc._core.errors import one_of

SPLITS = (
    "cross_validation", "external", "seen", "unseen", "bladder", "mesothelioma", "lung", "colon", "ovary", "breast"
)  # fmt: skip
"""Three folds of the training set; the external set; its organs seen in training and not, together and one by one."""
_FILE = Path(__file__).with_name("reference.csv")


def segmentation_reference(*, split: str | None = None) -> pd.DataFrame:
    """Published scores of nucleus segmentation and typing.

    Scores of other images, and of the authors' own annotations: a figure to be near, not to be beaten. Matching is by
    centroids (``matching="centroid"``), counts are pooled over images for F1, PQ is a mean over images.

    Parameters
    ----------
    split
        One of `SPLITS`; ``None`` is all.

    Returns
    -------
    One row per ``split``, ``model`` (its encoder, or "HistoPLUS" for the released model), ``metric`` (pq, dq, sq, f1)
    and ``class`` (of f1): ``value``, ``sd`` over folds, ends ``low`` and ``high`` of the published 95 % interval, and
    ``note`` where the published numbers contradict each other. NaN where nothing is published.

    Raises
    ------
    ValueError
        If there is no such split.
    """
    table = pd.read_csv(_FILE, keep_default_na=False, dtype=str)
    for name in ("value", "sd", "low", "high"):
        table[name] = pd.to_numeric(table[name])
    if split is None:
        return table
    return table[table["split"] == one_of("split", split, SPLITS)].reset_index(drop=True)
