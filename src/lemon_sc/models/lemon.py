"""LEMON's published encoder, read from a checkpoint.

The file is a MoCo v3 training state: the online encoder under ``module.base_encoder.``, with a projector ``head`` that
is not part of the embedding, beside a momentum encoder and a predictor.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import listing
from lemon_sc.models import hub
from lemon_sc.models.cards import ModelCard
from lemon_sc.models.checkpoint import digest, fit, read_tensors
from lemon_sc.models.encoder import Encoder

if TYPE_CHECKING:
    import torch

FILE = "lemon.pth.tar"
HUB = "aliceblondel/LEMON"
ENV = "LEMON_SC_WEIGHTS"

MEAN = (0.5626308917999268, 0.3856308162212372, 0.5453570485115051)
STD = (0.1810322254896164, 0.16682660579681396, 0.13694559037685394)

CARD = ModelCard(
    name="lemon",
    dim=384,
    mean=MEAN,
    std=STD,
    arch="vit_s8_40",
    license="MIT",
    citation="LEMON, arXiv:2603.25802",
    url=f"https://huggingface.co/{HUB}",
    hub=HUB,
    files=(FILE,),
    pooling="cls",
    num_heads=12,
)

_PREFIXES = ("module.base_encoder.", "base_encoder.")
_OTHER_NETWORKS = ("momentum_encoder.", "predictor.")
_DIMS = {384: "vit_s8_40", 768: "vit_b8_40"}


def load_lemon(
    path: str | os.PathLike[str] | None = None, *, download: bool = False, revision: str | None = None
) -> Encoder:
    """Read LEMON's published weights.

    Parameters
    ----------
    path
        The weight file (see `load_checkpoint`). ``None`` looks for `FILE` in the folder that the environment variable
        `ENV` names, then in the cache of the hub.
    download
        Fetch the file where it is in neither.
    revision
        Commit, tag or branch on the hub; None takes ``main``.

    Returns
    -------
    The encoder on the CPU.

    Raises
    ------
    FileNotFoundError
        No such file; the message says how to get it.
    ValueError
        See `load_checkpoint`.
    """
    if path is not None:
        found: hub.Weights | None = hub.Weights(Path(path).expanduser(), "")
    else:
        found = at_hand(revision=revision)
    if found is None and download:
        found = hub.find(CARD, download=True, revision=revision)
    if found is None or not found.path.is_file():
        folder = os.environ.get(ENV, "")
        looked = f"{ENV} is not set" if not folder else f"{Path(folder) / FILE} is not a file"
        why = (
            f"{looked}, and the cache of the hub does not hold them."
            if found is None
            else (f"{found.path} is not a file.")
        )
        msg = f"{hub.how_to_get(CARD, why)} Its path is also a model, model=PATH; its folder goes into {ENV}."
        raise FileNotFoundError(msg)
    encoder = load_checkpoint(found.path, card=CARD)
    return replace(encoder, card=replace(encoder.card, revision=found.revision))


def at_hand(*, revision: str | None = None) -> hub.Weights | None:
    """LEMON's weight file on this machine: in the folder of the environment, or in the cache of the hub.

    Parameters
    ----------
    revision
        Commit, tag or branch on the hub, where the folder does not hold the file; None takes ``main``.

    Returns
    -------
    The file and where it comes from, or None.
    """
    folder = os.environ.get(ENV, "")
    file = Path(folder).expanduser() / FILE
    if folder and file.is_file() and revision is None:
        return hub.Weights(file, "")
    return hub.cached(CARD, revision=revision)


def load_checkpoint(path: str | os.PathLike[str], *, card: ModelCard | None = None) -> Encoder:
    """Read the online encoder of a checkpoint in LEMON's layout, fed with LEMON's crop statistics.

    Parameters
    ----------
    path
        ``.pth.tar``/``.pth``/``.pt`` (a MoCo v3 training state, or its state dict) or ``.safetensors``; keys with
        the prefix ``module.base_encoder.``, ``base_encoder.``, or none. ViT-S/8 or ViT-B/8, told by the shapes.
    card
        The card; width, architecture and digest are filled in. ``None``: LEMON's for a file of its name, else one
        with the file's name, and no licence or citation, since these are not known.

    Returns
    -------
    The encoder on the CPU.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not a checkpoint, one that would run code when read, or one of another network.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        msg = f"No checkpoint at {file}."
        raise FileNotFoundError(msg)
    if card is None:
        own = replace(
            CARD, name=file.name.split(".")[0] or file.name, license="", citation="", url="", hub="", files=()
        )
        card = CARD if file.name == FILE else own
    state = online_encoder(read_tensors(file), file=file)
    dim = _width(state, file=file)
    module = _build(dim, state, file=file)
    return Encoder(card=replace(card, dim=dim, arch=_DIMS[dim], sha256=digest(file)), module=module)


def online_encoder(state: dict[str, Any], *, file: Path) -> dict[str, Any]:
    """The online encoder's weights of a state dict, prefix and projector taken off.

    Parameters
    ----------
    state
        Names and tensors.
    file
        Where they come from, for the message.

    Returns
    -------
    Tensors by the names of `vit_s8_40`.
    """
    prefix = next((p for p in _PREFIXES if any(k.startswith(p) for k in state)), "")
    kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    kept = {k: v for k, v in kept.items() if not k.startswith("head.")}
    if not prefix:  # refuse the slowly moving copy: its shapes fit, its embeddings are not the published ones
        others = ("module.", *_OTHER_NETWORKS)
        kept = {k: v for k, v in kept.items() if not k.startswith(others)}
    if not kept:
        msg = f"{file} holds no online encoder (keys `{_PREFIXES[0]}*`); its keys are {listing(state, most=6)}."
        raise ValueError(msg)
    return kept


def _width(state: dict[str, torch.Tensor], *, file: Path) -> int:
    """384 or 768, told by the class token."""
    shape = tuple(state["cls_token"].shape) if "cls_token" in state else None
    if shape not in {(1, 1, dim) for dim in _DIMS}:
        got = f"`cls_token` has shape {shape}" if shape else f"no `cls_token` among {listing(state, most=6)}"
        msg = f"{file} is neither a ViT-S/8 nor a ViT-B/8 for 40 px: {got}, expected (1, 1, 384) or (1, 1, 768)."
        raise ValueError(msg)
    return shape[2]


def _build(dim: int, state: dict[str, torch.Tensor], *, file: Path) -> torch.nn.Module:
    """The network with these weights, position embedding included; every key must fit."""
    from lemon_sc.models import vit

    module = getattr(vit, _DIMS[dim])()
    return fit(module, state, what=_DIMS[dim], file=file)
