"""A SEAL run at a step, and how it makes the next one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import lemon_sc
from lemon_sc.train.checkpoint import CHECKPOINT, SCHEMA
from lemon_sc.train.loader import seed_of
from lemon_sc.train.logs import Means
from lemon_sc.train.seal_losses import contrast, reconstruction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lemon_sc.train.seal_batches import SealBatch
    from lemon_sc.train.seal_network import SealNetwork
    from lemon_sc.train.seal_recipe import SealRecipe
    from lemon_sc.train.views import Augmentation


@dataclass(eq=False, kw_only=True)
class SealState:
    """A run at a step. What is random follows from the recipe's seed and the step, and needs no state."""

    recipe: SealRecipe
    network: SealNetwork
    policy: Augmentation
    """What may happen to crops."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    means: Means = field(default_factory=Means)

    def to_checkpoint(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors and plain types, for `torch.save`.

        Parameters
        ----------
        record
            Of the data and the encoder.
        """
        return {
            "schema": SCHEMA,
            "version": lemon_sc.__version__,
            "recipe": self.recipe.to_dict(),
            "data": dict(record),
            "step": self.step,
            "seal": self.network.learned(),
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
            Of the data and the encoder that are here.
        path
            The file, for messages.

        Raises
        ------
        ValueError
            It is of another recipe, other data, another encoder, or another version of the networks.
        """
        if "seal" not in found:
            msg = f"'{path}' is the checkpoint of another kind of run. Choose another folder."
            raise ValueError(msg)
        old, new = found["recipe"], self.recipe.to_dict()
        if differ := [f"{k}: {old.get(k)!r}, now {new.get(k)!r}" for k in {**old, **new} if old.get(k) != new.get(k)]:
            msg = f"'{path}' is of another recipe ({'; '.join(differ)}). Go on with that one, or in another folder."
            raise ValueError(msg)
        if found["data"] != record:
            what = [k for k in record if found["data"].get(k) != record[k]]
            msg = f"'{path}' was trained on something else (other: {', '.join(what)}). Go on with that, or in another "
            msg += "folder."
            raise ValueError(msg)
        try:
            if found["seal"].keys() != self.network.learned().keys():
                msg = "other names of tensors"
                raise ValueError(msg)
            self.network.load_state_dict(found["seal"], strict=False)
            self.optimizer.load_state_dict(found["optimizer"])
        except (RuntimeError, ValueError) as error:
            msg = f"'{path}' (lemon_sc {found['version']}) does not fit the networks of this version: {error}"
            raise ValueError(msg) from error
        self.step, self.means = int(found["step"]), Means(found["log"])


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
    recipe, step = state.recipe, state.step
    rate = recipe.lr_at(step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.network.train()
    torch.manual_seed(seed_of(recipe.seed, step))  # latent vectors, and what adapters and decoder drop
    terms = seal_terms(state, batch, device)
    weights = dict(zip(("contrast", "omics", "vision"), recipe.weights, strict=True))
    loss = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
    loss.backward()
    learning = [p for p in state.network.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(learning, math.inf)
    value, size = float(loss.detach()), float(norm)
    if not (math.isfinite(value) and math.isfinite(size)):
        path = folder / CHECKPOINT
        kept = f"The last checkpoint is '{path}'" if path.is_file() else "There is no checkpoint yet"
        msg = (
            f"At step {step} the loss is {value:.4g}, the norm of its gradient {size:.4g} (learning rate "
            f"{rate:.3g}); the step was not made. {kept}. Begin in another folder with a lower `lr`."
        )
        raise RuntimeError(msg)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.means.add({"loss": loss, "grad_norm": norm, **terms})
    return rate
