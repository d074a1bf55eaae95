"""All that a run is at a step, and its way into a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import lemon_sc
from lemon_sc.train.attention import shorten_attention
from lemon_sc.train.build import begin_with, build_encoder, build_method, build_optimizer, prepare
from lemon_sc.train.checkpoint import SCHEMA, check_same
from lemon_sc.train.distributed import rank_and_world, synchronise_norms
from lemon_sc.train.logs import Means
from lemon_sc.train.sampler import Sampler
from lemon_sc.train.schedules import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from lemon_sc.train.corpus_reader import Corpus
    from lemon_sc.train.method import Method
    from lemon_sc.train.recipes import Recipe


@dataclass(eq=False, kw_only=True)
class State:
    """A run at a step. What is random follows from the recipe's seed and the step, and needs no state."""

    recipe: Recipe
    """What the run computes."""
    method: Method
    """Student, teacher and loss."""
    optimizer: torch.optim.Optimizer
    """Of what learns."""
    sampler: Sampler
    """Which crops come; threads may have taken some from it already."""
    began_with: Mapping[str, str] | None = None
    """Name and digest of the weights that the encoder began with; None for initial ones."""
    step: int = 0
    """Steps made."""
    means: Means = field(default_factory=Means)
    """Metrics since the last row of the log."""

    @property
    def progress(self) -> Progress:
        """Where the run stands, for schedules and the method."""
        r = self.recipe
        return Progress(step=self.step, steps=r.steps, epoch_steps=r.epoch_steps, seed=r.seed)

    def to_checkpoint(self, corpus: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors and plain types, for `torch.save`.

        Parameters
        ----------
        corpus
            From `corpus_record`.
        """
        return {
            "schema": SCHEMA,
            "version": lemon_sc.__version__,
            "recipe": self.recipe.to_dict(),
            "corpus": dict(corpus),
            "began_with": self.began_with,
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.sampler.state_at(self.step),
            "log": self.means.state_dict(),
        }

    def load(self, found: Mapping[str, Any], *, corpus: Mapping[str, Any], path: Path) -> None:
        """Go on where a checkpoint was written.

        Parameters
        ----------
        found
            From `read_checkpoint`.
        corpus
            From `corpus_record`, of the corpus that is here.
        path
            The file, for messages.

        Raises
        ------
        ValueError
            It is of another recipe, another corpus, or another version of the networks.
        """
        check_same(found, recipe=self.recipe, corpus=corpus, path=path)
        self.sampler.load_state_dict(found["sampler"])
        try:
            self.method.load_state_dict(found["method"])
            self.optimizer.load_state_dict(found["optimizer"])
        except (RuntimeError, ValueError) as error:
            msg = f"'{path}' (lemon_sc {found['version']}) does not fit the networks of this version: {error}"
            raise ValueError(msg) from error
        self.began_with = found.get("began_with")  # older checkpoints lack it
        self.step = int(found["step"])
        self.means = Means(found["log"])


def begin(recipe: Recipe, corpus: Corpus, device: torch.device, *, resumed: bool = False) -> State:
    """A run at its beginning.

    Parameters
    ----------
    recipe
        What it will compute.
    corpus
        The crops.
    device
        Where.
    resumed
        Whether a checkpoint will be loaded: the weights that the run began with are not needed any more, and may be
        gone.

    Returns
    -------
    The state before the first step.

    Raises
    ------
    ValueError
        A batch that is larger than the corpus, or does not divide among the processes; or weights to begin with that
        are of another network.
    """
    rank, world = rank_and_world()
    sampler = Sampler(
        len(corpus), epoch_length=recipe.epoch_length, batch=recipe.batch, rank=rank, world=world, seed=recipe.seed
    )
    encoder = build_encoder(recipe)
    began_with = None if resumed else begin_with(encoder, recipe)
    method = build_method(recipe, encoder=encoder)
    prepare(method, recipe, corpus)
    if device.type == "cpu":
        shorten_attention(method)
    if world > 1:
        synchronise_norms(method)
    method.to(device)
    optimizer = build_optimizer(recipe, method)
    return State(recipe=recipe, method=method, optimizer=optimizer, sampler=sampler, began_with=began_with)
