"""What may happen to a tile with its instance map: CellViT's list, less superpixels and zoom blur.

Images are resampled linearly, instance maps by the nearest px, together; targets are made from the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import map_coordinates, zoom

from lemon_sc.train.augment_color import BLUR_TAPS, blur, jitter

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHITE = 255
SMALLEST_BLUR = BLUR_TAPS // 2 + 1


@dataclass(frozen=True, kw_only=True)
class SegAugmentation:
    """Probabilities, and how strong each change is."""

    turn: float = 0.5
    """Of a turn by 90, 180 or 270 degrees."""
    flip: float = 0.5
    """Of a flip, for each axis."""
    crop: float = 0.1
    """Of a part of the tile, enlarged to its side."""
    crop_scale: float = 0.5
    """Least side of that part over that of the tile."""
    elastic: float = 0.2
    """Of an elastic warp."""
    elastic_px: float = 4.0
    """Standard deviation of its displacements, px, at points 32 px apart."""
    downscale: float = 0.15
    """Of half the resolution."""
    blur: float = 0.2
    """Of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.5, 2.0)
    """Range of its standard deviation, px."""
    noise: float = 0.25
    """Of Gaussian noise."""
    noise_variance: float = 50.0
    """Its variance, of values to 255."""
    jitter: float = 0.2
    """Of changes of brightness, contrast, saturation and hue."""
    brightness: float = 0.25
    """Largest change of the brightness, as a share; of the contrast, too."""
    saturation: float = 0.1
    """Largest change of the saturation, as a share."""
    hue: float = 0.05
    """Largest shift of the hue, in turns."""


NONE = SegAugmentation(turn=0, flip=0, crop=0, elastic=0, downscale=0, blur=0, noise=0, jitter=0)
AUGMENTATIONS: dict[str, SegAugmentation] = {
    "none": NONE,
    "cellvit": SegAugmentation(),
    "strong": SegAugmentation(crop=0.4, jitter=0.8, saturation=0.3, brightness=0.3, hue=0.08),
}
"""Policies by name. ``"strong"`` is for few laboratories: more colours, more sizes."""


def cut_tile(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32], *, side: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A tile from a random place; images that are too small are continued in white, without nuclei.

    Parameters
    ----------
    pixels, labels
        uint8 (H, W, 3) and int32 (H, W).
    side
        Of the tile, px.
    rng
        Decides the place.

    Returns
    -------
    uint8 (side, side, 3) and int32 (side, side).
    """
    below, right = (max(side - n, 0) for n in labels.shape)
    if below or right:
        pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), constant_values=WHITE)
        labels = np.pad(labels, ((0, below), (0, right)))
    top, left = (int(rng.integers(n - side + 1)) for n in labels.shape)
    here = slice(top, top + side), slice(left, left + side)
    return pixels[here], labels[here]


def augment_tile(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32], policy: SegAugmentation, *, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Change a tile and its instance map at random.

    Parameters
    ----------
    pixels, labels
        uint8 (S, S, 3) and int32 (S, S).
    policy
        What may happen.
    rng
        Decides all of it.

    Returns
    -------
    The same, changed.
    """
    pixels, labels = _warped(pixels, labels, policy, rng)
    turns = int(rng.integers(1, 4)) if rng.random() < policy.turn else 0
    pixels, labels = np.rot90(pixels, turns), np.rot90(labels, turns)
    for axis in (0, 1):
        if rng.random() < policy.flip:
            pixels, labels = np.flip(pixels, axis), np.flip(labels, axis)
    return _recoloured(np.ascontiguousarray(pixels), policy, rng), np.ascontiguousarray(labels)


def _warped(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32], policy: SegAugmentation, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Crop and elastic warp, as one resampling."""
    crops, bends = rng.random() < policy.crop, rng.random() < policy.elastic
    if not (crops or bends):
        return pixels, labels
    side = labels.shape[0]
    part = side * rng.uniform(policy.crop_scale, 1) if crops else float(side)
    start = rng.uniform(0, side - part, size=2)
    at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).astype(np.float64)
    at = (at + 0.5) * part / side - 0.5 + start[:, None, None]
    if bends:
        points = max(side // 32, 2) + 1
        for axis in (0, 1):
            push = rng.normal(scale=policy.elastic_px, size=(points, points))
            at[axis] += zoom(push, side / points, order=3, grid_mode=True, mode="nearest")[:side, :side]
    image = np.stack(
        [map_coordinates(pixels[..., c].astype(np.float32), at, order=1, mode="reflect") for c in range(3)], axis=-1
    )
    moved = map_coordinates(labels, at, order=0, mode="reflect")
    return (image + 0.5).clip(0, 255).astype(np.uint8), moved


def _recoloured(pixels: NDArray[np.uint8], policy: SegAugmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Resolution, blur, noise and colour."""
    due = rng.random(4) < (policy.downscale, policy.blur, policy.noise, policy.jitter)
    if not due.any():
        return pixels
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    side = x.shape[-1]
    if due[0] and side % 2 == 0:
        x = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    if due[1] and side >= SMALLEST_BLUR:
        x = blur(x, torch.tensor([rng.uniform(*policy.blur_sigma)], dtype=torch.float32))
    if due[3]:
        spread = np.array([policy.brightness, policy.brightness, policy.saturation, policy.hue])
        factors = np.array([1, 1, 1, 0]) + rng.uniform(-spread, spread)
        order = torch.from_numpy(rng.permutation(4)[None])
        x = jitter(x, torch.from_numpy(factors[None]).float(), order)
    if due[2]:
        noise = rng.normal(scale=policy.noise_variance**0.5 / 255, size=x.shape)
        x = x + torch.from_numpy(noise).float()
    return (x[0].permute(1, 2, 0) * 255 + 0.5).clamp(0, 255).to(torch.uint8).numpy()
