"""A SEAL run at a step, and how it makes the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lemon_sc.train.loader import seed_of
from lemon_sc.train.run_state import RunState
from lemon_sc.train.seal_losses import contrast, reconstruction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lemon_sc.train.seal_batches import SealBatch
    from lemon_sc.train.seal_network import SealNetwork
    from lemon_sc.train.seal_recipe import SealRecipe
    from lemon_sc.train.views import Augmentation


@dataclass(eq=False, kw_only=True)
class SealState(RunState):
    """A run of SEAL at a step."""

    WEIGHTS: ClassVar[str] = "seal"
    NOT_OURS: ClassVar[str] = "another kind of run"

    recipe: SealRecipe
    network: SealNetwork
    policy: Augmentation
    """What may happen to crops."""

    def weights(self) -> dict[str, torch.Tensor]:
        """Adapters and the expression side; the encoder stays as it was."""
        return self.network.learned()

    def fill(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put adapters and expression side back."""
        if weights.keys() != self.network.learned().keys():
            msg = "other names of tensors"
            raise ValueError(msg)
        self.network.load_state_dict(weights, strict=False)

    def check_data(self, found: Mapping[str, Any], record: Mapping[str, Any], path: Path) -> None:
        """Raise unless data and encoder are those that were learned from."""
        if found != record:
            what = [k for k in record if found.get(k) != record[k]]
            msg = f"'{path}' was trained on something else (other: {', '.join(what)}). Go on with that, or in another "
            msg += "folder."
            raise ValueError(msg)


def seal_terms(state: SealState, batch: SealBatch, device: torch.device) -> dict[str, torch.Tensor]:
    """The losses of a batch, each without its weight.

    Parameters
    ----------
    state
        The run.
    batch
        Pairs; without crops there are only the losses of expression alone.
    device
        Where the network is.

    Returns
    -------
    Scalars: ``omics``; ``kl`` if the recipe has it; ``contrast`` and ``vision`` with crops.
    """
    network, recipe = state.network, state.recipe
    known = batch.known.to(device)
    x = network.standardised(batch.values.to(device), known)
    latent = network.expression.encode(x)

    def compared(made: torch.Tensor) -> torch.Tensor:
        return reconstruction(x, network.standardised(made, known), known_BP=known, kind=recipe.reconstruction)

    terms = {"omics": compared(network.expression.decode(latent.z))}
    if recipe.kl:
        terms["kl"] = latent.excess.mean() / latent.z.shape[1]
    if batch.crops is not None:
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            image = network.encoder(batch.views(state.policy, device))
        image = image.float()
        apart = batch.apart.to(device)
        terms["contrast"] = contrast(image, latent.z, apart_BB=apart, temperature=recipe.temperature)
        terms["vision"] = compared(network.of_image(image))
    return terms


def seal_step(state: SealState, batch: SealBatch, *, device: torch.device, folder: Path) -> float:
    """Make one step of a run, in place.

    Parameters
    ----------
    state
        The run.
    batch
        Pairs of the step.
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
    recipe, rate = state.recipe, state.set_rate()
    state.network.train()
    torch.manual_seed(seed_of(recipe.seed, state.step))  # latent vectors, and what adapters and decoder drop
    terms = seal_terms(state, batch, device)
    weights = dict(zip(("contrast", "omics", "vision"), recipe.weights, strict=True))
    loss = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
    state.descend(loss, terms, folder=folder, clip=None, advice="a lower `lr`")
    return rate
