"""What happens beside the steps of a run: rows of the log, probes, checkpoints, and a stop that is asked for."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from lemon_sc._core.log import logger
from lemon_sc.train.build import build_encoder
from lemon_sc.train.checkpoint import CHECKPOINT, write_whole
from lemon_sc.train.distributed import rank_and_world
from lemon_sc.train.logs import Logs
from lemon_sc.train.online_probe import ProbeSet, balanced_accuracy, embed_probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lemon_sc.train.recipes import Recipe
    from lemon_sc.train.state import State

RATES = ("lr", "weight_decay")
MONITORS = ("rank", "cosine")
PROBE = "probe"


def precision(recipe: Recipe, device: torch.device) -> Any:
    """A context in which products have the precision of a recipe.

    Parameters
    ----------
    recipe, device
        The recipe, and where the products are.

    Returns
    -------
    A context manager.
    """
    if recipe.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class Watch:
    """Looks at a run after every step.

    Parameters
    ----------
    state
        The run.
    folder
        Where its files are.
    corpus
        From `corpus_record`, for checkpoints.
    device
        Where it computes.
    probe
        Labelled crops, or None.
    log_steps, save_steps, probe_epochs
        How often.
    peak_share
        FLOP per crop over the peak rate of all devices.
    """

    def __init__(
        self,
        state: State,
        *,
        folder: Path,
        corpus: Mapping[str, Any],
        device: torch.device,
        probe: ProbeSet | None,
        log_steps: int,
        save_steps: int,
        probe_epochs: int,
        peak_share: float,
    ) -> None:
        self.folder, self.corpus, self.device, self.probe = folder, corpus, device, probe
        self.log_steps, self.save_steps, self.probe_epochs = log_steps, save_steps, probe_epochs
        self.peak_share = peak_share
        self.logs: Logs | None = None
        self._encoder = build_encoder(state.recipe).to(device).eval() if probe is not None else None
        self._written = state.step
        if rank_and_world()[0] == 0:
            columns = ["loss", "grad_norm", *RATES, *state.method.metric_names, *MONITORS]
            columns += [PROBE] if probe is not None else []
            self.logs = Logs(folder, columns=columns, step=state.step, steps=state.recipe.steps)
            if state.step == 0 and probe is not None:
                self._row(state, {PROBE: self._probed(state)})

    def after_step(self, state: State, rates: Mapping[str, float]) -> None:
        """Write what is due.

        Parameters
        ----------
        state
            The run, its step made.
        rates
            Learning rate and weight decay of that step.
        """
        recipe, step = state.recipe, state.step
        last, epoch_over = step == recipe.steps, step % recipe.epoch_steps == 0
        if step % self.log_steps == 0 or epoch_over or last:
            metrics = {**state.means.take(), **rates}
            if self.logs is not None:
                probed = epoch_over and step // recipe.epoch_steps % self.probe_epochs == 0
                self._row(state, metrics | ({PROBE: self._probed(state)} if self.probe and (probed or last) else {}))
        if self.logs is not None:
            self.logs.bar.update()
        if step % self.save_steps == 0 or last:
            self.save(state)

    def _row(self, state: State, metrics: Mapping[str, float]) -> None:
        if self.logs is None:
            return
        recipe, step = state.recipe, state.step
        self.logs.row(
            step=step,
            epoch=step / recipe.epoch_steps,
            images=step * recipe.batch,
            new=(step - self._written) * recipe.batch,
            peak_share=self.peak_share,
            metrics=metrics,
        )
        self._written = step
        if step > recipe.warmup_epochs * recipe.epoch_steps:
            self.logs.watch(metrics, step=step)

    @torch.no_grad()
    def _probed(self, state: State) -> float:
        if self.logs is None or self.probe is None or self._encoder is None:
            return float("nan")
        with self.logs.paused():
            self._encoder.load_state_dict(state.method.encoder_state_dict())
            with precision(state.recipe, self.device):
                x = embed_probe(self._encoder, self.probe, recipe=state.recipe, device=self.device)
            return balanced_accuracy(x, self.probe)

    def save(self, state: State) -> None:
        """Write a checkpoint; of several processes the first does.

        Parameters
        ----------
        state
            The run.
        """
        if self.logs is not None:
            with self.logs.paused():
                write_whole(self.folder / CHECKPOINT, state.to_checkpoint(self.corpus))

    def close(self) -> None:
        """Close the log."""
        if self.logs is not None:
            self.logs.close()


@contextmanager
def stop_asked() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a step is finished first; the second Ctrl-C ends at once.

    With several processes nothing is changed: one that finishes its step would wait for the others.
    """
    asked = threading.Event()
    if rank_and_world()[1] > 1 or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        logger.info("%s: a checkpoint is written after this step", signal.Signals(number).name)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
