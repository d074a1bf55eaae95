"""From a click on a nucleus to its mask, after NuClick (Alemi Koohbanani et al. 2020): the network and its use.

The network sees the patch around a click in five channels: the colours, a map with the click, and a map with the clicks
on other nuclei, which tells it what not to take. How it is trained: `lemon_sc.seg.nuclick_training`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lemon_sc._core.errors import bad_value
from lemon_sc.seg.blocks import ConvBlock, doubling
from lemon_sc.seg.kernels import components

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

WIDTH, DEPTH = 64, 5
SIZE_PX = 128
CHANNELS = 5
"""Red, green, blue, the click, the other clicks."""
MIN_PX, MIN_HOLE_PX = 10, 30
"""Smaller objects, and smaller holes, are mended."""
WHITE = 255
"""What lies beyond the image is glass."""


class NuClick(nn.Module):
    """U-Net from the five channels of a patch to the logit of each pixel: (n, 5, S, S) to (n, S, S).

    Parameters
    ----------
    width
        Channels at full resolution; they double with each of `depth` - 1 steps down: 64 to 1024.
    depth
        Resolutions.
    size_px
        Side S of the patches, divisible by 2 ** (depth - 1).
    """

    def __init__(self, *, width: int = WIDTH, depth: int = DEPTH, size_px: int = SIZE_PX) -> None:
        super().__init__()
        if width < 1 or depth < 1 or size_px < 1 or size_px % 2 ** (depth - 1):
            got = {"width": width, "depth": depth, "size_px": size_px}
            raise bad_value("size_px", must="be a multiple of 2 ** (depth - 1), and all three positive", got=got)
        self.size_px = size_px
        widths = [width << k for k in range(depth)]
        self.down = nn.ModuleList(
            nn.Sequential(ConvBlock(before, w), ConvBlock(w, w))
            for before, w in zip([CHANNELS, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(doubling(2 * w, w) for w in widths[-2::-1])
        self.join = nn.ModuleList(nn.Sequential(ConvBlock(2 * w, w), ConvBlock(w, w)) for w in widths[-2::-1])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 5, S, S) to logits (n, S, S)."""
        skips = []
        for k, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if k else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], dim=1))
        return self.head(x)[:, 0]


def click_patches(
    image: NDArray[np.uint8], xy: ArrayLike, *, size_px: int = SIZE_PX, rows: NDArray[np.intp] | None = None
) -> NDArray[np.float32]:
    """What the network sees of clicks.

    The click lies at pixel (S / 2, S / 2) of its patch; beyond the image the patch is white.

    Parameters
    ----------
    image
        Uint8 (H, W, 3), RGB.
    xy
        (n, 2) clicks in px, within the image; pixel (r, c) spans c to c + 1 and r to r + 1.
    size_px
        Side S of the patches.
    rows
        Which clicks to make patches for; ``None`` is all. All clicks are shown as others.

    Returns
    -------
    Float32 (n, 5, S, S): colours from 0 to 1, 1 at the click, 1 at the other clicks.

    Raises
    ------
    ValueError
        If the image is not uint8 RGB, or a click lies outside.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise bad_value("image", must="be uint8 (H, W, 3)", got=f"{pixels.dtype} {pixels.shape}")
    at = clicked_pixels(xy, pixels.shape[:2])
    half = size_px // 2
    wide = np.pad(pixels, ((half, size_px), (half, size_px), (0, 0)), constant_values=WHITE)
    chosen = np.arange(len(at)) if rows is None else rows
    made = np.zeros((len(chosen), CHANNELS, size_px, size_px), dtype=np.float32)
    for patch, k in zip(made, chosen, strict=True):
        x, y = at[k]
        patch[:3] = wide[y : y + size_px, x : x + size_px].transpose(2, 0, 1) / np.float32(255)
        patch[3, half, half] = 1
        others = np.delete(at, k, axis=0) - (x - half, y - half)
        inside = others[((others >= 0) & (others < size_px)).all(axis=1)]
        patch[4, inside[:, 1], inside[:, 0]] = 1
    return made


def clicked_pixels(xy: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Pixels that were clicked.

    Parameters
    ----------
    xy
        (n, 2) points in px.
    shape
        Height and width of the image.

    Returns
    -------
    (n, 2) column and row.

    Raises
    ------
    ValueError
        If points are not (n, 2), or one lies outside the image.
    """
    points = np.asarray(xy, dtype=np.float64)
    points = points.reshape(0, 2) if not points.size else points
    if points.ndim != 2 or points.shape[1] != 2:
        raise bad_value("xy", must="be (n, 2) points", got=f"shape {points.shape}")
    outside = ~((points >= 0) & (points < (shape[1], shape[0]))).all(axis=1)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise bad_value(
            "xy", must=f"lie within the image of {shape[1]} x {shape[0]} px", got=f"{tuple(points[i])} (row {i})"
        )
    return np.floor(points).astype(np.intp)


@torch.inference_mode()
def click_masks(
    image: NDArray[np.uint8], xy: ArrayLike, *, network: NuClick, threshold: float = 0.5, batch_size: int = 64
) -> NDArray[np.int32]:
    """Masks of clicked nuclei.

    Of a mask, the part that holds the click is kept; where two masks overlap, a pixel goes to the one of higher
    probability. A click whose own pixel is not in its mask gets none: ``set(range(1, n + 1)) - set(labels.flat)``.

    Parameters
    ----------
    image
        Uint8 (H, W, 3), RGB, at the pixel size of the network's training.
    xy
        (n, 2) clicks in px.
    network
        Trained.
    threshold
        Of the probability.
    batch_size
        Patches at a time.

    Returns
    -------
    Int32 (H, W): 0 for background, k + 1 for click k.

    Raises
    ------
    ValueError
        If the image is not uint8 RGB, or a click lies outside.
    """
    network.eval()
    device = next(network.parameters()).device
    height, width = np.asarray(image).shape[:2]
    at = clicked_pixels(xy, (height, width))
    labels = np.zeros((height, width), dtype=np.int32)
    best = np.zeros((height, width), dtype=np.float32)
    size, half = network.size_px, network.size_px // 2
    for start in range(0, len(at), batch_size):
        rows = np.arange(start, min(start + batch_size, len(at)))
        patches = torch.from_numpy(click_patches(image, xy, size_px=size, rows=rows)).to(device)
        probability = network(patches).sigmoid().float().cpu().numpy()
        for k, p in zip(rows, probability, strict=True):
            x0, y0 = at[k] - half
            top, left = max(-y0, 0), max(-x0, 0)
            there = (slice(top, min(size, height - y0)), slice(left, min(size, width - x0)))
            mask = tidied(p >= threshold, click=(half, half))[there]
            area = (slice(y0 + top, y0 + there[0].stop), slice(x0 + left, x0 + there[1].stop))
            wins = mask & (p[there] > best[area])
            labels[area][wins] = k + 1
            best[area][wins] = p[there][wins]
    return labels


def tidied(mask: NDArray[np.bool_], *, click: tuple[int, int]) -> NDArray[np.bool_]:
    """The part of a mask that holds the click, without small holes.

    Parameters
    ----------
    mask
        (S, S).
    click
        Row and column.

    Returns
    -------
    Bool (S, S), empty if the click is in no part of at least `MIN_PX` px.
    """
    objects, _ = components(mask.astype(np.int32), MIN_PX)
    outside, _ = components((objects == 0).astype(np.int32), MIN_HOLE_PX)
    whole, _ = components((outside == 0).astype(np.int32), 1)
    return (whole == whole[click]) & (whole > 0)
