"""A weight file (safetensors) and its card (JSON) beside it: written and read together, for every kind of model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from lemon_sc._core.fields import plain
from lemon_sc.io.durable import write_whole
from lemon_sc.models.checkpoint import digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from _typeshed import DataclassInstance

    AnyCard = TypeVar("AnyCard", bound=DataclassInstance)

MARK = "lemon_sc"
"""Key of a weight file's metadata under which its schema stands."""
WEIGHTS, CARD = ".safetensors", ".json"


def card_text(card: DataclassInstance, schema: str) -> str:
    """The content of a card's file.

    Parameters
    ----------
    card
        The card, with the digest of the weight file.
    schema
        Of this kind of card.

    Returns
    -------
    JSON.
    """
    return json.dumps({"schema": schema, **plain(card)}, indent=1) + "\n"


def write_pair(path: Path, state: Mapping[str, torch.Tensor], card: AnyCard, *, schema: str) -> AnyCard:
    """Write weights, then the card with their digest: a card never lies beside weights that it does not describe.

    Parameters
    ----------
    path
        Weight file; its folder is made.
    state
        Names and tensors, contiguous and on the CPU.
    card
        Its field `sha256` is replaced.
    schema
        Of this kind of model.

    Returns
    -------
    The card as written.

    Raises
    ------
    TypeError
        A value on the card that JSON has not; files that were there are as they were.
    OSError
        The disk is full, or cannot be written to; nothing is half-written.
    """
    from safetensors.torch import save

    content = save(dict(state), metadata={"format": "pt", MARK: schema})
    card = dataclasses.replace(card, sha256=hashlib.sha256(content).hexdigest())
    text = card_text(card, schema).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(CARD).unlink(missing_ok=True)
    write_whole(path, content)
    write_whole(path.with_suffix(CARD), text)
    return card


def schema_of(path: Path) -> str | None:
    """What kind of model a weight file says that it is of.

    Parameters
    ----------
    path
        Any path.

    Returns
    -------
    The schema that `write_pair` was given; None for every other file.
    """
    if path.suffix != WEIGHTS or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(MARK)
    except (SafetensorError, OSError):  # the reader of other checkpoints says what is wrong with it
        return None


def read_fields(file: Path, *, schema: str, kind: str, lost: str) -> dict[str, Any]:
    """Read the fields of the card of a weight file.

    Parameters
    ----------
    file
        The card's file, or the weight file that it lies beside.
    schema
        Of this kind of card.
    kind
        What it is the card of, for the message.
    lost
        What nobody knows without it, for the message.

    Returns
    -------
    Values by name.

    Raises
    ------
    FileNotFoundError
        There is no card.
    ValueError
        It is damaged, of a newer version, or one of another kind.
    """
    path = file.with_suffix(CARD)
    if not path.is_file():
        msg = f"{file} has no card: {path.name} is not beside it. Bring it along: without it, nobody knows {lost}."
        raise FileNotFoundError(msg)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        msg = f"{path} is damaged: it is no JSON ({error}). Fetch or export it again."
        raise ValueError(msg) from error
    stated = found.pop("schema", None) if isinstance(found, dict) else None
    if stated != schema:
        same_kind = str(stated).partition("/")[0] == schema.partition("/")[0]
        fix = "A newer lemon_sc may read it." if same_kind else f"Name the file of {kind}."
        msg = f"{path} is no card of {kind} ({stated!r}, not {schema!r}). {fix}"
        raise ValueError(msg)
    return found


def check_digest(path: Path, stated: str) -> None:
    """Raise unless a weight file is the one that its card describes.

    Parameters
    ----------
    path
        The weight file.
    stated
        Digest on its card; "" for none.

    Raises
    ------
    ValueError
        It has another digest; or the hub cache holds another file than was fetched.
    """
    found = digest(path)
    if stated != found:
        msg = (
            f"{path} is not the weight file of its card: its sha256 is {found}, the card {path.with_suffix(CARD).name} "
            f"says {stated or 'none'}. One of them is damaged or of another export; fetch both again."
        )
        raise ValueError(msg)
