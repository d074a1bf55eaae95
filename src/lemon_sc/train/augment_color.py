"""Colour, blur and erasing for a batch in which every sample has parameters of its own.

Images are float RGB in [0, 1], (n, 3, h, w). The operations have the meaning of torchvision's on float tensors.
"""

from __future__ import annotations

import torch

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in a gray image."""

BLUR_TAPS = 13
"""Width of the blur's kernel in px."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Columns of `factors`, and what the entries of `order` stand for."""


def gray(images: torch.Tensor) -> torch.Tensor:
    """Luma, (n, 1, h, w).

    Parameters
    ----------
    images
        Float (n, 3, h, w).

    Returns
    -------
    Float (n, 1, h, w).
    """
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def shift_hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn the hue of each image, value and HSV saturation kept.

    Parameters
    ----------
    images
        Float (n, 3, h, w).
    turns
        Shift in full turns, (n,).

    Returns
    -------
    Float (n, 3, h, w).
    """
    red, green, blue = images.unbind(1)
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sextant = sextant + 6 * turns[:, None, None]
    channels = []
    for offset in (5, 3, 1):  # a channel falls by the chroma over the sextants that lie opposite to it
        k = (sextant + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def jitter(images: torch.Tensor, factors: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation and hue, in an order of each sample's own, clipped after every step.

    The first three are one operation, a step from a reference through the image: black, the mean of the gray image, or
    the gray image. So a round costs one blend for all samples, whichever of the three is due, and hue for a quarter.

    Parameters
    ----------
    images
        Float (n, 3, h, w).
    factors
        (n, 4): brightness, contrast, saturation (1 changes nothing), and hue in full turns (0 changes nothing).
    order
        Int64 (n, 4): which of the four comes first, second, third, last.

    Returns
    -------
    Float (n, 3, h, w).
    """
    turns = factors[:, HUE]
    for operation in order.unbind(1):
        factor = factors.gather(1, operation[:, None])[:, 0]
        factor = torch.where(operation == HUE, torch.ones_like(factor), factor)
        luma = gray(images)
        kind = operation[:, None, None, None]
        reference = torch.where(kind == CONTRAST, luma.mean((2, 3), keepdim=True), luma)
        reference = torch.where(kind == BRIGHTNESS, torch.zeros_like(reference), reference)
        images = torch.lerp(reference.expand_as(images), images, factor[:, None, None, None]).clamp(0, 1)
        turned = ((operation == HUE) & (turns != 0)).nonzero()[:, 0]
        images[turned] = shift_hue(images[turned], turns[turned])
    return images


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with a standard deviation of each sample's own; borders are mirrored about the outermost pixels.

    Along one axis the blur, its borders included, is a matrix; both axes are then two products.

    Parameters
    ----------
    images
        Float (n, 3, h, h), h > 6.
    sigma
        Standard deviation in px, > 0, (n,).

    Returns
    -------
    Float (n, 3, h, h).
    """
    side, half = images.shape[-1], BLUR_TAPS // 2
    offset = torch.arange(-half, half + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    source = (torch.arange(side, device=images.device)[:, None] + offset).abs()  # mirrored at the first pixel
    source = torch.where(source > side - 1, 2 * (side - 1) - source, source)  # and at the last
    takes = torch.nn.functional.one_hot(source, side).to(images.dtype)  # (out, tap, in)
    along = torch.einsum("nt,otp->nop", kernel.to(images.dtype), takes)[:, None]
    return along @ images @ along.transpose(-1, -2)


def erase(images: torch.Tensor, box: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Lay a rectangle of one colour over each image.

    Parameters
    ----------
    images
        Float (n, 3, h, w).
    box
        Top, left, height, width in px, (n, 4); a box without area erases nothing.
    fill
        Colour, (3,).

    Returns
    -------
    Float (n, 3, h, w).
    """
    top, left, height, width = box[:, :, None].unbind(1)
    row = torch.arange(images.shape[-2], device=images.device)
    column = torch.arange(images.shape[-1], device=images.device)
    rows, columns = (row >= top) & (row < top + height), (column >= left) & (column < left + width)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(inside, fill[None, :, None, None], images)
