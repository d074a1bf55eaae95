"""Tiles of a step with their targets: which, from where and how changed follows from seed and step alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lemon_sc._core.threads import in_order
from lemon_sc.seg.sampling import sampling_weights
from lemon_sc.seg.targets import make_targets
from lemon_sc.train.seg_augment import AUGMENTATIONS, augment_tile, cut_tile

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from lemon_sc.train.seg_data import NucleiSet
    from lemon_sc.train.seg_recipes import SegRecipe

WORKERS = 2
"""Threads, each a batch ahead."""
DRAW, TILE = 0, 1
"""Which stream of random numbers: of the images, of what happens to a tile."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SegBatch:
    """Tiles and targets of a step."""

    images: torch.Tensor
    """Uint8 (n, S, S, 3)."""
    nuclei: torch.Tensor
    """Int64 (n, S, S), 0 or 1."""
    hv: torch.Tensor
    """Float32 (n, 2, S, S)."""
    types: torch.Tensor | None
    """Int64 (n, S, S), or None."""


def draw_images(data: NucleiSet, recipe: SegRecipe, epoch: int) -> NDArray[np.int64]:
    """Images of an epoch, drawn with replacement by their types and sets.

    Parameters
    ----------
    data
        The images.
    recipe
        Says how many, and how uneven the draw is.
    epoch
        Which epoch.

    Returns
    -------
    Int64 (steps of the epoch x batch,).
    """
    weights = sampling_weights(
        data.present(), tissue=np.array([this.source for this in data.fields]), gamma=recipe.gamma
    )
    rng = np.random.default_rng([recipe.seed, DRAW, epoch])
    return rng.choice(len(data), recipe.epoch_steps * recipe.batch, p=weights / weights.sum())


def make_batch(data: NucleiSet, recipe: SegRecipe, rows: NDArray[np.int64], *, step: int) -> SegBatch:
    """Cut, change and describe the tiles of a step.

    Parameters
    ----------
    data
        Where they come from.
    recipe
        Says what may happen to them.
    rows
        Images, one tile each.
    step
        Which step.

    Returns
    -------
    Tiles and targets, on the CPU.
    """
    policy = AUGMENTATIONS[recipe.augmentation]
    images, targets = [], []
    for k, row in enumerate(rows):
        rng = np.random.default_rng([recipe.seed, TILE, step, k])
        pixels, labels = cut_tile(*data.read(int(row)), side=recipe.size_px, rng=rng)
        pixels, labels = augment_tile(pixels, labels, policy, rng=rng)
        images.append(pixels)
        targets.append(make_targets(labels, types=data.fields[int(row)].types))
    typed = [t.types for t in targets if t.types is not None]
    return SegBatch(
        images=torch.from_numpy(np.stack(images)),
        nuclei=torch.from_numpy(np.stack([t.nuclei for t in targets])).long(),
        hv=torch.from_numpy(np.stack([t.hv for t in targets])),
        types=torch.from_numpy(np.stack(typed)).long() if typed else None,
    )


def seg_batches(data: NucleiSet, recipe: SegRecipe, *, steps: range) -> Generator[SegBatch, None, None]:
    """The batches of some steps, made by threads, in order.

    Parameters
    ----------
    data, recipe
        Where tiles come from, and what happens to them.
    steps
        Which steps.

    Yields
    ------
    Batches, one per step.
    """

    def rows() -> Generator[tuple[int, NDArray[np.int64]], None, None]:
        drawn, epoch = np.zeros(0, np.int64), -1
        for step in steps:
            if step // recipe.epoch_steps != epoch:
                epoch = step // recipe.epoch_steps
                drawn = draw_images(data, recipe, epoch)
            start = step % recipe.epoch_steps * recipe.batch
            yield step, drawn[start : start + recipe.batch]

    def make(item: tuple[int, NDArray[np.int64]]) -> SegBatch:
        return make_batch(data, recipe, item[1], step=item[0])

    yield from in_order(make, rows(), workers=WORKERS)
