"""The training loop."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lemon_sc._core.fields import check_int
from lemon_sc._core.log import logger
from lemon_sc.io.durable import locked
from lemon_sc.train.build import augmentations
from lemon_sc.train.checkpoint import CHECKPOINT, corpus_record, read_checkpoint, write_whole
from lemon_sc.train.corpus_reader import Corpus, open_corpus
from lemon_sc.train.distributed import check_alike, processes, rank_and_world
from lemon_sc.train.loader import batches, seed_of
from lemon_sc.train.logs import last_values
from lemon_sc.train.online_probe import read_probe_set
from lemon_sc.train.release import export
from lemon_sc.train.schedules import cosine, set_rates, warmup_cosine
from lemon_sc.train.state import begin
from lemon_sc.train.stats import check_crops
from lemon_sc.train.utilisation import flops_per_crop, peak_flops
from lemon_sc.train.views import check_side
from lemon_sc.train.watch import Watch, precision, stop_asked

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from torch import nn

    from lemon_sc.train.recipes import Recipe
    from lemon_sc.train.schedules import Progress
    from lemon_sc.train.state import State
    from lemon_sc.train.views import Augmentation

RECIPE = "recipe.json"
CORPUS = "corpus.json"
WEIGHTS = "encoder.safetensors"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    out: Path
    """Its folder: ``recipe.json``, ``corpus.json``, ``metrics.csv``, ``checkpoint.pt``, ``events``, ``encoder.*``."""
    recipe: Recipe
    """What it computed."""
    metrics: Mapping[str, float]
    """Those of the last row of the log."""
    checkpoint: Path
    """All of its state; ``torch.load(path, weights_only=True)`` reads it."""
    weights: Path
    """The encoder, for `lemon_sc.models.load`; its card lies beside it."""


def fit(
    recipe: Recipe,
    *,
    corpus: str | os.PathLike[str] | Corpus,
    out: str | os.PathLike[str],
    probe: str | os.PathLike[str] | None = None,
    device: str = "auto",
    log_steps: int = 10,
    save_steps: int | None = None,
    probe_epochs: int = 1,
) -> Run:
    """Train an encoder.

    The same call goes on where an earlier one was cut off, and ends with the weights that it would have ended with: on
    the CPU to the bit, with the same number of threads. Started by torchrun, all processes share each batch.

    Parameters
    ----------
    recipe
        What to compute, from `lemon`, `cpu`, `cpu_guided`, `dinov2`, `dinov2_no_local`, `dinov2_kde` or `debug`.
    corpus
        Corpus, or its path.
    out
        Folder of the run. Written: ``recipe.json``; ``corpus.json``, where the crops are from; ``metrics.csv``, a row
        per `log_steps`; ``events``, the same for TensorBoard; ``checkpoint.pt``; at the end ``encoder.safetensors`` and
        its card, ``encoder.json``.
    probe
        An ``.npz`` file with ``crops`` uint8 (n, S, S, 3), ``labels`` (n,) and, if there are some, ``groups`` (n,). The
        log then has a column ``probe``: balanced accuracy, out of fold, of a linear classifier on the embeddings.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
    log_steps
        Steps per row.
    save_steps
        Steps per checkpoint; ``None`` is an epoch. Ctrl-C and SIGTERM also leave one.
    probe_epochs
        Epochs per probe; there is one before the first step, too.

    Returns
    -------
    Folder, recipe, last metrics, and the paths of the checkpoint and of the encoder's weights.

    Raises
    ------
    ValueError
        The batch is larger than the corpus or does not divide among the processes; crops are too small; or `out` holds
        a run of another recipe or corpus.
    RuntimeError
        Loss or gradient are not finite: the step is not made, and the last checkpoint is kept. Or another run is
        writing to `out`.
    KeyboardInterrupt
        Interrupted, after a checkpoint.
    """
    save_steps = recipe.epoch_steps if save_steps is None else save_steps
    for name, value in {"log_steps": log_steps, "save_steps": save_steps, "probe_epochs": probe_epochs}.items():
        check_int(name, value)
    opened = _opened(corpus)
    probe_set = None if probe is None else read_probe_set(probe, side=recipe.image_px)
    folder, record = Path(out), corpus_record(opened)
    path = folder / CHECKPOINT
    with ExitStack() as stack:
        where = stack.enter_context(processes(device))
        stack.enter_context(torch.random.fork_rng(devices=[where] if where.type == "cuda" else []))
        recipes = augmentations(recipe, opened)
        for view in recipes:
            check_side(opened.size_px, view)
        resumed = path.is_file()
        state = begin(recipe, opened, where, resumed=resumed)
        first = rank_and_world()[0] == 0
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
        if resumed:
            state.load(read_checkpoint(path), corpus=record, path=path)
            logger.info("Going on at step %d of %d", state.step, recipe.steps)
        check_alike(state.step)
        if first:
            write_whole(folder / RECIPE, json.dumps(recipe.to_dict(), indent=1).encode())
            write_whole(folder / CORPUS, json.dumps(record, indent=1).encode())
        if state.step < recipe.steps:
            watch = Watch(
                state,
                folder=folder,
                corpus=record,
                device=where,
                probe=probe_set,
                log_steps=log_steps,
                save_steps=save_steps,
                probe_epochs=probe_epochs,
                peak_share=_peak_share(state, recipes, where),
            )
            stack.enter_context(closing(watch))
            train(state, opened, recipes, watch=watch, device=where)
        run = Run(out=folder, recipe=recipe, metrics=last_values(folder), checkpoint=path, weights=folder / WEIGHTS)
        if first:
            export(run, run.weights, name=recipe.name)
        check_alike(state.step)  # the other processes wait for the files
    return run


def train(state: State, corpus: Corpus, recipes: list[Augmentation], *, watch: Watch, device: torch.device) -> None:
    """Make the steps that are left of a run, in place.

    Parameters
    ----------
    state
        The run.
    corpus
        Its crops.
    recipes
        What may happen to each view.
    watch
        What looks at it after every step.
    device
        Where it computes.
    """
    method = state.method.train()
    network = DistributedDataParallel(method) if rank_and_world()[1] > 1 else method
    stream = batches(corpus, state.sampler, recipes, steps=range(state.step, state.recipe.steps), device=device)
    with closing(stream), stop_asked() as asked:
        for batch in stream:
            rates = make_step(state, network, batch.views(recipes, device), folder=watch.folder)
            watch.after_step(state, rates)
            if asked.is_set():
                watch.save(state)
                raise KeyboardInterrupt


def make_step(state: State, network: nn.Module, views: list[torch.Tensor], *, folder: Path) -> dict[str, float]:
    """Make one step of a run, in place.

    Parameters
    ----------
    state
        The run.
    network
        Its method, or what is wrapped around it.
    views
        Of a batch, (n, 3, h, h) each.
    folder
        That of the run, for the message.

    Returns
    -------
    Learning rate and weight decay of the step.

    Raises
    ------
    RuntimeError
        Loss or gradient are not finite; the step is not made.
    """
    recipe, progress = state.recipe, state.progress
    rates = rates_at(progress, recipe)
    set_rates(state.optimizer, **rates, epoch=progress.epoch)
    torch.manual_seed(seed_of(recipe.seed, progress.step, rank_and_world()[0]))  # what a network drops
    with precision(recipe, views[0].device):
        loss, metrics = network(views, progress)
    loss.backward()
    learning = [p for p in state.method.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(learning, recipe.clip or math.inf)
    _check_finite(loss, norm, step=progress.step, lr=rates["lr"], folder=folder)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.method.after_step(progress)
    state.step += 1
    state.means.add({"loss": loss, "grad_norm": norm, **metrics})
    return rates


def rates_at(progress: Progress, recipe: Recipe) -> dict[str, float]:
    """Learning rate and weight decay of a step.

    Parameters
    ----------
    progress, recipe
        Where the run stands, and what it computes.

    Returns
    -------
    ``lr`` and ``weight_decay``.
    """
    warmup = round(recipe.warmup_epochs * recipe.epoch_steps)
    lr = warmup_cosine(progress.step, steps=progress.steps, warmup=warmup, peak=recipe.peak_lr, end=recipe.end_lr)
    decay = cosine(progress.done, start=recipe.weight_decay, end=recipe.end_weight_decay)
    return {"lr": lr, "weight_decay": decay}


def _check_finite(loss: torch.Tensor, norm: torch.Tensor, *, step: int, lr: float, folder: Path) -> None:
    """Raise, in all processes, if the loss of one or the gradient is not finite."""
    flag = (~(torch.isfinite(loss.detach()) & torch.isfinite(norm))).to(torch.int32)
    if rank_and_world()[1] > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    if flag.item():
        path = folder / CHECKPOINT
        kept = f"The last checkpoint is '{path}'" if path.is_file() else "There is no checkpoint yet"
        msg = (
            f"At step {step} the loss is {loss.item():.4g} and the norm of its gradient {norm.item():.4g} (learning "
            f"rate {lr:.3g}). The step was not made. {kept}. Begin again in another folder with a lower `base_lr`, a "
            "longer `warmup_epochs` or a smaller `clip`."
        )
        raise RuntimeError(msg)


def _opened(corpus: str | os.PathLike[str] | Corpus) -> Corpus:
    found = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    check_crops(found.crops[:1])
    if len(found.slides) < 2:
        logger.warning("The corpus has a single slide: a model learns the stain of it. Add slides.")
    return found


def _peak_share(state: State, recipes: list[Augmentation], device: torch.device) -> float:
    """Floating point operations of a crop over those that all devices can do in a second."""
    dtype = torch.bfloat16 if state.recipe.precision == "bf16" else torch.float32
    peak = peak_flops(device, dtype=dtype) * rank_and_world()[1]
    return flops_per_crop(state.method, recipes, device=device) / peak
