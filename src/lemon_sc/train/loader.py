"""Batches ahead of the step: threads read crops and draw what happens to them while the device computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lemon_sc._core.threads import in_order
from lemon_sc.train.views import apply, draw

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from lemon_sc.train.corpus_reader import Corpus
    from lemon_sc.train.sampler import Sampler
    from lemon_sc.train.views import Augmentation, Draws

WORKERS = 2
"""Threads, each a batch ahead."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Crops of a step and what is to happen to them."""

    step: int
    """Which step it is for."""
    crops: torch.Tensor
    """Uint8 (n, S, S, 3), of this process."""
    draws: list[Draws]
    """One per view."""

    def views(self, recipes: Sequence[Augmentation], device: torch.device) -> list[torch.Tensor]:
        """Normalised views, float32 (n, 3, h, h) each, made on a device.

        Parameters
        ----------
        recipes
            The same that the draws were made for.
        device
            Where to.
        """
        crops = self.crops.to(device, non_blocking=True)
        return [apply(crops, recipe, draws) for recipe, draws in zip(recipes, self.draws, strict=True)]


def seed_of(*parts: int) -> int:
    """A seed for torch that depends on several numbers and on nothing else.

    Parameters
    ----------
    *parts
        Numbers >= 0, for instance seed, step and view.

    Returns
    -------
    A whole number of 63 bits.
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def batches(
    corpus: Corpus, sampler: Sampler, recipes: Sequence[Augmentation], *, steps: range, device: torch.device
) -> Generator[Batch, None, None]:
    """The batches of some steps, read and drawn by threads, in order.

    What happens to a crop is drawn for the whole batch of all processes and follows from the seed and the step alone:
    neither the number of processes nor a restart changes it.

    Parameters
    ----------
    corpus
        Where crops come from.
    sampler
        Which ones; it stands at the first of the steps.
    recipes
        One per view.
    steps
        Which steps.
    device
        Where the crops will go.

    Yields
    ------
    Batches, one per step.
    """
    size = sampler.batch // sampler.world
    mine = slice(sampler.rank * size, (sampler.rank + 1) * size)

    def make(item: tuple[int, NDArray[np.int64]]) -> Batch:
        step, index = item
        crops = torch.from_numpy(np.ascontiguousarray(corpus.read(index)))
        draws = []
        for view, recipe in enumerate(recipes):
            generator = torch.Generator().manual_seed(seed_of(sampler.seed, step, view))
            draws.append(draw(sampler.batch, recipe, generator=generator, view=view)[mine])
        if device.type == "cuda":
            crops = crops.pin_memory()
        return Batch(step=step, crops=crops, draws=draws)

    yield from in_order(make, zip(steps, sampler, strict=False), workers=WORKERS)
