"""Pairs of a step: which, and what happens to their crops, follows from seed and step alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lemon_sc._core.threads import in_order
from lemon_sc.train.loader import WORKERS, seed_of
from lemon_sc.train.sampler import Sampler
from lemon_sc.train.views import Augmentation, Draws, apply, draw

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from lemon_sc.models.cards import ModelCard
    from lemon_sc.train.seal_data import SealData
    from lemon_sc.train.seal_recipe import SealRecipe

CROP, VIEW = 0, 1
"""Which stream of random numbers: of the crops of a unit, of what happens to them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SealBatch:
    """Pairs of a step, at most one of each unit."""

    crops: torch.Tensor | None
    """Uint8 (b, S, S, 3); None where expression alone is learned."""
    draws: Draws | None
    """What happens to them."""
    values: torch.Tensor
    """Log-normalised expression, float32 (b, P)."""
    known: torch.Tensor
    """Which values are known, bool (b, P)."""
    apart: torch.Tensor
    """Pairs that are no negatives of each other, bool (b, b)."""

    def views(self, policy: Augmentation, device: torch.device) -> torch.Tensor:
        """Normalised crops on a device, changed as was drawn.

        Parameters
        ----------
        policy
            The one that was drawn from.
        device
            Where to.
        """
        if self.crops is None or self.draws is None:
            msg = "This batch was made without crops."
            raise ValueError(msg)
        return apply(self.crops.to(device, non_blocking=True), policy, self.draws)


def policy_of(recipe: SealRecipe, card: ModelCard) -> Augmentation:
    """What may happen to a crop.

    Parameters
    ----------
    recipe
        Names it.
    card
        Of the encoder: side and statistics.

    Returns
    -------
    The policy.
    """
    side = card.input_px
    hard = {"turn": True, "flip_p": 0.5, "jitter_p": 0.8, "jitter": (0.3, 0.3, 0.3, 0.05), "blur_p": (0.2,)}
    changes = hard if recipe.augmentation == "hard" else {}
    return Augmentation(frame_px=side, out_px=side, mean=card.mean, std=card.std, **changes)  # type: ignore[arg-type]


def seal_batches(
    data: SealData, recipe: SealRecipe, policy: Augmentation, *, steps: range
) -> Generator[SealBatch, None, None]:
    """The batches of some steps, made by threads, in order.

    Parameters
    ----------
    data, recipe
        The pairs, and the recipe.
    policy
        What may happen to crops.
    steps
        Which steps.

    Yields
    ------
    Batches, one per step.
    """
    sampler = Sampler(data.n_units, epoch_length=recipe.epoch_length, batch=recipe.batch, seed=recipe.seed)
    sampler.load_state_dict(sampler.state_at(steps.start))
    by_unit = np.argsort(data.unit, kind="stable")
    begin = np.searchsorted(data.unit[by_unit], np.arange(data.n_units + 1))

    def make(item: tuple[int, NDArray[np.int64]]) -> SealBatch:
        step, units = item
        u = np.random.default_rng([recipe.seed, CROP, step]).random(len(units))
        rows = by_unit[begin[units] + (u * (begin[units + 1] - begin[units])).astype(np.int64)]
        values, known = data.expression(rows)
        seen = step >= recipe.omics_steps
        generator = torch.Generator().manual_seed(seed_of(recipe.seed, VIEW, step))
        return SealBatch(
            crops=torch.from_numpy(data.crops(rows)) if seen else None,
            draws=draw(len(rows), policy, generator=generator) if seen else None,
            values=torch.from_numpy(values),
            known=torch.from_numpy(known),
            apart=torch.from_numpy(data.apart[rows][:, rows].toarray() > 0),
        )

    yield from in_order(make, zip(steps, sampler, strict=False), workers=WORKERS)
