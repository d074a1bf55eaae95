"""From the maps of a network to nuclei: markers where the distance maps do not jump, then a watershed.

The method of HoVer-Net (Graham et al. 2019) as CellViT and HistoPLUS use it. The distance maps run from -1 to 1 across
a nucleus, so between two that touch they fall from 1 to -1: their derivative, taken with a wide Sobel kernel, is lowest
there. Scaled to the range of the tile and turned around, it is a wall between the nuclei.

One thing differs from the published chain: at 0.5 um per px markers are opened with an ellipse of 3 px, not 5. That of
5 px is 2.5 um there, and takes the markers of small nuclei, and so the nuclei.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc.seg.kernels import components, fill_holes, likeliest, measures, separable, votes
from lemon_sc.seg.watershed import watershed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]
    Mask = NDArray[np.bool_]

WALL = 0.4
"""A pixel whose wall is at least this high belongs to no marker."""
MIN_AREA_UM = 2.5
KERNEL_UM = 5.25
"""Smallest nucleus and length of the kernel, 10 and 21 px at 0.25 um per px, 5 and 11 px at 0.5."""
OPENING_PX, COARSE_OPENING_PX = 5, 3
"""Ellipse that markers are opened with, and that from `COARSE_MPP` on."""
COARSE_MPP = 0.4
BACKGROUND = 0
"""Type of what is no nucleus."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the post-processing measures in pixels."""

    min_area_px: int
    """Smaller parts are no nuclei, smaller markers no markers."""
    kernel_px: int
    """Length of the Sobel kernel, odd."""
    opening_px: int
    """Ellipse that markers are opened with: 3 or 5."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Nuclei:
    """The n nuclei of an image or tile, in the order of their labels."""

    labels: NDArray[np.int32]
    """(H, W), 0 for background and 1..n."""
    xy: NDArray[np.float64]
    """(n, 2) centroid in px of this array; pixel (r, c) has its centre at (c + 0.5, r + 0.5)."""
    area: NDArray[np.int64]
    """(n,) px."""
    box: NDArray[np.int64]
    """(n, 4) x0, y0, x1, y1 in px, the last two exclusive."""
    type: NDArray[np.int64]
    """(n,) type, 0 where there is none."""
    probability: NDArray[np.float64]
    """(n,) share of the pixels that vote for the type; without types the mean probability of being nucleus."""

    def __len__(self) -> int:
        return len(self.area)


def sizes(mpp: float) -> Sizes:
    """Pixel sizes of the post-processing at a resolution.

    Parameters
    ----------
    mpp
        Micrometres per px of the maps.

    Returns
    -------
    `Sizes`: 10, 21 and 5 px at 0.25, 5, 11 and 3 px at 0.5.

    Raises
    ------
    ValueError
        If `mpp` is no positive number.
    """
    if not (np.isfinite(mpp) and mpp > 0):
        raise bad_value("mpp", must="be a positive number of micrometres per px", got=mpp)
    half = max(round((KERNEL_UM / mpp - 1) / 2), 1)
    return Sizes(
        min_area_px=max(round(MIN_AREA_UM / mpp), 1),
        kernel_px=2 * half + 1,
        opening_px=OPENING_PX if mpp < COARSE_MPP else COARSE_OPENING_PX,
    )


def nuclei(
    p: NDArray[np.floating],
    hv: NDArray[np.floating],
    types: NDArray[np.generic] | None = None,
    *,
    mpp: float = 0.25,
    threshold: float = 0.5,
    keep_untyped: bool = False,
) -> Nuclei:
    """Nuclei of one tile from the maps of a network.

    The walls are scaled to the range of the tile, so a tile is a unit: its result is not that of its parts.

    Parameters
    ----------
    p
        (H, W) probability of being nucleus.
    hv
        (2, H, W) horizontal and vertical distance maps, x first.
    types
        (C, H, W) probabilities of the types, type 0 being background; or (H, W) integers, the likeliest type of each
        pixel, which is a fifteenth of the bytes to fetch from an accelerator. ``None``: nuclei have no type.
    mpp
        Micrometres per px.
    threshold
        Of `p`.
    keep_untyped
        Keep nuclei all of whose pixels are of type 0. Otherwise a nucleus needs one pixel of another type.

    Returns
    -------
    `Nuclei`.

    Raises
    ------
    ValueError
        If shapes do not fit, or `hv` is not finite.
    """
    p, hv = np.asarray(p, dtype=np.float32), np.asarray(hv, dtype=np.float32)
    _check(p, hv, types)
    px = sizes(mpp)
    labels = _instances(p, hv, px=px, threshold=threshold)
    n = int(labels.max(initial=0))
    total, box = measures(labels, n, p)
    area = total[:, 0]
    if types is None:
        kind, share = np.zeros(n, dtype=np.int64), total[:, 3] / np.maximum(area, 1)
        keep = np.ones(n, dtype=np.bool_)
    else:
        kind, share = _types(labels, n, np.asarray(types))
        keep = np.full(n, keep_untyped) | (kind != BACKGROUND)
    if not keep.all():
        number = np.concatenate([[0], np.where(keep, keep.cumsum(), 0)]).astype(np.int32)
        labels = number[labels]
    return Nuclei(
        labels=labels,
        xy=(total[:, 1:3] / np.maximum(area, 1)[:, None] + 0.5)[keep],
        area=area.astype(np.int64)[keep],
        box=box[keep],
        type=kind[keep],
        probability=share[keep],
    )


def _check(p: Plane, hv: Plane, types: NDArray[np.generic] | None) -> None:
    shape = p.shape
    if p.ndim != 2 or not p.size:
        raise bad_value("p", must="be (H, W)", got=f"shape {shape}")
    if hv.shape != (2, *shape):
        raise bad_value("hv", must=f"be (2, H, W) with H, W = {shape}", got=f"shape {hv.shape}")
    if types is None:
        return
    integer = types.dtype.kind in "iu"
    if types.shape[-2:] != shape or types.ndim != (2 if integer else 3):
        raise bad_value(
            "types",
            must=f"be (C, H, W) probabilities or (H, W) integers with H, W = {shape}",
            got=f"{types.dtype} of shape {types.shape}",
        )
    if integer and types.size and (types.min() < 0 or types.max() > 255):
        raise bad_value("types", must="be from 0 to 255", got=(int(types.min()), int(types.max())))


def _instances(p: Plane, hv: Plane, *, px: Sizes, threshold: float) -> NDArray[np.int32]:
    """(H, W) labels before types are looked at."""
    parts, n = components((p >= threshold).astype(np.int32), px.min_area_px)
    if not n:  # scaling noise to the range of an empty tile would make walls of it
        return parts
    inside = parts > 0
    wall = _wall(hv, px.kernel_px)
    gentle = np.where(inside, 1 - wall, np.float32(0))
    smooth = np.array([0.25, 0.5, 0.25], dtype=np.float32)
    relief = -separable(gentle, smooth, smooth)
    core = (inside & (wall < WALL)).astype(np.uint8)
    fill_holes(core)
    markers, _ = components(_opened(core.astype(np.bool_), px.opening_px).astype(np.int32), px.min_area_px)
    return _consecutive(watershed(relief, np.where(inside, markers, 0), parts=parts))


def _consecutive(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Numbers 1..n without gaps: a marker whose every pixel was a filled hole of the mask leaves one."""
    there = np.bincount(labels.ravel()) > 0
    there[0] = False
    if there[1:].all():
        return labels
    return np.where(there, there.cumsum(), 0).astype(np.int32)[labels]


def _wall(hv: Plane, kernel_px: int) -> Plane:
    """(H, W) from 0 to 1: how steeply either distance map falls along its own axis.

    Scaling the maps themselves first, as the reference does, shifts and stretches the derivative, which is scaled
    again: it changes nothing.
    """
    smooth, slope = _sobel(kernel_px)
    walls = []
    for name, fall in (("x", separable(hv[0], smooth, slope)), ("y", separable(hv[1], slope, smooth))):
        low, high = fall.min(), fall.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise bad_value("hv", must="be finite", got=f"NaN or infinity in the {name} map")
        scale = np.float32(1) / (high - low) if high > low else np.float32(0)
        walls.append(1 - (fall - low) * scale)
    return np.maximum(*walls)


@lru_cache(maxsize=8)
def _sobel(size: int) -> tuple[Plane, Plane]:
    """Smoothing and derivative of the Sobel kernel of an odd length: binomials, as OpenCV has them."""

    def binomial(length: int) -> NDArray[np.float64]:
        row = np.ones(1)
        for _ in range(length - 1):
            row = np.convolve(row, [0.5, 0.5])
        return row

    return binomial(size).astype(np.float32), np.convolve(binomial(size - 1), [-1, 1]).astype(np.float32)


def _opened(mask: Mask, size: int) -> Mask:
    """Opening with an ellipse of 3 or 5 px. The edge does not erode."""
    return ~_eroded(~_eroded(mask, size), size)


def _eroded(mask: Mask, size: int) -> Mask:
    """Erosion with a middle of rows as wide as the ellipse, and one pixel above and below."""
    reach = size // 2
    height, width = mask.shape
    wide = np.pad(mask, reach, constant_values=True)
    rows = np.logical_and.reduce([wide[:, k : k + width] for k in range(size)])
    middle = range(1, size - 1)
    tips = wide[:height, reach : reach + width] & wide[2 * reach :, reach : reach + width]
    return np.logical_and.reduce([rows[k : k + height] for k in middle]) & tips


def _types(
    labels: NDArray[np.int32], n: int, types: NDArray[np.generic]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Type of most pixels, the runner-up where that is background; and its share of the pixels."""
    if types.ndim == 3:
        best, n_types = likeliest(labels, types.astype(np.float32, copy=False)), len(types)
    else:
        best, n_types = types.astype(np.uint8, copy=False), int(types.max(initial=0)) + 1
    count = votes(labels, n, best, max(n_types, 2))
    typed = count[:, 1:]
    kind = np.where(typed.max(axis=1, initial=0) > 0, typed.argmax(axis=1) + 1, BACKGROUND)
    return kind, count[np.arange(n), kind] / np.maximum(count.sum(axis=1), 1)
