"""Expression-guided finetuning of an encoder (SEAL)."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import lemon_sc
from lemon_sc._core.errors import bad_value, listing
from lemon_sc._core.fields import check_int
from lemon_sc.embed.devices import resolve_devices
from lemon_sc.models.card_files import write_pair
from lemon_sc.models.encoder import fit_crops
from lemon_sc.models.lora import lora_state
from lemon_sc.models.registry import as_encoder
from lemon_sc.models.seal_card import ADAPTER, EXPRESSION, SealCard, tensors_digest
from lemon_sc.train.logs import Logs, last_values
from lemon_sc.train.run_state import Job
from lemon_sc.train.seal_batches import policy_of, seal_batches
from lemon_sc.train.seal_data import prepare_pairs
from lemon_sc.train.seal_network import build_seal
from lemon_sc.train.seal_pairs import Pairs
from lemon_sc.train.seal_recipe import SealRecipe
from lemon_sc.train.seal_state import SealState, seal_step
from lemon_sc.train.seal_valid import QUALITIES, validate_seal
from lemon_sc.train.utilisation import peak_flops
from lemon_sc.train.watch import stop_asked

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from lemon_sc.models.cards import ModelCard
    from lemon_sc.models.encoder import Encoder
    from lemon_sc.train.seal_data import SealData

ADAPTER_FILE, EXPRESSION_FILE = "adapter.safetensors", "expression.safetensors"
CITATION = "SEAL, expression-guided finetuning of vision encoders"
"""What the method follows."""


@dataclass(frozen=True, kw_only=True)
class SealRun:
    """A finished run."""

    out: Path
    """Its folder: ``recipe.json``, ``data.json``, ``metrics.csv``, ``checkpoint.pt``, ``events``, ``adapter.*`` and
    ``expression.*``."""
    card: SealCard
    """That of the adapter."""
    metrics: Mapping[str, float]
    """The last value of each column of the log."""
    adapter: Path
    """The adapter, for `lm.models.load` and `lm.models.with_adapter`; its card lies beside it."""
    expression: Path
    """The expression side, for `lm.models.load_expression`; its card lies beside it."""


def seal(
    recipe: SealRecipe,
    *,
    data: Pairs | Sequence[Pairs],
    out: str | os.PathLike[str],
    model: Any = None,
    valid: Pairs | Sequence[Pairs] | None = None,
    device: str = "auto",
    log_steps: int = 10,
    save_steps: int | None = None,
) -> SealRun:
    """Let expression guide an encoder: what tells units apart in their genes is to be seen in their embeddings.

    First an autoencoder of expression is trained alone. Then small adapters on the last blocks of the encoder learn to
    give crops the embedding that the autoencoder gives their expression, and to tell expression from the crop.

    The same call goes on where an earlier one was cut off, and ends with the weights that it would have ended with: on
    the CPU to the bit, with the same number of threads.

    Parameters
    ----------
    recipe
        What to compute, from `seal_published` or `seal_small`.
    data
        Crops with the expression of their units, one set or several; each may have genes of its own.
    out
        Folder of the run. Written: ``recipe.json``; ``data.json``, what it learns from; ``metrics.csv``, a row per
        `log_steps`; ``events``, the same for TensorBoard; ``checkpoint.pt``; at the end ``adapter.safetensors`` and
        ``expression.safetensors``, each with its card, ``*.json``.
    model
        The encoder: anything that `lm.models.as_encoder` takes and that is a transformer. ``None`` is the default one.
    valid
        Units of other patients. The log then has the columns ``recall_10`` and ``pcc`` at the end of each epoch.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, or another name that torch knows; one device.
    log_steps
        Steps per row.
    save_steps
        Steps per checkpoint; ``None`` is an epoch. Ctrl-C and SIGTERM also leave one.

    Returns
    -------
    Folder, card, last metrics, and the paths of adapter and expression side.

    Raises
    ------
    TypeError
        Something else as recipe or data.
    ValueError
        An encoder without layers that adapters fit on, or crops that do not fit it; patients of `data` among those of
        `valid`; no gene that varies; a batch larger than the number of units; a device that this machine lacks; or
        `out` holds a run of another recipe, encoder or other data.
    RuntimeError
        Loss or gradient are not finite: the step is not made, and the last checkpoint is kept. Or another run is
        writing to `out`.
    KeyboardInterrupt
        Interrupted, after a checkpoint.

    References
    ----------
    Adapters: Hu et al., ICLR 2022 (LoRA). Flows: Rezende and Mohamed, ICML 2015.
    """
    if not isinstance(recipe, SealRecipe):
        msg = f"`recipe` must be a SealRecipe, got {type(recipe).__name__}. Make one with `lm.train.seal_small()`."
        raise TypeError(msg)
    sets, others = (_sets(name, given) for name, given in (("data", data), ("valid", valid)))
    _check_patients(sets, others)
    encoder = as_encoder(model)
    ready = prepare_pairs(sets, n_genes=recipe.n_genes, smoothed=recipe.smooth)
    held = None
    if others:
        held = prepare_pairs(others, n_genes=recipe.n_genes, smoothed=recipe.smooth, panel=ready.panel)
    if recipe.batch > ready.n_units:
        must = f"be at most the number of units, {ready.n_units}"
        raise bad_value("batch", must=must, got=recipe.batch, fix="Take a smaller batch: it never holds a unit twice.")
    recipe = dataclasses.replace(recipe, epoch_length=recipe.epoch_length or ready.n_units)
    save_steps = recipe.epoch_steps if save_steps is None else save_steps
    for name, value in {"log_steps": log_steps, "save_steps": save_steps}.items():
        check_int(name, value)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    where, folder = torch.device(resolve_devices(name)[0]), Path(out)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[where] if where.type == "cuda" else []))
        network = build_seal(encoder, ready.panel, recipe).to(where)
        _check_crops(sets + others, encoder.card)
        learning = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
        state = SealState(recipe=recipe, network=network, policy=policy_of(recipe, encoder.card), optimizer=optimizer)
        weights = "" if encoder.module is None else tensors_digest(encoder.module.state_dict())
        record = {**ready.record(), "encoder": encoder.card.name, "network_sha256": weights}
        state.begin(folder, record, stack)
        if state.step < recipe.steps:
            logs = Logs(folder, columns=_columns(recipe, held), step=state.step, steps=recipe.steps)
            stack.enter_context(closing(logs))
            job = _Job(
                folder=folder, record=record, device=where, logs=logs, card=encoder.card, valid=held,
                log_steps=log_steps, save_steps=save_steps,
            )  # fmt: skip
            _train(state, ready, job)
    return _export(state, ready, encoder, record, folder)


@dataclass(frozen=True, kw_only=True)
class _Job(Job):
    """With units that are not learned from, and the card of the encoder."""

    valid: SealData | None
    card: ModelCard


def _columns(recipe: SealRecipe, valid: SealData | None) -> list[str]:
    terms = ["omics", *(["kl"] if recipe.kl else []), "contrast", "vision"]
    return ["lr", "loss", "grad_norm", *terms, *(QUALITIES if valid is not None else ())]


def _sets(name: str, given: Any) -> tuple[Pairs, ...]:
    """The sets that were given: one, several, or none."""
    sets = (given,) if isinstance(given, Pairs) else tuple(given) if isinstance(given, list | tuple) else given
    if sets is None:
        return ()
    if not isinstance(sets, tuple) or not all(isinstance(one, Pairs) for one in sets):
        kinds = sets if isinstance(sets, tuple) else (given,)
        wrong = next(type(one).__name__ for one in kinds if not isinstance(one, Pairs))
        msg = f"`{name}` must be `lm.train.Pairs`, one or a list, got {wrong}. `lm.train.pairs_of(...)` makes them."
        raise TypeError(msg)
    return sets


def _check_patients(data: tuple[Pairs, ...], valid: tuple[Pairs, ...]) -> None:
    if not data:
        msg = "`data` holds no pairs. Give one `lm.train.Pairs`, or several."
        raise ValueError(msg)
    seen, other = ({str(p) for one in sets for p in np.unique(one.patient)} for sets in (data, valid))
    if both := sorted(seen & other):
        fix = "Keep a patient for it with `pairs.hold_out`."
        if len(seen | other) == 1:
            fix = "There is one patient only, and nothing to validate on: leave `valid` out."
        msg = f"Patients {listing(both)} are learned from and validated on. {fix}"
        raise ValueError(msg)


def _check_crops(sets: tuple[Pairs, ...], card: ModelCard) -> None:
    for pairs in sets:
        fit_crops(pairs.read(np.zeros(1, np.int64)), card.input_px)
        if pairs.mpp is not None and not np.isclose(pairs.mpp, card.mpp):
            must = f"have crops of {card.mpp:g} um per px, as {card.name!r} expects"
            raise bad_value("data", must=must, got=pairs.mpp, fix="Cut them anew at the card's `mpp`.")


def _train(state: SealState, data: SealData, job: _Job) -> None:
    recipe = state.recipe
    stream = seal_batches(data, recipe, state.policy, steps=range(state.step, recipe.steps))
    share = _flops(state, job.card, job.device) / peak_flops(job.device, dtype=torch.float32)
    written = state.step
    with closing(stream), stop_asked() as asked:
        for batch in stream:
            rate = seal_step(state, batch, device=job.device, folder=job.folder)
            step = state.step
            last, epoch_over = step == recipe.steps, step % recipe.epoch_steps == 0
            if step % job.log_steps == 0 or epoch_over or last:
                metrics = {**state.means.take(), "lr": rate}
                if epoch_over and step > recipe.omics_steps and job.valid is not None:
                    with job.logs.paused():
                        metrics |= validate_seal(state.network, job.valid, job.card)
                seen = step > recipe.omics_steps
                job.logs.row(
                    step=step,
                    epoch=step / recipe.epoch_steps,
                    images=max(step - recipe.omics_steps, 0) * recipe.batch,
                    new=(step - written) * recipe.batch,
                    peak_share=share if seen else 0.0,
                    metrics=metrics,
                )
                written = step
            state.keep(job, asked)


def _flops(state: SealState, card: ModelCard, device: torch.device) -> float:
    """Floating point operations of the encoder for a crop, forward: most of it does not learn."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state.network.encoder(torch.zeros(1, 3, card.input_px, card.input_px, device=device))
    return float(counter.get_total_flops())


def _export(state: SealState, data: SealData, encoder: Encoder, record: Mapping[str, Any], folder: Path) -> SealRun:
    recipe, network, metrics = state.recipe, state.network, last_values(folder)
    training = {
        "version": lemon_sc.__version__,
        "step": state.step,
        "recipe": recipe.to_dict(),
        "data": dict(record),
        "metrics": {k: v for k, v in metrics.items() if k in {"loss", "contrast", *QUALITIES}},
    }
    on_cpu = {k: v.cpu().contiguous() for k, v in lora_state(network.encoder).items()}
    card = SealCard(
        name=f"{encoder.card.name}-{recipe.name}",
        base=dataclasses.replace(encoder.card, training={}),
        network_sha256=record["network_sha256"],
        adapter_sha256=tensors_digest(on_cpu),
        rank=recipe.rank,
        alpha=recipe.alpha,
        layers=tuple(network.layers),
        genes=data.panel.genes,
        hidden=recipe.hidden,
        n_flows=recipe.n_flows,
        license=encoder.card.license,
        citation=CITATION,
        training=training,
    )
    card = write_pair(folder / ADAPTER_FILE, on_cpu, card, schema=ADAPTER)
    side = {k: v.detach().cpu().contiguous() for k, v in network.expression.state_dict().items()}
    side |= {"panel_mean": torch.from_numpy(data.panel.mean), "panel_sd": torch.from_numpy(data.panel.sd)}
    write_pair(folder / EXPRESSION_FILE, side, card, schema=EXPRESSION)
    return SealRun(
        out=folder, card=card, metrics=metrics, adapter=folder / ADAPTER_FILE, expression=folder / EXPRESSION_FILE
    )
