"""Morphology on stacks of small masks, 64 px per operation.

A stack of n masks of S x S px (S < 64) is held as uint64 (S, n): one word per row of a mask, bit c = column c. Every
operation treats each mask alone and commutes with flips and 90-degree rotations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_ONE = np.uint64(1)


def pack(mask: NDArray[np.bool_]) -> Words:
    """Bool (n, S, S) to uint64 (S, n).

    Parameters
    ----------
    mask
        Bool (n, S, S), S <= 64.

    Returns
    -------
    One word per row of a mask, uint64 (S, n).
    """
    n, height, width = mask.shape
    padded = np.zeros((n, height, 64), bool)
    padded[..., :width] = mask
    words = np.packbits(padded, axis=2, bitorder="little").view("<u8")[..., 0]
    return np.ascontiguousarray(words.T).astype(np.uint64, copy=False)


def unpack(words: Words) -> NDArray[np.bool_]:
    """uint64 (S, n) to bool (n, S, S).

    Parameters
    ----------
    words
        Bit-packed masks.

    Returns
    -------
    Bool (n, S, S).
    """
    size = len(words)
    octets = np.ascontiguousarray(words.T).astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(octets, axis=1, bitorder="little")
    return bits.reshape(words.shape[1], size, 64)[..., :size].astype(bool)


def _everywhere(size: int) -> np.uint64:
    """A word with the lowest `size` bits set: a full row."""
    return np.uint64((1 << size) - 1)


def invert(words: Words) -> Words:
    """Complement within the S x S px.

    Parameters
    ----------
    words
        Bit-packed masks.

    Returns
    -------
    Bit-packed masks.
    """
    return words ^ _everywhere(len(words))


def euler(words: Words) -> NDArray[np.int64]:
    """Connected parts (by the 4 neighbours) less holes, per mask: (n,).

    Parameters
    ----------
    words
        Bit-packed masks.

    Returns
    -------
    Int64 (n,).
    """
    beside, below = words & (words >> _ONE), words[:-1] & words[1:]
    # vertices less edges plus faces of the pixel graph; per row between -127 and 127
    signed = np.bitwise_count(words).astype(np.int8) - np.bitwise_count(beside).astype(np.int8)
    signed[1:] -= np.bitwise_count(below).astype(np.int8)
    signed[1:] += np.bitwise_count(beside[:-1] & beside[1:]).astype(np.int8)
    return signed.sum(axis=0, dtype=np.int64)


def dilate(words: Words, *, corners: bool = False) -> Words:
    """Grow by one px to the 4 neighbours, or with `corners` to all 8.

    Parameters
    ----------
    words
        Bit-packed masks.
    corners
        Whether diagonal neighbours count.

    Returns
    -------
    Bit-packed masks.
    """
    sideways = (words | (words << _ONE) | (words >> _ONE)) & _everywhere(len(words))
    grown = sideways.copy()
    source = sideways if corners else words
    grown[1:] |= source[:-1]
    grown[:-1] |= source[1:]
    return grown


def erode(words: Words, *, corners: bool = False) -> Words:
    """Shrink by one px from the background; what lies outside the crop does not count as background.

    Parameters
    ----------
    words
        Bit-packed masks.
    corners
        Whether diagonal neighbours count.

    Returns
    -------
    Bit-packed masks.
    """
    return invert(dilate(invert(words), corners=corners))


def grow_within(seed: Words, mask: Words, *, corners: bool = False) -> Words:
    """All of `mask` that is connected to `seed` (geodesic reconstruction).

    Parameters
    ----------
    seed, mask
        Bit-packed masks.
    corners
        Whether diagonal neighbours count.

    Returns
    -------
    Bit-packed masks.
    """
    region = seed & mask
    while True:
        wider = _fill_rows(region, mask)
        for r in range(1, len(wider)):
            wider[r] |= wider[r - 1] & mask[r]
        for r in range(len(wider) - 2, -1, -1):
            wider[r] |= wider[r + 1] & mask[r]
        if corners:
            wider = dilate(wider, corners=True) & mask
        if np.array_equal(wider, region):
            return region
        region = wider


def _fill_rows(region: Words, mask: Words) -> Words:
    """Spread `region` along the runs of `mask` in each row, by doubling steps."""
    # towards high bits a carry runs through the run: it clears what it passes
    filled = region | (mask & ~(mask + region))
    through = mask.copy()
    step = 1
    while step < len(mask):
        by = np.uint64(step)
        filled |= through & (filled >> by)
        through &= through >> by
        step *= 2
    return filled


def fill_holes(words: Words) -> Words:
    """Add background that is not connected (by the 8 neighbours) to the edge of the crop.

    Parameters
    ----------
    words
        Bit-packed masks.

    Returns
    -------
    Bit-packed masks.
    """
    edge = np.zeros_like(words)
    edge[[0, -1]] = _everywhere(len(words))
    edge |= _ONE | np.uint64(1 << (len(words) - 1))
    background = invert(words)
    return invert(grow_within(edge & background, background, corners=True))
