"""Recipes of expression-guided finetuning: all that decides what a run computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.fields import changed_fields, check_int, check_number
from lemon_sc.train.epochs import Epochs
from lemon_sc.train.recipes import PRECISIONS
from lemon_sc.train.schedules import cosine
from lemon_sc.train.seal_losses import RECONSTRUCTIONS

AUGMENTATIONS = ("none", "hard")


@dataclass(frozen=True, kw_only=True)
class SealRecipe(Epochs):
    """What a run computes. The same recipe, encoder, data and number of threads give the same weights."""

    name: str
    """What the recipe, and the adapted encoder, is called."""
    n_genes: int = 2000
    """Genes of the panel, by dispersion; all that vary if there are fewer."""
    smooth: bool = True
    """Smooth counts over neighbours, where units lie on a lattice."""
    hidden: tuple[int, ...] = (1024, 512)
    """Widths of the encoder of expression; its decoder has them in the other order."""
    n_flows: int = 3
    """Planar flows behind the latent vector."""
    kl: bool = False
    """Draw latent vectors towards a standard normal, by 1 / width times the divergence."""
    rank: int = 8
    """Rank of the adapters."""
    alpha: float = 8.0
    """Strength of the adapters, over the rank."""
    dropout: float = 0.15
    """Of the input of adapters and inside the decoder behind the image."""
    blocks: int = 1
    """Last blocks of the encoder that get adapters."""
    decoder_width: int = 512
    """Width of the decoder from image to expression."""
    augmentation: str = "hard"
    """``"hard"``: turns by 90 degrees, flips, colours, blur. ``"none"``."""
    temperature: float = 0.05
    """What cosines are divided by."""
    reconstruction: str = "seal"
    """See `lemon_sc.train.seal_losses.reconstruction`."""
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of three losses: image against expression, expression from expression, expression from the image."""
    batch: int = 384
    """Units per step."""
    epoch_length: int = 0
    """Units per epoch; 0 takes each once."""
    omics_epochs: int = 10
    """Epochs in which expression alone is learned, before the encoder."""
    epochs: int = 10
    """Epochs in which the encoder learns."""
    lr: float = 1e-4
    """Learning rate at the beginning of either part, which falls to 0 along half a cosine."""
    omics_lr: float = 1e-3
    """The same where expression alone is learned."""
    weight_decay: float = 0.2
    """Of AdamW, on all that learns."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    precision: str = "fp32"
    """``"fp32"``, or ``"bf16"``: products in bfloat16 and weights in float32."""
    seed: int = 42
    """Decides initial weights, batches and what happens to crops."""

    def __post_init__(self) -> None:
        for name in ("hidden", "weights", "betas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        one_of("augmentation", self.augmentation, AUGMENTATIONS)
        one_of("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        one_of("precision", self.precision, PRECISIONS)
        integers = {
            "n_genes": 1, "n_flows": 0, "rank": 1, "blocks": 1, "decoder_width": 1, "batch": 2, "epoch_length": 0,
            "omics_epochs": 0, "epochs": 1, "seed": 0,
        }  # fmt: skip
        for name, least in integers.items():
            check_int(name, getattr(self, name), least=least)
        for width in self.hidden:
            check_int("hidden", width)
        for name in ("alpha", "temperature", "lr", "omics_lr"):
            check_number(name, getattr(self, name), zero=False)
        for name in ("dropout", "weight_decay"):
            check_number(name, getattr(self, name))
        for weight in self.weights:
            check_number("weights", weight)
        if not self.hidden or len(self.weights) != 3:
            raise bad_value("hidden, weights", must="hold a width or more, and three", got=(self.hidden, self.weights))
        if self.dropout >= 1:
            raise bad_value("dropout", must="be below 1", got=self.dropout)
        if self.epoch_length:
            self.check_epochs()

    @property
    def omics_steps(self) -> int:
        """Steps in which expression alone is learned."""
        return self.omics_epochs * self.epoch_steps

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.omics_steps + self.epochs * self.epoch_steps

    def lr_at(self, step: int) -> float:
        """Learning rate of a step.

        Parameters
        ----------
        step
            Steps made so far.

        Returns
        -------
        The rate.
        """
        if step < self.omics_steps:
            return cosine(step / self.omics_steps, start=self.omics_lr, end=0.0)
        return cosine((step - self.omics_steps) / (self.steps - self.omics_steps), start=self.lr, end=0.0)


def seal_published(**changes: Any) -> SealRecipe:
    """SEAL as it was published: adapters of rank 8 on the last block, 2,000 genes, batches of 384.

    Parameters
    ----------
    **changes
        Fields of `SealRecipe` to set.

    Returns
    -------
    The recipe.
    """
    return changed_fields(SealRecipe(name="seal"), changes, where="fields of a SEAL recipe")


def seal_small(**changes: Any) -> SealRecipe:
    """For some thousand units on a CPU: fewer genes, a smaller expression side, smaller batches, higher rates.

    In a few hundred steps, adapters hardly leave 0 at rates that suit the ten thousands of steps of a large run.

    Parameters
    ----------
    **changes
        Fields of `SealRecipe` to set.

    Returns
    -------
    The recipe.
    """
    made = SealRecipe(
        name="seal_small", n_genes=256, hidden=(256, 128), decoder_width=128, batch=128, omics_epochs=20, epochs=20,
        lr=1e-2, weight_decay=0.05,
    )  # fmt: skip
    return changed_fields(made, changes, where="fields of a SEAL recipe")
