"""A segmenter's run at a step, and how it makes the next one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import lemon_sc
from lemon_sc._core.errors import listing
from lemon_sc.seg.losses import loss_terms, weighted_sum
from lemon_sc.seg.segmenter import normalised
from lemon_sc.train.checkpoint import CHECKPOINT, SCHEMA
from lemon_sc.train.loader import seed_of
from lemon_sc.train.logs import Means
from lemon_sc.train.seg_build import freeze_encoder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lemon_sc.seg.network import CellViT
    from lemon_sc.train.seg_batches import SegBatch
    from lemon_sc.train.seg_recipes import SegRecipe


@dataclass(eq=False, kw_only=True)
class SegState:
    """A run at a step. What is random follows from the recipe's seed and the step, and needs no state."""

    recipe: SegRecipe
    network: CellViT
    optimizer: torch.optim.Optimizer
    learning: list[torch.nn.Parameter]
    """Of the encoder."""
    step: int = 0
    means: Means = field(default_factory=Means)

    def to_checkpoint(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors and plain types, for `torch.save`.

        Parameters
        ----------
        record
            Of the data.
        """
        return {
            "schema": SCHEMA,
            "version": lemon_sc.__version__,
            "recipe": self.recipe.to_dict(),
            "data": dict(record),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "log": self.means.state_dict(),
        }

    def load(self, found: Mapping[str, Any], *, record: Mapping[str, Any], path: Path) -> None:
        """Go on where a checkpoint was written.

        Parameters
        ----------
        found
            From `read_checkpoint`.
        record
            Of the data that are here.
        path
            The file, for messages.

        Raises
        ------
        ValueError
            It is of another recipe, other data, or another version of the networks.
        """
        if "network" not in found:
            msg = f"'{path}' is the checkpoint of an encoder, not of a segmenter. Choose another folder."
            raise ValueError(msg)
        old, new = found["recipe"], self.recipe.to_dict()
        if differ := [f"{k}: {old.get(k)!r}, now {new.get(k)!r}" for k in {**old, **new} if old.get(k) != new.get(k)]:
            msg = f"'{path}' is of another recipe ({'; '.join(differ)}). Go on with that one, or in another folder."
            raise ValueError(msg)
        if found["data"]["sha256"] != record["sha256"] or found["data"]["classes"] != record["classes"]:
            names = listing(s["name"] for s in found["data"]["sources"])
            msg = (
                f"'{path}' was trained on other data ({found['data']['n_images']} images of {names}, classes "
                f"{found['data']['classes']}; here {record['n_images']} images, classes {record['classes']}). Go on "
                "with those, or in another folder."
            )
            raise ValueError(msg)
        try:
            self.network.load_state_dict(found["network"])
            self.optimizer.load_state_dict(found["optimizer"])
        except (RuntimeError, ValueError) as error:
            msg = f"'{path}' (lemon_sc {found['version']}) does not fit the networks of this version: {error}"
            raise ValueError(msg) from error
        self.step, self.means = int(found["step"]), Means(found["log"])


def seg_step(state: SegState, batch: SegBatch, *, device: torch.device, folder: Path) -> float:
    """Make one step of a run, in place.

    Parameters
    ----------
    state
        The run.
    batch
        Tiles and targets.
    device
        Where the network is.
    folder
        That of the run, for the message.

    Returns
    -------
    The learning rate of the step.

    Raises
    ------
    RuntimeError
        Loss or gradient are not finite; the step is not made.
    """
    recipe, network, step = state.recipe, state.network, state.step
    rate = recipe.lr_at(step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    frozen = step < recipe.frozen_epochs * recipe.epoch_steps
    freeze_encoder(network, frozen=frozen, learning=state.learning)
    torch.manual_seed(seed_of(recipe.seed, step))  # what the network drops
    x = normalised(batch.images.to(device, non_blocking=True), recipe.card(()))
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        maps = network(x)
    types = None if batch.types is None else batch.types.to(device)
    terms = loss_terms(maps, nuclei=batch.nuclei.to(device), hv=batch.hv.to(device), types=types, options=recipe.losses)
    loss = weighted_sum(terms)
    loss.backward()
    learning = [p for p in network.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(learning, recipe.clip or math.inf)
    value, size = float(loss.detach()), float(norm)
    if not (math.isfinite(value) and math.isfinite(size)):
        path = folder / CHECKPOINT
        kept = f"The last checkpoint is '{path}'" if path.is_file() else "There is no checkpoint yet"
        msg = (
            f"At step {step} the loss is {value:.4g}, the norm of its gradient {size:.4g} (learning rate "
            f"{rate:.3g}); the step was not made. {kept}. Begin in another folder with a lower `lr` or a `clip`."
        )
        raise RuntimeError(msg)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.means.add({"loss": loss, "grad_norm": norm, **terms})
    return rate
