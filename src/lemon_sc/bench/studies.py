"""Studies that look at encoders more than at data: cost, fields and pooling of tile models, size of the corpus."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.log import logger
from lemon_sc.bench.rows import Rows
from lemon_sc.models import ModelCard, available, encode, macs
from lemon_sc.models.encoder import Encoder
from lemon_sc.models.zoo import CENTRE_FIELD_PX, FIELD_PX, ZOO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

    from lemon_sc.bench.kinds import Task

    Row = dict[str, Any]

TIMED_CROPS = 256
"""Crops that an encoder is timed on, after one run to warm up."""


def cost(task: Task, encoders: Mapping[str, Encoder], *, device: str) -> Iterator[Row]:
    """Multiply-accumulates and parameters of every card with a network, and the speed of the encoders that are here.

    Parameters
    ----------
    task
        The task.
    encoders
        By name; they are timed.
    device
        As for `lm.models.encode`.

    Yields
    ------
    Rows: ``gmacs`` (linear and convolution layers, as papers print them), ``gmacs_attention`` (with the products of
    queries, keys and values), ``million_parameters``; and measured, ``nuclei_per_second``.
    """
    for name, encoder in encoders.items():
        rows = Rows(task=task, encoder=name, dim=encoder.card.dim)
        if encoder.module is not None:
            yield from _counted(rows, encoder, sum(p.numel() for p in encoder.module.parameters()))
        yield rows.row("card", "", "nuclei_per_second", _speed(encoder, device=device), n=TIMED_CROPS)
    for card in available():
        if card.name not in encoders and (card.name in ZOO or card.name == "lemon"):
            yield from _counted(Rows(task=task, encoder=card.name, dim=card.dim), card.name, _parameters(card))


def _counted(rows: Rows, network: str | Encoder, parameters: int) -> Iterator[Row]:
    try:
        counts = macs(network), macs(network, attention=True)
    except TypeError:  # a network of the user's own, whose layers cannot be counted
        logger.info("%s: its multiply-accumulates cannot be counted", rows.encoder)
    else:
        yield rows.row("card", "", "gmacs", counts[0] / 1e9, n=0)
        yield rows.row("card", "", "gmacs_attention", counts[1] / 1e9, n=0)
    yield rows.row("card", "", "million_parameters", parameters / 1e6, n=0)


def _parameters(card: ModelCard) -> int:
    from lemon_sc.models import vit_s8_40
    from lemon_sc.models.tiles import untrained

    network = untrained(ZOO[card.name]) if card.name in ZOO else vit_s8_40()
    return sum(p.numel() for p in network.parameters())


def _speed(encoder: Encoder, *, device: str) -> float:
    """Nuclei per second of an encoder, crops at hand."""
    side = encoder.card.input_px
    crops = np.random.default_rng(0).integers(0, 256, (TIMED_CROPS, side, side, 3), dtype=np.uint8)
    encode(crops[:16], encoder, device=device)
    start = time.perf_counter()
    encode(crops, encoder, device=device)
    return TIMED_CROPS / (time.perf_counter() - start)


def poolings(encoders: Mapping[str, Encoder]) -> dict[str, Encoder]:
    """The ways in which tile models can look at a nucleus; other encoders as they are.

    Parameters
    ----------
    encoders
        By name.

    Returns
    -------
    By name, for a transformer trained on tiles three: ``"<name>:cls_40"`` and ``"<name>:cls_128"``, the class token of
    a crop of 10 and of 32 um, and ``"<name>:centre_128"``, the mean of the central tokens of the latter.
    """
    from timm.models.vision_transformer import VisionTransformer

    from lemon_sc.models.networks import TileEncoder

    found: dict[str, Encoder] = {}
    for name, encoder in encoders.items():
        module = encoder.module
        if not isinstance(module, TileEncoder) or not isinstance(module.backbone, VisionTransformer):
            found[name] = encoder
            continue
        for pooling, side in (("cls", FIELD_PX), ("cls", CENTRE_FIELD_PX), ("centre", CENTRE_FIELD_PX)):
            card = replace(encoder.card, pooling=pooling, dim=module.backbone.embed_dim, input_px=side)
            seen = TileEncoder(module.backbone, size_px=module.size_px, pooling=pooling).eval()
            found[f"{name}:{pooling}_{side}"] = Encoder(card=card, module=seen)
    return found


def composition(task: Task, encoders: Mapping[str, Encoder], measured: pd.DataFrame) -> Iterator[Row]:
    """Mean balanced accuracy over the classification tasks, by the size and the make-up of each encoder's corpus.

    Parameters
    ----------
    task
        The task.
    encoders
        By name; those that `lm.train` made say on their card what they were trained on, others have no place here.
    measured
        Rows of the classification tasks, stratified folds.

    Yields
    ------
    Rows, protocol ``size`` with the number of crops as ``fold``, and ``diversity`` with "slides x organs" where the
    card counts both: the mean over tasks and its standard error.
    """
    scores = measured[(measured["metric"] == "balanced_accuracy") & (measured["protocol"] == "stratified")]
    of_task = scores.groupby(["encoder", "task"])["value"].mean()
    for name, encoder in encoders.items():
        corpus = encoder.card.training.get("corpus", {}) if encoder.card.training else {}
        if name not in of_task.index.get_level_values(0) or "n_crops" not in corpus:
            logger.info("%s: %s has no record of a corpus, and is left out", task.name, name)
            continue
        values = of_task.loc[name].to_numpy()
        rows, n = Rows(task=task, encoder=name, dim=encoder.card.dim), len(values)
        error = values.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
        makeups = {"size": str(corpus["n_crops"])}
        if {"n_slides", "n_organs"} <= set(corpus):
            makeups["diversity"] = f"{corpus['n_slides']} x {corpus['n_organs']}"
        for protocol, makeup in makeups.items():
            yield rows.row(protocol, makeup, "balanced_accuracy", values.mean(), n=n)
            yield rows.row(protocol, makeup, "standard_error", error, n=n)
