"""Sums over the pixels of masks: moments of what they cover, area, perimeter, hull. Kernels on stacks of crops.

Shapes: n crops, S px per side. Images and masks are (n, S, S), results (n,). Lengths are in px.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

DIRECTIONS = 64
"""In which a hull is measured."""
TINY = 1e-6


def area_px(mask: Mask) -> NDArray[np.int64]:
    """Pixels of each mask.

    Parameters
    ----------
    mask
        Bool (n, S, S), or of any sides.

    Returns
    -------
    Int64 (n,).
    """
    # float32 counts to 2^24 exactly, and adds faster than bool does
    return mask.reshape(len(mask), -1).astype(np.float32).sum(axis=1).astype(np.int64)


def _dot(a: Image, b: Image) -> NDArray[np.float64]:
    """Sum over the pixels of a product."""
    return np.einsum("np,np->n", a.reshape(len(a), -1), b.reshape(len(b), -1)).astype(np.float64)


def masked_mean(image: Image, mask: Mask) -> NDArray[np.float64]:
    """Mean over the pixels of the mask; 0 where it is empty.

    Parameters
    ----------
    image
        Float32 (n, S, S).
    mask
        Bool (n, S, S).

    Returns
    -------
    Float64 (n,).
    """
    return _dot(image, mask.astype(np.float32)) / np.maximum(area_px(mask), 1)


def masked_moments(image: Image, mask: Mask) -> tuple[NDArray[np.float64], ...]:
    """Mean, standard deviation, skewness and excess kurtosis over the mask; 0 where it is empty or flat.

    Parameters
    ----------
    image
        Float32 (n, S, S).
    mask
        Bool (n, S, S).

    Returns
    -------
    Float64 (n,) each.
    """
    count = np.maximum(area_px(mask), 1)
    mean = masked_mean(image, mask)
    centred = (image - mean[:, None, None].astype(np.float32)) * mask
    square = centred * centred
    m2, m3, m4 = (_dot(x, y) / count for x, y in ((centred, centred), (square, centred), (square, square)))
    flat = m2 < TINY
    safe = np.where(flat, 1, m2)
    return mean, np.sqrt(m2), np.where(flat, 0, m3 / safe**1.5), np.where(flat, 0, m4 / safe**2 - 3)


def masked_quantiles(image: Image, mask: Mask, levels: tuple[float, ...]) -> list[NDArray[np.float32]]:
    """Lower quantiles (the value at rank ``floor(level * (count - 1))``) over a mask that is not empty.

    Parameters
    ----------
    image
        Float32 (n, S, S).
    mask
        Bool (n, S, S).
    levels
        Quantile levels in [0, 1].

    Returns
    -------
    Float32 (n,) for each of `levels`.
    """
    n = len(image)
    ordered = np.sort(np.where(mask, image, np.float32(np.inf)).reshape(n, -1), axis=1)
    last = area_px(mask) - 1
    return [ordered[np.arange(n), (level * last).astype(np.int64)] for level in levels]


def perimeter_px(mask: Mask) -> NDArray[np.float64]:
    """Perimeter by Crofton's formula with lines in four directions, in px.

    Parameters
    ----------
    mask
        Bool (n, S, S).

    Returns
    -------
    Float64 (n,).
    """
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, 1:] != padded[:, :-1]
    columns = padded[:, :, 1:] != padded[:, :, :-1]
    falling = padded[:, 1:, 1:] != padded[:, :-1, :-1]
    rising = padded[:, 1:, :-1] != padded[:, :-1, 1:]
    straight, oblique = (area_px(a) + area_px(b) for a, b in ((rows, columns), (falling, rising)))
    return np.pi / 8 * (straight + oblique / np.sqrt(2))


def edge_px(mask: Mask) -> NDArray[np.int64]:
    """Length of the outline along the edge of the crop, in px.

    Parameters
    ----------
    mask
        Bool (n, S, S).

    Returns
    -------
    Int64 (n,).
    """
    return mask[:, 0].sum(axis=1) + mask[:, -1].sum(axis=1) + mask[:, :, 0].sum(axis=1) + mask[:, :, -1].sum(axis=1)


def pixel_sums(mask: Mask) -> NDArray[np.float64]:
    """Sums over the pixels of 1, x, y, xx, yy, xy, with (x, y) from the crop centre in px: (6, n).

    Parameters
    ----------
    mask
        Bool (n, S, S).

    Returns
    -------
    Float64 (6, n), exact.
    """
    n, size, _ = mask.shape
    at = 2 * np.arange(size) - (size - 1)  # doubled, so that all sums are integers that float32 holds exactly
    x, y = (v.ravel() for v in np.meshgrid(at, at))
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1).astype(np.float32)
    sums = mask.reshape(n, -1).astype(np.float32) @ terms
    return sums.T.astype(np.float64) / np.array([1, 2, 2, 4, 4, 4])[:, None]


def ellipse(mask: Mask) -> tuple[NDArray[np.float64], ...]:
    """Centroid (x, y) from the crop centre and the covariance (xx, yy, xy) of the pixel squares, in px.

    Parameters
    ----------
    mask
        Bool (n, S, S).

    Returns
    -------
    Float64 (n,) each: x, y, xx, yy, xy.
    """
    area, *sums = pixel_sums(mask)
    x, y, xx, yy, xy = (s / np.maximum(area, 1) for s in sums)
    return x, y, xx - x**2 + 1 / 12, yy - y**2 + 1 / 12, xy - x * y


def convex_hull(mask: Mask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area of the convex hull and its width in `DIRECTIONS` / 2 directions (n, 32), in px.

    The hull is spanned by the corners of the pixel squares that lie farthest in `DIRECTIONS` directions.

    Parameters
    ----------
    mask
        Bool (n, S, S).

    Returns
    -------
    Float64: area (n,) in squared px, and widths (n, 32).
    """
    n, size, _ = mask.shape
    has = mask.any(axis=2)
    first, last = mask.argmax(axis=2), size - mask[:, :, ::-1].argmax(axis=2)
    x = np.stack([first, last, first, last], axis=1).reshape(n, -1) - size / 2
    top = np.broadcast_to(np.arange(size), (n, size))
    y = np.stack([top, top, top + 1, top + 1], axis=1).reshape(n, -1) - size / 2
    usable = np.tile(has, (1, 4))
    far_x, far_y, far = (np.empty((n, DIRECTIONS)) for _ in range(3))
    for k in range(DIRECTIONS):
        angle = 2 * np.pi * (k + 0.5) / DIRECTIONS
        reach = np.where(usable, x * np.cos(angle) + y * np.sin(angle), -np.inf)
        best = reach.argmax(axis=1)
        far_x[:, k], far_y[:, k] = x[np.arange(n), best], y[np.arange(n), best]
        far[:, k] = reach[np.arange(n), best]
    area = (far_x * np.roll(far_y, -1, axis=1) - np.roll(far_x, -1, axis=1) * far_y).sum(axis=1) / 2
    return area, far[:, : DIRECTIONS // 2] + far[:, DIRECTIONS // 2 :]
