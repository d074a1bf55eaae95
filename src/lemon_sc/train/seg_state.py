"""A segmenter's run at a step, and how it makes the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lemon_sc._core.errors import listing
from lemon_sc.seg.losses import loss_terms, weighted_sum
from lemon_sc.seg.segmenter import normalised
from lemon_sc.train.loader import seed_of
from lemon_sc.train.run_state import RunState
from lemon_sc.train.seg_build import freeze_encoder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lemon_sc.seg.network import CellViT
    from lemon_sc.train.seg_batches import SegBatch
    from lemon_sc.train.seg_recipes import SegRecipe


@dataclass(eq=False, kw_only=True)
class SegState(RunState):
    """A segmenter's run at a step."""

    WEIGHTS: ClassVar[str] = "network"
    NOT_OURS: ClassVar[str] = "an encoder, not of a segmenter"

    recipe: SegRecipe
    network: CellViT
    learning: list[torch.nn.Parameter]
    """Of the encoder."""

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole network."""
        return self.network.state_dict()

    def fill(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put the whole network back."""
        self.network.load_state_dict(weights)

    def check_data(self, found: Mapping[str, Any], record: Mapping[str, Any], path: Path) -> None:
        """Raise unless images, masks and classes are those that were learned from."""
        if found["sha256"] != record["sha256"] or found["classes"] != record["classes"]:
            names = listing(s["name"] for s in found["sources"])
            msg = (
                f"'{path}' was trained on other data ({found['n_images']} images of {names}, classes "
                f"{found['classes']}; here {record['n_images']} images, classes {record['classes']}). Go on "
                "with those, or in another folder."
            )
            raise ValueError(msg)


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
    recipe, network, rate = state.recipe, state.network, state.set_rate()
    frozen = state.step < recipe.frozen_epochs * recipe.epoch_steps
    freeze_encoder(network, frozen=frozen, learning=state.learning)
    torch.manual_seed(seed_of(recipe.seed, state.step))  # what the network drops
    x = normalised(batch.images.to(device, non_blocking=True), recipe.card(()))
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        maps = network(x)
    types = None if batch.types is None else batch.types.to(device)
    terms = loss_terms(maps, nuclei=batch.nuclei.to(device), hv=batch.hv.to(device), types=types, options=recipe.losses)
    advice = "a lower `lr` or a `clip`"
    state.descend(weighted_sum(terms), terms, folder=folder, clip=recipe.clip, advice=advice)
    return rate
