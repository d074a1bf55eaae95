"""Training of the click network on images whose nuclei have masks: clicks are drawn as a person might set them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects
from torch.nn import functional

from lemon_sc._core.errors import bad_value
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc.geometry.labels import as_labels
from lemon_sc.seg.losses import dice
from lemon_sc.seg.nuclick import SIZE_PX, WIDTH, NuClick, click_patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Labels = NDArray[np.integer]

JITTER_PX = 3
"""How far the clicks on other nuclei are moved."""
MAX_DROPPED = 0.5
"""Largest part of them that is left out."""
MAX_WEIGHT = 10.0
"""Largest weight of a pixel of the nucleus in the cross-entropy, against 1 of the background."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Scene:
    """An image with its nuclei."""

    image: NDArray[np.uint8]
    labels: Labels
    ids: list[int]
    """Labels that are there."""
    boxes: list[tuple[slice, slice]]
    """Where each is."""


def train_nuclick(
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[Labels],
    *,
    width: int = WIDTH,
    size_px: int = SIZE_PX,
    steps: int = 40_000,
    batch_size: int = 64,
    lr: float = 1e-3,
    device: str = "cpu",
    rng: RNG = 0,
) -> NuClick:
    """Train a click network.

    Each step draws nuclei evenly, a click on each, clicks on some of their neighbours, and one of the eight flips and
    turns. The published training saw 46,000 patches 60 times, in batches of 64: 43,000 steps.

    Parameters
    ----------
    images
        Uint8 (H, W, 3), RGB, all at the same pixel size.
    labels
        (H, W) nuclei of each image, 0 for background.
    width
        Channels of the network at full resolution.
    size_px
        Side of the patches.
    steps
        Number of steps.
    batch_size
        Patches per step.
    lr
        Learning rate of Adam.
    device
        Where to train.
    rng
        Seed or generator.

    Returns
    -------
    The network, ready for `click_masks`.

    Raises
    ------
    ValueError
        If images and labels do not fit, or hold no nucleus.
    """
    generator = as_generator(rng)
    scenes = _scenes(images, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        network = NuClick(width=width, size_px=size_px).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    network.train()
    for _ in range(steps):
        inputs, target = _batch(scenes, batch_size, size_px=size_px, rng=generator)
        loss = nuclick_loss(network(torch.from_numpy(inputs).to(device)), torch.from_numpy(target).to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return network.eval()


def nuclick_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy plus Dice.

    The pixels of the nucleus together weigh as much as those of the background, up to a weight of `MAX_WEIGHT` each.

    Parameters
    ----------
    logits
        (n, S, S).
    target
        Bool or 0 and 1, (n, S, S).

    Returns
    -------
    A scalar.
    """
    truth = target.to(logits.dtype)
    share = truth.mean()
    weight = ((1 - share) / share.clamp(min=1e-6)).clamp(1, MAX_WEIGHT)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)
    return entropy + dice(logits.sigmoid()[:, None], truth[:, None])


def draw_click(mask: NDArray[np.bool_], *, rng: RNG) -> tuple[int, int]:
    """A pixel of a nucleus far from its border, where people click.

    The distance to the border must be above a threshold that is drawn anew, evenly within one sd of the mean distance.

    Parameters
    ----------
    mask
        (h, w), with at least one pixel.
    rng
        Seed or generator.

    Returns
    -------
    Row and column.
    """
    generator = as_generator(rng)
    distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    inside = distance[mask]
    threshold = min(generator.uniform(inside.mean() - inside.std(), inside.mean() + inside.std()), 0.99 * inside.max())
    rows, columns = np.nonzero(mask & (distance > threshold))
    i = generator.integers(len(rows))
    return int(rows[i]), int(columns[i])


def _scenes(images: Sequence[NDArray[np.uint8]], labels: Sequence[Labels]) -> list[_Scene]:
    if len(images) != len(labels):
        raise bad_value("labels", must=f"hold one label image for each of {len(images)} images", got=len(labels))
    scenes = []
    for k, (image, given) in enumerate(zip(images, labels, strict=True)):
        name = f"labels[{k}]"
        made = as_labels(name, given)
        if made.shape != image.shape[:2]:
            raise bad_value(name, must=f"have the shape of its image, {image.shape[:2]}", got=made.shape)
        found = {i + 1: box for i, box in enumerate(find_objects(made.astype(np.int32))) if box is not None}
        if found:
            scenes.append(_Scene(image=image, labels=made, ids=[*found], boxes=[*found.values()]))
    if not scenes:
        raise bad_value("labels", must="hold at least one nucleus", got=0)
    return scenes


def _batch(
    scenes: list[_Scene], n: int, *, size_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(n, 5, S, S) inputs and (n, S, S) masks of nuclei drawn evenly."""
    counts = np.array([len(s.ids) for s in scenes])
    inputs, targets = [], []
    for draw in rng.integers(counts.sum(), size=n):
        which = int(np.searchsorted(counts.cumsum(), draw, side="right"))
        nucleus = int(draw - counts[:which].sum())
        patch, mask = _example(scenes[which], nucleus, size_px=size_px, rng=rng)
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        both = np.rot90(np.concatenate([patch, mask[None]]), turns, axes=(1, 2))
        both = both[..., ::-1] if flip else both
        inputs.append(both[:-1])
        targets.append(both[-1] > 0)
    return np.ascontiguousarray(np.stack(inputs)), np.ascontiguousarray(np.stack(targets))


def _example(
    scene: _Scene, nucleus: int, *, size_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Input and mask of one nucleus, the click drawn, those on its neighbours moved and some left out."""

    def click(k: int) -> NDArray[np.intp]:
        rows, columns = scene.boxes[k]
        r, c = draw_click(scene.labels[rows, columns] == scene.ids[k], rng=rng)
        return np.array([columns.start + c, rows.start + r])

    own = click(nucleus)
    middle = np.array([[c.start + c.stop, r.start + r.stop] for r, c in scene.boxes]) / 2
    near = np.flatnonzero(np.abs(middle - own).max(axis=1) < size_px / 2)
    near = near[near != nucleus]
    n_kept = len(near) - int(rng.uniform(0, MAX_DROPPED) * len(near))
    chosen = rng.permutation(near)[:n_kept]
    height, width = scene.labels.shape
    others = [click(k) + rng.integers(-JITTER_PX, JITTER_PX + 1, size=2) for k in chosen]
    clicks = np.clip(np.array([own, *others]), 0, (width - 1, height - 1))
    patch = click_patches(scene.image, clicks, size_px=size_px, rows=np.zeros(1, dtype=np.intp))[0]
    mask = np.zeros((size_px, size_px), dtype=np.bool_)
    x0, y0 = own - size_px // 2
    window = scene.labels[max(y0, 0) : y0 + size_px, max(x0, 0) : x0 + size_px]
    top, left = max(-y0, 0), max(-x0, 0)
    mask[top : top + window.shape[0], left : left + window.shape[1]] = window == scene.ids[nucleus]
    return patch, mask
