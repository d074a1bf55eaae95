"""How well a network segments images that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.metrics import panoptic_quality
from lemon_sc.seg.postprocess import nuclei
from lemon_sc.seg.segmenter import Segmenter

if TYPE_CHECKING:
    from lemon_sc.seg.card import SegCard
    from lemon_sc.seg.network import CellViT
    from lemon_sc.train.seg_data import NucleiSet

QUALITIES = ("pq", "dq", "sq")
"""Columns of the log."""


def validate(network: CellViT, card: SegCard, data: NucleiSet, *, most: int) -> dict[str, float]:
    """Mean panoptic, detection and segmentation quality over images, nuclei as one class.

    Parameters
    ----------
    network
        Put into eval mode, and left in it.
    card
        Its card.
    data
        Images with masks.
    most
        How many of them are looked at, evenly spread.

    Returns
    -------
    ``pq``, ``dq`` and ``sq``; images without nuclei, in which none were found, are left out.
    """
    segmenter = Segmenter(card=card, network=network.eval())
    rows = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int))
    found = []
    for row in rows:
        pixels, truth = data.read(int(row))
        maps = segmenter.maps(pixels[None])
        labels = nuclei(maps.nuclei[0], maps.hv[0], mpp=card.mpp).labels
        if truth.any() or labels.any():
            quality = panoptic_quality(truth, labels)
            found.append([quality.pq, quality.dq, quality.sq])
    means = np.mean(found, axis=0).tolist() if found else [float("nan")] * 3
    return dict(zip(QUALITIES, means, strict=True))
