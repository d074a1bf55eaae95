"""What others reach, as published, to stand beside one's own scores: HistoPLUS, and networks on the open sets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lemon_sc._core.errors import one_of

SPLITS = (
    "cross_validation", "external", "seen", "unseen", "bladder", "mesothelioma", "lung", "colon", "ovary", "breast",
    "nuinsseg", "consep",
)  # fmt: skip
"""Of HistoPLUS: three folds of the training set; the external set; its organs seen in training and not, together and
one by one. Then two open sets."""
_FILE = Path(__file__).with_name("reference.csv")


def segmentation_reference(*, split: str | None = None) -> pd.DataFrame:
    """Published scores of nucleus segmentation and typing.

    Those of HistoPLUS (Adjadj et al. 2025, arXiv:2508.09926) are of other images, and of the authors' own annotations:
    a figure to be near, not to be beaten. Matching is by centroids (``matching="centroid"``), counts are pooled over
    images for F1, PQ is a mean over images. Those of NuInsSeg are of the paper of that set (Mahbod et al., Scientific
    Data 2024), that of CoNSeP of the model card of MONAI's HoVer-Net; ``note`` says what they learned from.

    Parameters
    ----------
    split
        One of `SPLITS`; ``None`` is all.

    Returns
    -------
    One row per ``split``, ``model`` (its encoder, "HistoPLUS" for the released model, or a network), ``metric`` (pq,
    dq, sq, f1) and ``class`` (of f1): ``value``, ``sd`` over folds, ends ``low`` and ``high`` of the published 95 %
    interval, and ``note`` on how to read it. NaN where nothing is published.

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
