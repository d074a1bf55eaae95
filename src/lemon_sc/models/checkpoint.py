"""Weight files: read without running code, hashed, and fitted to a network key by key."""

from __future__ import annotations

import hashlib
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

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

    Returns
    -------
    Tensors by name.

    Raises
    ------
    ValueError
        Not such a file, cut short, or one that would run code when read.
    """
    import torch

    head = _head(file)
    content = _load(file, safetensors=file.suffix == ".safetensors" or head[8:9] == b"{")
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        msg = f"{file} holds no state dict: a dict of tensors, or a training state with one, is expected."
        raise ValueError(msg)
    return tensors


def _load(file: Path, *, safetensors: bool) -> Any:
    """What the file holds, read without running code of it."""
    import torch
    from safetensors.torch import load_file

    try:
        return load_file(file) if safetensors else torch.load(file, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise  # nothing is wrong with the file
    except Exception as error:  # bytes that are no checkpoint stop the readers anywhere, with any error
        text = " ".join(str(error).split())
        wants = re.search(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)", text)
        if isinstance(error, pickle.UnpicklingError) and wants:
            msg = (
                f"{file} is not a checkpoint of plain tensors: it asks for {wants[1] or wants[2]}. Files that need "
                "code to be read are refused; save the state dict alone, best as safetensors."
            )
        elif _is_pickle(file):
            msg = (
                f"{file} is not a checkpoint of plain tensors but a pickle of other objects, or in another protocol "
                "than `torch.save` takes by itself. It cannot be read safely (`weights_only`), and is refused. Save "
                "the state dict alone: as safetensors, or with `torch.save`."
            )
        else:
            kind = "safetensors file" if safetensors else "PyTorch checkpoint"
            # an unpickler's text advises to read the file regardless, which is the last thing to do
            why = type(error).__name__ + ("" if isinstance(error, pickle.UnpicklingError) else f": {text[:200]}")
            msg = f"{file} is not a readable {kind}, or is cut short ({why}). Fetch it again."
        raise ValueError(msg) from error


_OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""The first of several pickles in a file of `torch.save` before PyTorch 1.6."""
_BROKEN = (
    ValueError,
    EOFError,
    OSError,
    StopIteration,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What the readers of pickles and archives raise at bytes that are none."""


def _is_pickle(file: Path) -> bool:
    """Whether a file, or what an archive of `torch.save` has pickled, is one whole pickle; nothing of it is run."""
    with ExitStack() as opened:
        try:
            stream: Any = opened.enter_context(file.open("rb"))
            if zipfile.is_zipfile(file):
                archive = opened.enter_context(zipfile.ZipFile(file))
                pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                stream = opened.enter_context(archive.open(pickled))
            start = stream.read(len(_OLD_TORCH))
            if start[:1] != pickle.PROTO or start == _OLD_TORCH:
                return False
            stream.seek(0)
            for _ in pickletools.genops(stream):
                pass
            return not stream.read(1)
        except _BROKEN:
            return False


def _head(file: Path) -> bytes:
    """The first bytes; an error for what often lies where weights should: nothing, a web page, a pointer."""
    with file.open("rb") as stream:
        head = stream.read(200)
    if not head:
        msg = f"{file} is not a weight file: it is empty. Fetch it again."
    elif head.lstrip().startswith(b"<"):
        msg = (
            f"{file} is not a weight file but a web page: the download needs a login, or took the page about the file "
            "in place of the file. Fetch it again."
        )
    elif head.startswith(b"version https://git-lfs"):
        msg = f"{file} is not a weight file but the pointer of Git LFS to one. Fetch the file itself: `git lfs pull`."
    else:
        return head
    raise ValueError(msg)


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

    Returns
    -------
    `module` itself.

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
