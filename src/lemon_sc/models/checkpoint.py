"""Weight files: read without running code, hashed, and fitted to a network key by key."""

from __future__ import annotations

import hashlib
import pickle
import re
from typing import TYPE_CHECKING

from lemon_sc._core.errors import listing

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def digest(file: Path) -> str:
    """SHA-256 of a file, held against the one under which the hub cache keeps it.

    Parameters
    ----------
    file
        A file; in the hub cache, a link to a blob that is named by its digest.

    Returns
    -------
    64 hexadecimal digits.

    Raises
    ------
    ValueError
        The file of the cache is not the one that was fetched.
    """
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    blob = file.resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name) and blob.name != found:
        msg = (
            f"{blob} is damaged: its sha256 is {found}, that of the file on the hub is its name. Delete it and fetch "
            "the weights again with download=True."
        )
        raise ValueError(msg)
    return found


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Names and tensors of a checkpoint file, on the CPU.

    Parameters
    ----------
    file
        ``.safetensors``, or what `torch.save` wrote: a dict of tensors, or one under ``state_dict``.

    Raises
    ------
    ValueError
        Not such a file, cut short, or one that would run code when read.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            msg = f"{file} is not a safetensors file, or is cut short ({error})."
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
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        msg = f"{file} holds no state dict: a dict of tensors, or a training state with one, is expected."
        raise ValueError(msg)
    return tensors


def fit(module: torch.nn.Module, state: dict[str, torch.Tensor], *, what: str, file: Path) -> torch.nn.Module:
    """The network with these weights in float32, in eval mode and frozen; every key must fit.

    Parameters
    ----------
    module
        A network, on any device, ``"meta"`` included: its tensors are replaced.
    state
        Names and tensors.
    what
        Name of the architecture, for the message.
    file
        Where the tensors come from, for the message.

    Raises
    ------
    ValueError
        Keys that are missing, left over, or of another shape.
    """
    import torch

    own = module.state_dict()
    # older checkpoints lack the step counters of batch norms, which nothing reads in eval mode
    counters = {k: torch.zeros((), dtype=torch.int64) for k in own if k.endswith(".num_batches_tracked")}
    state = {**counters, **state}
    wrong = [f"{k} {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in own.keys() & state.keys()
             if state[k].shape != own[k].shape]  # fmt: skip
    for problem, names in (
        ("lacks keys", own.keys() - state.keys()),
        ("has unexpected keys", state.keys() - own.keys()),
        ("has keys of another shape", wrong),
    ):
        if names:
            msg = f"{file} is not a {what}: it {problem} {listing(sorted(names), most=6)}."
            raise ValueError(msg)
    full = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    module.load_state_dict(full, strict=True, assign=True)
    return module.eval().requires_grad_(requires_grad=False)
