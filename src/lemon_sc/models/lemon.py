"""LEMON's published encoder, read from a local checkpoint. Nothing is fetched.

The file is a MoCo v3 training state: the online encoder under ``module.base_encoder.``, with a projector ``head`` that
is not part of the embedding, beside a momentum encoder and a predictor.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import listing
from lemon_sc.models.cards import ModelCard
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
)

_PREFIXES = ("module.base_encoder.", "base_encoder.")
_OTHER_NETWORKS = ("momentum_encoder.", "predictor.")
_DIMS = {384: "vit_s8_40", 768: "vit_b8_40"}


def load_lemon(path: str | os.PathLike[str] | None = None) -> Encoder:
    """Read LEMON's published weights.

    Parameters
    ----------
    path
        The weight file (see `load_checkpoint`). ``None`` looks for `FILE` in the folder that the environment variable
        `ENV` names.

    Returns
    -------
    The encoder on the CPU.

    Raises
    ------
    FileNotFoundError
        No such file; the message says where to get it.
    ValueError
        See `load_checkpoint`.
    """
    folder = os.environ.get(ENV, "")
    file = Path(path) if path is not None else Path(folder) / FILE
    if (path is not None or folder) and file.expanduser().is_file():
        return load_checkpoint(file, card=CARD)
    looked = f"{file} is not a file." if path is not None or folder else f"{ENV} is not set."
    msg = (
        f"No weights for the model 'lemon': {looked} Get `{FILE}` from the Hugging Face repository {HUB} (it is not "
        f'fetched for you) and pass it, lm.models.load("lemon", weights=PATH) or model=PATH, or set {ENV} to its '
        "folder."
    )
    raise FileNotFoundError(msg)


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
        own = replace(CARD, name=file.name.split(".")[0] or file.name, license="", citation="", url="")
        card = CARD if file.name == FILE else own
    state = online_encoder(_read(file), file=file)
    dim = _width(state, file=file)
    module = _build(dim, state, file=file)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Encoder(card=replace(card, dim=dim, arch=_DIMS[dim], sha256=digest), module=module)


def online_encoder(state: dict[str, Any], *, file: Path) -> dict[str, Any]:
    """The online encoder's weights of a state dict, prefix and projector taken off.

    Parameters
    ----------
    state
        Names and tensors.
    file
        Where they come from, for the message.
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


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Names and tensors of a checkpoint file."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            msg = f"{file} is not a safetensors file ({error})."
            raise ValueError(msg) from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{file} is not a checkpoint of plain tensors: {str(error).splitlines()[0]} Files that need code to be "
            "read are refused; save the state dict alone, best as safetensors."
        )
        raise ValueError(msg) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        msg = f"{file} is not a readable PyTorch checkpoint, or is cut short ({type(error).__name__}: {error})."
        raise ValueError(msg) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    tensors = isinstance(state, dict) and {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        msg = f"{file} holds no state dict: a MoCo v3 training state or a dict of tensors is expected."
        raise ValueError(msg)
    return tensors


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
    own = module.state_dict()
    wrong = [f"{k} {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in own.keys() & state.keys()
             if state[k].shape != own[k].shape]  # fmt: skip
    for what, names in (
        ("lacks keys", own.keys() - state.keys()),
        ("has unexpected keys", state.keys() - own.keys()),
        ("has keys of another shape", wrong),
    ):
        if names:
            msg = f"{file} is not a {_DIMS[dim]}: it {what} {listing(sorted(names), most=6)}."
            raise ValueError(msg)
    module.load_state_dict(state, strict=True)
    return module.eval().requires_grad_(requires_grad=False)
