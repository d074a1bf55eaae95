"""Fields of nuclei with known outlines, and the maps that a perfect network would draw of them."""

import numpy as np


def ellipses(shape, centres, radii, angles):
    """Labels of ellipses in px; where two overlap, a pixel is of the one that it lies deeper in."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    depth, labels = np.ones(shape), np.zeros(shape, np.int32)
    for k, ((x, y), (a, b), t) in enumerate(zip(centres, radii, angles, strict=True), start=1):
        u = (columns - x) * np.cos(t) + (rows - y) * np.sin(t)
        v = (rows - y) * np.cos(t) - (columns - x) * np.sin(t)
        r = (u / a) ** 2 + (v / b) ** 2
        mine = r < depth
        labels[mine], depth[mine] = k, r[mine]
    return labels


def field(*, size=256, pitch=40, radius=12.0, overlap=False, seed=0):
    """Labels on a jittered grid: apart, or as pairs that touch along a chord."""
    rng = np.random.default_rng(seed)
    at = np.arange(pitch / 2, size, pitch)
    centres = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2) + rng.uniform(-3, 3, (len(at) ** 2, 2))
    radii = radius * rng.uniform(0.8, 1.1, (len(centres), 2))
    angles = rng.uniform(0, np.pi, len(centres))
    if overlap:
        way = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius * 0.8
        centres = np.concatenate([centres - way, centres + way])
        radii, angles = np.tile(radii, (2, 1)) * 0.9, np.tile(angles, 2)
    return ellipses((size, size), centres, radii, angles)


def perfect_maps(labels):
    """Probability and (x, y) distance maps: signed offsets from the centre, each side scaled to 1."""
    hv = np.zeros((2, *labels.shape), np.float32)
    for k in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == k)
        for channel, at in ((0, columns), (1, rows)):
            offset = (at - round(at.mean())).astype(float)
            low, high = -min(offset.min(), 0), max(offset.max(), 0)
            hv[channel, rows, columns] = np.where(offset < 0, offset / max(low, 1), offset / max(high, 1))
    return (labels > 0).astype(np.float32), hv


def brute_quality(truth, prediction):
    """PQ, DQ, SQ by comparing every pair of masks."""
    masks = [[image == k for k in np.unique(image) if k] for image in (truth, prediction)]
    ious = [[(a & b).sum() / (a | b).sum() for b in masks[1]] for a in masks[0]]
    hits = [iou for row in ious for iou in row if iou > 0.5]
    dq = len(hits) / ((len(masks[0]) + len(masks[1])) / 2)
    sq = float(np.mean(hits)) if hits else 0.0
    return dq * sq, dq, sq
