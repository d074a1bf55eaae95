"""Adapters of `lm.train.seal`: small files that turn one encoder into another."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from lemon_sc.models.card_files import schema_of
from lemon_sc.models.checkpoint import read_tensors
from lemon_sc.models.encoder import Encoder
from lemon_sc.models.seal_card import ADAPTER, read_seal_card, tensors_digest

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from lemon_sc.models.cards import ModelCard
    from lemon_sc.models.seal_card import SealCard


def is_adapter(path: Path) -> bool:
    """Whether a file is an adapter, by what it says of itself.

    Parameters
    ----------
    path
        Any path.

    Returns
    -------
    True if it is one.
    """
    return schema_of(path) == ADAPTER


def read_adapter(path: Path) -> tuple[SealCard, dict[str, torch.Tensor]]:
    """Read an adapter and its card.

    Parameters
    ----------
    path
        The file ``adapter.safetensors``; its card lies beside it.

    Returns
    -------
    Card, and tensors by name.

    Raises
    ------
    FileNotFoundError
        File or card are missing.
    ValueError
        They are damaged, or do not belong together.
    """
    card, state = read_seal_card(path, kind=ADAPTER), read_tensors(path)
    if len(state) != 2 * len(card.layers) or {k.rpartition(".")[0] for k in state} != set(card.layers):
        msg = f"{path} is damaged: it holds {len(state)} tensors, and its card names {len(card.layers)} layers."
        raise ValueError(msg)
    return card, state


def merged(encoder: Encoder, path: Path) -> Encoder:
    """An encoder with an adapter added to its weights; it is as fast as before.

    Parameters
    ----------
    encoder
        The encoder that the adapter was trained on.
    path
        The adapter.

    Returns
    -------
    Another encoder, on the same device, with a card of its own.

    Raises
    ------
    FileNotFoundError, ValueError
        See `read_adapter`; or the adapter is for another encoder.
    """
    from lemon_sc.models.lora import merge_lora

    card, state = read_adapter(path)
    check_base(card, encoder, path=path)
    module = copy.deepcopy(encoder.module)
    if module is not None:  # which `check_base` has made sure of
        merge_lora(module, state, scale=card.alpha / card.rank)
    return Encoder(card=adapted_card(card, encoder.card), module=module)


def adapted_card(card: SealCard, base: ModelCard) -> ModelCard:
    """Card of an adapted encoder: that of the encoder, with name, digest, licence and origin of the adapter.

    Parameters
    ----------
    card, base
        Of the adapter, and of the encoder.

    Returns
    -------
    The card.
    """
    return replace(
        base,
        name=card.name,
        arch=f"{base.arch or base.name} with adapters of rank {card.rank}",
        license=card.license,
        citation="; ".join(text for text in (base.citation, card.citation) if text),
        sha256=card.adapted_sha256,
        hub="",
        files=(),
        gated=False,
        revision="",
        training=card.training,
    )


def check_base(card: SealCard, encoder: Encoder, *, path: Path) -> None:
    """Raise unless an adapter was trained on this encoder.

    Parameters
    ----------
    card
        Of the adapter.
    encoder
        The encoder.
    path
        The adapter's file, for the message.

    Raises
    ------
    ValueError
        It is for another one.
    """
    was, own = card.base, encoder.card
    if encoder.module is None:
        msg = f"{path} is an adapter for {was.name!r}; {own.name!r} has no weights that could be adapted."
        raise ValueError(msg)
    differ = [
        f"{name} {getattr(was, name)!r}, not {getattr(own, name)!r}"
        for name in ("dim", "input_px", "mpp", "mean", "std", "pooling")
        if getattr(was, name) != getattr(own, name)
    ]
    if not differ and tensors_digest(encoder.module.state_dict()) != card.network_sha256:
        differ = ["the same settings and other weights"]
    if differ:
        other = repr(own.name) if own.name != was.name else "this encoder of that name"
        msg = (
            f"{path} is an adapter for {was.name!r}, not for {other}: it was trained with {'; '.join(differ)}. "
            "Load the encoder that it was trained on."
        )
        raise ValueError(msg)
