"""Slides that carry their own truth: the colour of a px is the number and the type of its nucleus."""

import numpy as np
from skimage.draw import disk

from lemon_sc.seg.measure import measured
from lemon_sc.seg.postprocess import Nuclei

BACKGROUND = 255


def field(shape=(900, 1100), *, radius=(9, 15), n=400, seed=0, touching=False):
    """Labels of discs all over a field, its border included; disjoint, with a gap of 2 px unless touching."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.int32)
    k = 0
    for _ in range(20 * n):
        r = rng.uniform(*radius)
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        rows, cols = disk((y, x), r + (0 if touching else 2), shape=shape)
        if not len(rows) or labels[rows, cols].any():
            continue
        rows, cols = disk((y, x), r, shape=shape)
        if len(rows) < 60:
            continue
        k += 1
        labels[rows, cols] = k
        if k == n:
            break
    return labels


def coded(labels, *, types=None):
    """RGB: number of the nucleus in red and green, its type in blue; white where there is none."""
    types = np.zeros(labels.max() + 1, dtype=np.int64) if types is None else np.r_[0, types]
    image = np.stack([labels % 256, labels // 256, types[labels]], axis=-1).astype(np.uint8)
    image[labels == 0] = BACKGROUND
    return image


def decoded(tile):
    """Labels and types of the px of a coded tile."""
    there = ~(tile == BACKGROUND).all(axis=-1)
    labels = tile[..., 0].astype(np.int64) + 256 * tile[..., 1].astype(np.int64)
    return np.where(there, labels, 0), np.where(there, tile[..., 2], 0)


class CodeFinder:
    """Reads the truth from the colours; `seen` counts the tiles."""

    name, mpp, least_px, facts = "code", 0.25, 64, {}

    def __init__(self, classes=("nucleus",), mpp=0.25, tamper=None):
        self.classes, self.mpp, self.tamper, self.seen = classes, mpp, tamper, 0

    def look(self, tiles):
        self.seen += len(tiles)
        return [None] * len(tiles)

    def find(self, tile, seen, *, mpp):
        labels, types = decoded(tile)
        if self.tamper is not None:
            labels = self.tamper(labels)
        found = measured(labels)
        if not len(found):
            return found
        kinds = np.array([types[found.labels == k + 1].max() for k in range(len(found))]) if types.any() else found.type
        return Nuclei(
            labels=found.labels,
            xy=found.xy,
            area=found.area,
            box=found.box,
            type=np.asarray(kinds, dtype=np.int64),
            probability=found.probability,
        )


class CodeSegmenter:
    """Has the place of a network: probability, distance maps and types of the truth in the colours."""

    device = "cpu"

    def __init__(self, card):
        self.card = card

    def to(self, device):
        return self

    def maps(self, images):
        from lemon_sc.seg.segmenter import Maps
        from lemon_sc.seg.targets import hv_maps

        both = [decoded(image) for image in images]
        return Maps(
            nuclei=np.stack([(labels > 0).astype(np.float32) for labels, _ in both]),
            hv=np.stack([hv_maps(labels.astype(np.int32)) for labels, _ in both]),
            types=np.stack([types.astype(np.uint8) for _, types in both]) if self.card.classes else None,
        )


STROMA, NUCLEUS = (225, 180, 210), (110, 80, 150)


def stained(labels, *, noise=4, seed=0):
    """Nuclei of haematoxylin in pink stroma."""
    image = np.where((labels > 0)[..., None], np.array(NUCLEUS), np.array(STROMA)).astype(float)
    image += np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
