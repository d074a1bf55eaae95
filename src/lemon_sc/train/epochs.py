"""What the recipes of all runs have in common: epochs of so many batches, AdamW, and a place in a file."""

from __future__ import annotations

from typing import Any

from lemon_sc._core.errors import bad_value
from lemon_sc._core.fields import plain


class Epochs:
    """Base of recipes, which are dataclasses with these fields among theirs."""

    batch: int
    epochs: int
    epoch_length: int
    betas: tuple[float, float]

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return self.epoch_length // self.batch

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.epochs * self.epoch_steps

    def to_dict(self) -> dict[str, Any]:
        """All fields, in types that JSON has."""
        return plain(self)

    def check_epochs(self) -> None:
        """Raise unless an epoch holds a batch, and AdamW takes the decay rates.

        Raises
        ------
        ValueError
            Of `batch` or `betas`.
        """
        if self.batch > self.epoch_length:
            raise bad_value("batch", must=f"be at most `epoch_length`, {self.epoch_length}", got=self.batch)
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise bad_value("betas", must="be two numbers from 0 to below 1", got=self.betas)
