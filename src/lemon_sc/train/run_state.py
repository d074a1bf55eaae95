"""A run on one device at a step: what its checkpoint holds, when it may go on, and how it makes a step."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

import lemon_sc
from lemon_sc._core.log import logger
from lemon_sc.io.durable import locked
from lemon_sc.train.checkpoint import CHECKPOINT, SCHEMA, read_checkpoint, write_whole
from lemon_sc.train.logs import Means

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path
    from threading import Event

    from lemon_sc.train.logs import Logs

RECIPE, DATA = "recipe.json", "data.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What surrounds the steps of a run."""

    folder: Path
    record: Mapping[str, Any]
    """Of what is learned from."""
    device: torch.device
    logs: Logs
    log_steps: int
    save_steps: int


@dataclass(eq=False, kw_only=True)
class RunState(ABC):
    """What changes from step to step. Randomness follows from the recipe's seed and the step, and needs no state."""

    WEIGHTS: ClassVar[str]
    """Name of the weights in a checkpoint, which tells kinds of runs apart."""
    NOT_OURS: ClassVar[str]
    """What is said of a checkpoint without them."""

    recipe: Any
    """It has `to_dict`, `lr_at` and a `seed`."""
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    means: Means = field(default_factory=Means)

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """What is learned, by name."""

    @abstractmethod
    def fill(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put `weights` back, or raise if they are not those of this network."""

    @abstractmethod
    def check_data(self, found: Mapping[str, Any], record: Mapping[str, Any], path: Path) -> None:
        """Raise if the record in a checkpoint is not that of the data that are here."""

    def to_checkpoint(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors and plain types, for `torch.save`.

        Parameters
        ----------
        record
            Of what is learned from.
        """
        return {
            "schema": SCHEMA,
            "version": lemon_sc.__version__,
            "recipe": self.recipe.to_dict(),
            "data": dict(record),
            "step": self.step,
            self.WEIGHTS: self.weights(),
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
            Of what is here to learn from.
        path
            The file, for messages.

        Raises
        ------
        ValueError
            It is of another kind of run, another recipe, other data, or another version of the networks.
        """
        if self.WEIGHTS not in found:
            msg = f"'{path}' is the checkpoint of {self.NOT_OURS}. Choose another folder."
            raise ValueError(msg)
        old, new = found["recipe"], self.recipe.to_dict()
        if differ := [f"{k}: {old.get(k)!r}, now {new.get(k)!r}" for k in {**old, **new} if old.get(k) != new.get(k)]:
            msg = f"'{path}' is of another recipe ({'; '.join(differ)}). Go on with that one, or in another folder."
            raise ValueError(msg)
        self.check_data(found["data"], record, path)
        try:
            self.fill(found[self.WEIGHTS])
            self.optimizer.load_state_dict(found["optimizer"])
        except (RuntimeError, ValueError) as error:
            msg = f"'{path}' (lemon_sc {found['version']}) does not fit the networks of this version: {error}"
            raise ValueError(msg) from error
        self.step, self.means = int(found["step"]), Means(found["log"])

    def begin(self, folder: Path, record: Mapping[str, Any], stack: ExitStack) -> None:
        """Take a folder for the run, go on where a checkpoint in it was written, and write what the run is of.

        Parameters
        ----------
        folder
            Of the run.
        record
            Of what is here to learn from.
        stack
            Keeps other runs out of the folder until it is closed.

        Raises
        ------
        ValueError
            The checkpoint is not one that this run goes on from.
        RuntimeError
            Another run is writing to the folder.
        """
        path = folder / CHECKPOINT
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(path))
        if path.is_file():
            self.load(read_checkpoint(path), record=record, path=path)
            logger.info("Going on at step %d of %d", self.step, self.recipe.steps)
        write_whole(folder / RECIPE, json.dumps(self.recipe.to_dict(), indent=1).encode())
        write_whole(folder / DATA, json.dumps(record, indent=1).encode())

    def keep(self, job: Job, asked: Event) -> None:
        """Write a checkpoint if one is due, and stop if that was asked for.

        Parameters
        ----------
        job
            What surrounds the step that was made.
        asked
            Set by Ctrl-C and SIGTERM.

        Raises
        ------
        KeyboardInterrupt
            Asked to stop before the last step.
        """
        last = self.step == self.recipe.steps
        job.logs.bar.update()
        if self.step % job.save_steps == 0 or last or asked.is_set():
            with job.logs.paused():
                write_whole(job.folder / CHECKPOINT, self.to_checkpoint(job.record))
        if asked.is_set() and not last:
            raise KeyboardInterrupt

    def set_rate(self) -> float:
        """Set the learning rate of the step, and return it."""
        rate = float(self.recipe.lr_at(self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def descend(
        self, loss: torch.Tensor, terms: Mapping[str, torch.Tensor], *, folder: Path, clip: float | None, advice: str
    ) -> None:
        """Make the step that a loss asks for, and note its terms.

        Parameters
        ----------
        loss
            A scalar.
        terms
            Scalars that it was made of.
        folder
            That of the run, for the message.
        clip
            Largest norm of the gradient; ``None`` for no bound.
        advice
            What to change where the numbers run away.

        Raises
        ------
        RuntimeError
            Loss or gradient are not finite; the step is not made.
        """
        loss.backward()
        learning = [p for p in self.network.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(learning, clip or math.inf)
        value, size = float(loss.detach()), float(norm)
        if not (math.isfinite(value) and math.isfinite(size)):
            path = folder / CHECKPOINT
            kept = f"The last checkpoint is '{path}'" if path.is_file() else "There is no checkpoint yet"
            msg = (
                f"At step {self.step} the loss is {value:.4g}, the norm of its gradient {size:.4g} (learning rate "
                f"{self.optimizer.param_groups[0]['lr']:.3g}); the step was not made. {kept}. Begin in another folder "
                f"with {advice}."
            )
            raise RuntimeError(msg)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.means.add({"loss": loss, "grad_norm": norm, **terms})
