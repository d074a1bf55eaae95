"""Where an augmented view looks: boxes drawn per sample, and one resampling through rotation, box and flip."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import grid_sample

TRIES = 10
"""Attempts at a box that fits before giving up, as in torchvision."""


def between(u: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Uniform numbers in [0, 1) stretched to [low, high).

    Parameters
    ----------
    u
        Uniform in [0, 1), of any shape.
    low, high
        Range.

    Returns
    -------
    Of the shape of `u`.
    """
    return low + (high - low) * u


def draw_boxes(
    numbers: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    side: int,
    largest: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes on the pixel grid of a square, by the law of torchvision's RandomResizedCrop and RandomErasing.

    Every sample has `TRIES` attempts at an area and a ratio of sides; the first that fits is placed uniformly.

    Parameters
    ----------
    numbers
        Uniform in [0, 1): for the areas and for the ratios (n, `TRIES`), and for the place (n, 2), down and across.
    side
        Side of the square, px.
    largest
        Longest side that a box may have, px.
    scale
        Range of the area of the box over that of the square, uniform.
    ratio
        Range of width over height, uniform in its logarithm.

    Returns
    -------
    Boxes, float32 (n, 4): top, left, height, width in px, whole numbers; and bool (n,), False where no attempt fitted
    (that box is all 0).
    """
    areas, ratios, places = numbers
    area = between(areas, *scale) * side**2
    shape = between(ratios, math.log(ratio[0]), math.log(ratio[1])).exp()
    height, width = (area / shape).sqrt().round(), (area * shape).sqrt().round()
    fits = (torch.minimum(height, width) >= 1) & (torch.maximum(height, width) <= largest)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    size = torch.cat([height.gather(1, first), width.gather(1, first)], dim=1)
    corner = torch.minimum((places * (side - size + 1)).floor(), side - size)  # the product may round up to its bound
    return torch.cat([corner, size], dim=1) * found[:, None], found


def resample(
    images: torch.Tensor,
    *,
    angle: torch.Tensor,
    box: torch.Tensor,
    flip: torch.Tensor,
    frame_px: int,
    out_px: int,
) -> torch.Tensor:
    """Rotate about the centre, cut the central frame, cut a box out of it, resize it, flip it: in one resampling.

    Bilinear. As in a chain that cuts before it resizes, the edge of a box is repeated where half a pixel beyond it
    would be needed, so that nothing outside the box is seen.

    Parameters
    ----------
    images
        Float (n, channels, S, S).
    angle
        Counter-clockwise, radians, (n,).
    box
        Top, left, height, width in px of the frame, (n, 4).
    flip
        Whether left and right change sides, bool (n,).
    frame_px, out_px
        Side of the frame in px of the image, and of the result.

    Returns
    -------
    Float (n, channels, out_px, out_px).
    """
    top, left, height, width = box[:, :, None].unbind(1)
    step = torch.arange(out_px, device=images.device, dtype=images.dtype) + 0.5
    across = torch.where(flip[:, None], out_px - step, step)

    def in_frame(start: torch.Tensor, length: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        where = start + at * (length / out_px)
        return torch.clamp(where, start + 0.5, start + length - 0.5) - frame_px / 2

    x, y = in_frame(left, width, across)[:, None, :], in_frame(top, height, step)[:, :, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    grid = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1) * (2 / images.shape[-1])
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
