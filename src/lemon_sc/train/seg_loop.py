"""Training of segmenters."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import lemon_sc
from lemon_sc._core.errors import bad_value, listing
from lemon_sc._core.fields import check_int
from lemon_sc.embed.devices import resolve_devices
from lemon_sc.seg.checkpoint import save
from lemon_sc.seg.taps import ToldTaps
from lemon_sc.train.logs import Logs, last_values
from lemon_sc.train.run_state import Job
from lemon_sc.train.seg_batches import seg_batches
from lemon_sc.train.seg_build import build_segmenter, seg_optimizer
from lemon_sc.train.seg_state import SegState, seg_step
from lemon_sc.train.seg_valid import QUALITIES, validate
from lemon_sc.train.utilisation import peak_flops
from lemon_sc.train.watch import stop_asked

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lemon_sc.seg.card import SegCard
    from lemon_sc.seg.network import CellViT
    from lemon_sc.train.seg_data import NucleiSet
    from lemon_sc.train.seg_recipes import SegRecipe

WEIGHTS = "segmenter.safetensors"
TYPED = ("tp_ce", "tp_dice", "tp_ft")


@dataclass(frozen=True, kw_only=True)
class SegRun:
    """A finished run."""

    out: Path
    """Its folder: ``recipe.json``, ``data.json``, ``metrics.csv``, ``checkpoint.pt``, ``events``, ``segmenter.*``."""
    card: SegCard
    """That of the segmenter."""
    metrics: Mapping[str, float]
    """The last value of each column of the log."""
    weights: Path
    """The segmenter, for `lm.seg.load`; its card lies beside it."""


def segmenter(
    recipe: SegRecipe,
    *,
    data: NucleiSet,
    out: str | os.PathLike[str],
    valid: NucleiSet | None = None,
    device: str = "auto",
    log_steps: int = 10,
    save_steps: int | None = None,
) -> SegRun:
    """Train a network that finds, outlines and types nuclei.

    The same call goes on where an earlier one was cut off, and ends with the weights that it would have ended with: on
    the CPU to the bit, with the same number of threads.

    Parameters
    ----------
    recipe
        What to compute, from `seg_small`, `seg_cellvit` or `seg_histoplus`.
    data
        Images with masks, from `open_nuclei`; their classes are those of the network.
    out
        Folder of the run. Written: ``recipe.json``; ``data.json``, what it learns from; ``metrics.csv``, a row per
        `log_steps`; ``events``, the same for TensorBoard; ``checkpoint.pt``; at the end ``segmenter.safetensors`` and
        its card, ``segmenter.json``.
    valid
        Images that are not learned from. The log then has the columns ``pq``, ``dq`` and ``sq``.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``; one device.
    log_steps
        Steps per row.
    save_steps
        Steps per checkpoint; ``None`` is an epoch. Ctrl-C and SIGTERM also leave one.

    Returns
    -------
    Folder, card, last metrics, and the path of the weights.

    Raises
    ------
    ValueError
        Data at another pixel size than the recipe's; images of `data` among those of `valid`; a device that is not
        there; or `out` holds a run of another recipe or other data.
    RuntimeError
        Loss or gradient are not finite: the step is not made, and the last checkpoint is kept. Or another run is
        writing to `out`.
    KeyboardInterrupt
        Interrupted, after a checkpoint.
    """
    save_steps = recipe.epoch_steps if save_steps is None else save_steps
    for name, value in {"log_steps": log_steps, "save_steps": save_steps}.items():
        check_int(name, value)
    _check_data(recipe, data, valid)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    where, folder, record = torch.device(resolve_devices(name)[0]), Path(out), data.record()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[where] if where.type == "cuda" else []))
        network = build_segmenter(recipe, data.classes).to(where)
        learning = [p for p in network.encoder.parameters() if p.requires_grad]
        state = SegState(recipe=recipe, network=network, optimizer=seg_optimizer(recipe, network), learning=learning)
        state.begin(folder, record, stack)
        if state.step < recipe.steps:
            rows = ["lr", "loss", "grad_norm", *_columns(recipe, data), *(QUALITIES if valid is not None else ())]
            logs = Logs(folder, columns=rows, step=state.step, steps=recipe.steps)
            stack.enter_context(closing(logs))
            job = _Job(
                folder=folder, record=record, device=where, logs=logs, valid=valid,
                log_steps=log_steps, save_steps=save_steps,
            )  # fmt: skip
            _train(state, data, job)
    metrics = last_values(folder)
    card = _export(state, data, record, metrics, folder / WEIGHTS)
    return SegRun(out=folder, card=card, metrics=metrics, weights=folder / WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class _Job(Job):
    """With images that are not learned from."""

    valid: NucleiSet | None


def _columns(recipe: SegRecipe, data: NucleiSet) -> list[str]:
    first = ["np_dice", "np_ce" if recipe.np_loss == "ce+dice" else "np_ft", "hv_mse", "hv_msge"]
    return [*first, *(TYPED if data.classes else ())]


def _check_data(recipe: SegRecipe, data: NucleiSet, valid: NucleiSet | None) -> None:
    for what, given in (("data", data), ("valid", valid)):
        if given is not None and given.mpp != recipe.mpp:
            fix = f"Open it with `open_nuclei(..., mpp={recipe.mpp})`, or set `mpp` of the recipe."
            raise bad_value(what, must=f"be at the recipe's {recipe.mpp} um per px", got=given.mpp, fix=fix)
    for what, given in (("data", data), ("valid", valid)):
        if given is not None and not len(given):
            raise bad_value(what, must="have images", got="none")
    if valid is not None:
        seen = {this.image.resolve() for this in data.fields}
        if both := [this.name for this in valid.fields if this.image.resolve() in seen]:
            msg = f"{len(both)} images are learned from and validated on: {listing(both)}. Split with `data.split`."
            raise ValueError(msg)


def _train(state: SegState, data: NucleiSet, job: _Job) -> None:
    recipe = state.recipe
    stream = seg_batches(data, recipe, steps=range(state.step, recipe.steps))
    peak = peak_flops(job.device, dtype=torch.float32)
    share = _flops(state.network, recipe, job.device) / peak
    written = state.step
    with closing(stream), stop_asked() as asked:
        for batch in stream:
            rate = seg_step(state, batch, device=job.device, folder=job.folder)
            step = state.step
            last, epoch_over = step == recipe.steps, step % recipe.epoch_steps == 0
            due = last or (epoch_over and step // recipe.epoch_steps % recipe.valid_epochs == 0)
            if step % job.log_steps == 0 or epoch_over or last:
                metrics = {**state.means.take(), "lr": rate}
                if due and job.valid is not None:
                    with job.logs.paused():
                        card = recipe.card(data.classes)
                        metrics |= validate(state.network, card, job.valid, most=recipe.valid_images)
                new = (step - written) * recipe.batch
                epoch, images = step / recipe.epoch_steps, step * recipe.batch
                job.logs.row(step=step, epoch=epoch, images=images, new=new, peak_share=share, metrics=metrics)
                written = step
            state.keep(job, asked)


def _flops(network: CellViT, recipe: SegRecipe, device: torch.device) -> float:
    """Floating point operations of a step per tile: thrice a forward pass, a ViT that does not learn counted once."""
    from torch.utils.flop_counter import FlopCounterMode

    tile = torch.zeros(1, 3, recipe.size_px, recipe.size_px, device=device)
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        network.eval()(tile)
    if not isinstance(network.encoder, ToldTaps):
        return 3.0 * whole.get_total_flops()
    with FlopCounterMode(display=False) as frozen, torch.no_grad():
        network.encoder.seen(tile)
    return 3.0 * whole.get_total_flops() - 2.0 * frozen.get_total_flops()


def _export(
    state: SegState, data: NucleiSet, record: Mapping[str, Any], metrics: Mapping[str, float], path: Path
) -> SegCard:
    training = {
        "version": lemon_sc.__version__,
        "step": state.step,
        "recipe": state.recipe.to_dict(),
        "data": dict(record),
        "metrics": {k: metrics[k] for k in ("loss", *QUALITIES) if k in metrics},
    }
    card = dataclasses.replace(state.recipe.card(data.classes), training=training)
    return save(card, state.network.state_dict(), path)
