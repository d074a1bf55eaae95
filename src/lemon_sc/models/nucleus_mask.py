"""Where the central nucleus of an H&E crop is: found in the crop itself.

Integer arithmetic throughout, so that a mask depends on its crop alone and turns with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc.models import bitmask
from lemon_sc.models.nucleus_pixels import edge_px, masked_mean, perimeter_px, pixel_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNIT = 1000
"""Optical density is held in integer thousandths."""

_H = (0.65, 0.70, 0.29)
_E = (0.07, 0.99, 0.11)


def _unmixing() -> NDArray[np.float64]:
    """Rows turn (R, G, B) optical density into haematoxylin and eosin (Ruifrok and Johnston 2001)."""
    h, e = (np.array(v) / np.linalg.norm(v) for v in (_H, _E))
    return np.linalg.inv(np.array([h, e, np.cross(h, e)])).T[:2]


def optical_density(crops: NDArray[np.uint8]) -> NDArray[np.int32]:
    """``-log10((I + 1) / 256)`` in thousandths, int32, same shape.

    Parameters
    ----------
    crops
        Uint8, of any shape.

    Returns
    -------
    Int32, of the same shape.
    """
    table = np.round(-np.log10((np.arange(256) + 1) / 256) * UNIT).astype(np.int32)
    return table[crops]


def stains(od: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Haematoxylin and eosin, in thousandths of optical density, from (n, S, S, 3) to (n, S, S) each.

    Parameters
    ----------
    od
        Thousandths of optical density of R, G, B.

    Returns
    -------
    Int32 (n, S, S) each.
    """
    unmix = np.round(_unmixing() * 2**14).astype(np.int32)
    h, e = ((od[..., 0] * row[0] + od[..., 1] * row[1] + od[..., 2] * row[2]) >> 14 for row in unmix)
    return h, e


def smooth(image: NDArray[np.int32], *, spacing: int = 1) -> NDArray[np.int32]:
    """Binomial filter [1 4 6 4 1] / 16 per axis with taps `spacing` px apart, edges repeated; exact in int32.

    Parameters
    ----------
    image
        Int32 (n, S, S).
    spacing
        Distance of the taps in px.

    Returns
    -------
    Int32 (n, S, S).
    """
    reach = 2 * spacing
    rows = np.pad(image, ((0, 0), (reach, reach), (0, 0)), mode="edge")
    a, b, c, d, e = (rows[:, k * spacing : k * spacing + image.shape[1]] for k in range(5))
    half = 6 * c + 4 * (b + d) + (a + e)
    columns = np.pad(half, ((0, 0), (0, 0), (reach, reach)), mode="edge")
    a, b, c, d, e = (columns[:, :, k * spacing : k * spacing + image.shape[2]] for k in range(5))
    return (6 * c + 4 * (b + d) + (a + e) + 128) >> 8


BINS = 64
BIN_WIDTH = 20
"""Histogram of haematoxylin for the threshold: 0 to 1.28."""


def histogram(image: NDArray[np.int32]) -> NDArray[np.int64]:
    """Pixels per bin of `BIN_WIDTH`, (n, `BINS`); what lies outside goes to the first and last bin.

    Parameters
    ----------
    image
        Int32 (n, S, S).

    Returns
    -------
    Int64 (n, `BINS`).
    """
    n = len(image)
    bins = np.clip(image // BIN_WIDTH, 0, BINS - 1).reshape(n, -1)
    index = bins + (np.arange(n) * BINS)[:, None]
    return np.bincount(index.ravel(), minlength=n * BINS).reshape(n, BINS)


def otsu(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """First bin of the upper of the two classes that Otsu's method (1979) separates, per histogram: (n,).

    Parameters
    ----------
    counts
        Histograms, (n, `BINS`).

    Returns
    -------
    Int64 (n,).
    """
    below = counts.cumsum(axis=1)
    moment = (counts * np.arange(BINS)).cumsum(axis=1)
    count, total = below[:, -1:], moment[:, -1:]
    parts = below * (count - below)
    # the between-class variance up to a constant; float64 holds these integers exactly
    gap = (total * below - moment * count).astype(np.float64)
    between = np.divide(gap**2, parts, out=np.zeros_like(gap), where=parts > 0)
    return between.argmax(axis=1) + 1


def _thresholds(level: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """Cuts to try: around Otsu's, and Otsu's of what lies below it, where the nucleus is the pale one of two: (n,)."""
    counts = histogram(level)
    first = otsu(counts)
    pale = otsu(np.where(np.arange(BINS) < first[:, None], counts, 0))
    cuts = [first * (BIN_WIDTH * part) for part in LEVELS] + [pale * BIN_WIDTH]
    return [np.maximum(cut, FLOOR).astype(np.int64) for cut in cuts]


@dataclass(frozen=True, kw_only=True)
class NucleusMasks:
    """Masks of n crops, each bool (n, S, S).

    Attributes
    ----------
    nucleus
        The central nucleus; a disc in the centre where none was found.
    nuclear
        All haematoxylin-rich pixels, other nuclei included.
    found
        Whether a nucleus was found: (n,).
    """

    nucleus: NDArray[np.bool_]
    nuclear: NDArray[np.bool_]
    found: NDArray[np.bool_]


FLOOR = 60
"""Haematoxylin below this (0.06 OD) is never nucleus."""
LEVELS = (0.7, 0.85, 1.0, 1.15, 1.3)
"""Thresholds that are tried, as parts of Otsu's."""
MIN_AREA_PX = 60
"""3.75 um2: smaller spots are not nuclei."""
MIN_CONTRAST = 30
"""A nucleus is darker in haematoxylin than its surroundings by at least 0.03 OD."""
OFFSET_SCALE_PX = 5.0
"""How far a nucleus may lie off the centre: a centroid at 1.25 um costs a factor e."""
MAX_OFFSET_PX = 8.0
"""A nucleus whose nearest pixel is farther than 2 um from the centre is a neighbour."""
FALLBACK_RADIUS_PX = 10.0
"""Disc measured where there is no nucleus: 2.5 um."""


def squared_radius(size: int) -> NDArray[np.int32]:
    """Four times the squared distance of each pixel centre from the crop centre, an exact integer: (S, S).

    Parameters
    ----------
    size
        S, px.

    Returns
    -------
    Int32 (S, S).
    """
    at = 2 * np.arange(size, dtype=np.int32) - (size - 1)
    return at[:, None] ** 2 + at[None, :] ** 2


def find_nucleus(haematoxylin: NDArray[np.int32]) -> NucleusMasks:
    """Find the central nucleus of each crop.

    The smoothed haematoxylin is cut at several thresholds around Otsu's: one threshold fails on pale, vesicular nuclei
    beside dark ones. Each cut is cleaned and split at necks, and its part nearest to the centre is a candidate. The
    nucleus is the candidate with the best product of contrast across the outline, roundness, diameter, part of the
    outline inside the crop, and closeness of the centroid to the centre.

    Parameters
    ----------
    haematoxylin
        Thousandths of optical density, (n, S, S), S < 64.

    Returns
    -------
    The masks, and in which crops a nucleus was found.
    """
    n, size, _ = haematoxylin.shape
    level = smooth(haematoxylin)
    cuts = [level >= cut[:, None, None] for cut in _thresholds(level)]
    words = bitmask.pack(np.concatenate(cuts))
    regions = _tidied(central_part(_opened(bitmask.fill_holes(words))))
    candidates = bitmask.unpack(regions).reshape(len(cuts), n, size, size)
    as_float = level.astype(np.float32)  # sums of these integers are exact
    scores = np.stack([_score(as_float, mask) for mask in candidates])
    best = scores.argmax(axis=0)
    nucleus, found = candidates[best, np.arange(n)], scores.max(axis=0) > 0
    disc = squared_radius(size) <= 4 * FALLBACK_RADIUS_PX**2
    return NucleusMasks(
        nucleus=np.where(found[:, None, None], nucleus, disc),
        nuclear=np.stack(cuts)[best, np.arange(n)],
        found=found,
    )


def _score(level: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much each candidate looks like the central nucleus; 0 for what is none: (n,)."""
    words = bitmask.pack(mask)
    next_to = bitmask.dilate(words)
    inside = bitmask.unpack(words & ~bitmask.erode(bitmask.erode(words)))
    outside = bitmask.unpack(bitmask.dilate(bitmask.dilate(next_to), corners=True) & ~next_to)
    contrast = masked_mean(level, inside) - masked_mean(level, outside)
    area, x, y, *_ = pixel_sums(mask)
    offset2 = (x**2 + y**2) / np.maximum(area, 1) ** 2
    perimeter = np.maximum(perimeter_px(mask), 1)
    roundness = np.minimum(4 * np.pi * area / perimeter**2, 1)
    seen = 1 - np.minimum(edge_px(mask) / perimeter, 1)
    central = bitmask.pack((squared_radius(len(words)) <= 4 * MAX_OFFSET_PX**2)[None])
    is_near = (words & central).any(axis=0)
    is_nucleus = is_near & (area >= MIN_AREA_PX) & (contrast >= MIN_CONTRAST)
    return is_nucleus * contrast * seen * roundness * np.sqrt(area) * np.exp(-offset2 / OFFSET_SCALE_PX**2)


def _opened(words: bitmask.Words) -> bitmask.Words:
    """Without spots and spurs thinner than 3 px."""
    return bitmask.dilate(bitmask.erode(words))


def _tidied(words: bitmask.Words) -> bitmask.Words:
    """Dents and spurs narrower than about 5 px smoothed, one connected part without holes."""
    region = _nearest_part(_octagon_open(words))
    has_holes = bitmask.euler(region) < 1
    region[:, has_holes] = bitmask.fill_holes(region[:, has_holes])
    return region


def _octagon_open(words: bitmask.Words) -> bitmask.Words:
    """Opening with an octagon of radius 2; what it would erase altogether is kept as it is."""
    small = bitmask.erode(bitmask.erode(words), corners=True)
    wide = bitmask.dilate(bitmask.dilate(small, corners=True))
    return np.where((wide != 0).any(axis=0), wide, words)


def _nearest_part(words: bitmask.Words) -> bitmask.Words:
    """Of masks without holes, the connected part nearest to the crop centre (all, where they are equally near)."""
    several = bitmask.euler(words) > 1
    part = words.copy()
    some = np.ascontiguousarray(words[:, several])
    part[:, several] = bitmask.grow_within(_nearest_pixels(some), some)
    return part


def _nearest_pixels(words: bitmask.Words) -> bitmask.Words:
    mask = bitmask.unpack(words)
    r2 = np.where(mask, squared_radius(len(words)), np.iinfo(np.int32).max)
    return bitmask.pack(mask & (r2 == r2.min(axis=(1, 2), keepdims=True)))


MAX_NECK = 8
"""Erosions after which a neck is no neck: parts that hang together over 4 um are one nucleus."""
PROOF = 1
"""Both sides of a neck must outlive it by this many erosions to be nuclei of their own."""


def central_part(words: bitmask.Words) -> bitmask.Words:
    """The nucleus nearest to the centre, cut off from nuclei that touch it; of masks without holes.

    A watershed on the distance to the background, in steps: erode until a neck breaks, go on with the part nearest to
    the centre, then grow both sides back at equal speed.

    Parameters
    ----------
    words
        Bit-packed masks.

    Returns
    -------
    Bit-packed masks.
    """
    level = _nearest_part(words)
    masks, others = [level], [np.zeros_like(level)]
    for step in range(1, MAX_NECK + 1):
        smaller = bitmask.erode(level, corners=step % 2 == 0)
        inner = _nearest_part(smaller)
        outer = smaller & ~inner
        is_split = _outlives(inner, step) & _outlives(outer, step)
        level = np.where(is_split, inner, smaller)
        masks.append(smaller)
        others.append(np.where(is_split, outer, np.uint64(0)))
    return _grown_back(masks, others)


def _outlives(words: bitmask.Words, step: int) -> NDArray[np.bool_]:
    """Whether a part survives `PROOF` more erosions: (n,)."""
    for k in range(step + 1, step + 1 + PROOF):
        words = bitmask.erode(words, corners=k % 2 == 0)
    return (words != 0).any(axis=0)


def _grown_back(masks: list[bitmask.Words], others: list[bitmask.Words]) -> bitmask.Words:
    """Undo the erosions level by level; a pixel goes to the side that reaches it first, in a tie to the centre."""
    own = np.zeros_like(masks[0])
    other = np.zeros_like(masks[0])
    for mask, parts in zip(reversed(masks), reversed(others), strict=True):
        other |= parts
        alone = ~(own.any(axis=0))
        own |= np.where(alone, mask & ~other, np.uint64(0))
        for _ in range(3):
            wider = own | (bitmask.dilate(own) & mask & ~other)
            other |= bitmask.dilate(other) & mask & ~wider
            own = wider
    return own
