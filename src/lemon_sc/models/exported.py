"""Encoders that were trained here: a weight file (safetensors) with its card (JSON) beside it.

The card says how crops are cut and normalised, how many heads the network has, which the weights do not tell, and the
digest of the weight file. Those in the folder `FOLDER` come with the package and are found by name.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import listing
from lemon_sc.models.card_files import CARD, WEIGHTS, check_digest, read_fields, schema_of
from lemon_sc.models.cards import ModelCard
from lemon_sc.models.checkpoint import fit, read_tensors
from lemon_sc.models.encoder import Encoder

if TYPE_CHECKING:
    import torch

SCHEMA = "lemon_sc.encoder/1"
FOLDER = Path(__file__).parent / "weights"
"""Encoders that come with the package, each a weight file and a card named after the model."""


def read_card(file: Path) -> ModelCard:
    """Read the card of a weight file.

    Parameters
    ----------
    file
        The card's file, or the weight file that it lies beside.

    Returns
    -------
    The card.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is damaged, of a newer version, or no card.
    """
    path = file.with_suffix(CARD)
    lost = "how crops are to be cut and normalised, and how many heads the network has"
    found = read_fields(file, schema=SCHEMA, kind="an encoder", lost=lost)
    known = {f.name for f in dataclasses.fields(ModelCard)}
    if unknown := sorted(found.keys() - known):
        msg = f"{path} has fields that cards do not have: {listing(unknown)}. A newer lemon_sc may read it."
        raise ValueError(msg)
    if missing := sorted({"name", "dim", "sha256", "num_heads"} - found.keys()):
        msg = f"{path} is damaged: it lacks {listing(missing)}. Fetch or export it again."
        raise ValueError(msg)
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    try:
        return ModelCard(**fields)
    except ValueError as error:
        msg = f"{path} is damaged: {error} Fetch or export it again."
        raise ValueError(msg) from error


def is_exported(path: Path) -> bool:
    """Whether a file is a weight file of `lm.train.export`, by what it says of itself.

    Parameters
    ----------
    path
        Any path.

    Returns
    -------
    True if it is one.
    """
    return schema_of(path) == SCHEMA


def load_exported(path: Path) -> Encoder:
    """Read an encoder that `lm.train.export` wrote.

    Parameters
    ----------
    path
        The weight file; its card lies beside it.

    Returns
    -------
    The encoder on the CPU, in float32.

    Raises
    ------
    FileNotFoundError
        The card is missing.
    ValueError
        Weights or card are damaged, or do not belong together.
    """
    card = read_card(path)
    check_digest(path, card.sha256)
    state = read_tensors(path)
    return Encoder(card=card, module=fit(network(card, state), state, what=f"{card.name} ({card.arch})", file=path))


def network(card: ModelCard, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The cell ViT of a card, as wide and deep as its weights are, and with their linear layer; they are not loaded.

    Parameters
    ----------
    card
        Says heads and crop, and the width where there is no linear layer after the class token.
    state
        Names and tensors.

    Returns
    -------
    The network, with initial weights.

    Raises
    ------
    ValueError
        Heads that cannot share the width.
    """
    from lemon_sc.models.vit import cell_vit

    width, n_out = (card.dim, 0) if "head.weight" not in state else (state["head.weight"].shape[1], card.dim)
    if card.num_heads < 1 or width % card.num_heads:
        msg = f"{card.name} is damaged: {card.num_heads} heads cannot share a width of {width}. Fetch it again."
        raise ValueError(msg)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    layer_scale = 1.0 if "blocks.0.ls1.gamma" in state else None  # the value is replaced
    return cell_vit(
        dim=width, num_heads=card.num_heads, depth=depth, image_px=card.input_px, layer_scale=layer_scale, n_out=n_out
    )


def bundled() -> dict[str, ModelCard]:
    """Cards of the encoders that come with the package, by name.

    Returns
    -------
    Cards, in the order of their names.

    Raises
    ------
    ValueError
        A card whose name is not that of its file.
    """
    found: dict[str, ModelCard] = {}
    for path in sorted(FOLDER.glob(f"*{CARD}")):
        card = read_card(path)
        if card.name != path.stem:
            msg = f"{path} is the card of {card.name!r}. Name the files {card.name}{CARD} and {card.name}{WEIGHTS}."
            raise ValueError(msg)
        found[card.name] = card
    return found


def weights_of(name: str) -> Path:
    """Place of the weights of an encoder that comes with the package.

    Parameters
    ----------
    name
        One of `bundled`.

    Returns
    -------
    The weight file, which may be missing.
    """
    return FOLDER / f"{name}{WEIGHTS}"


def load_bundled(name: str) -> Encoder:
    """Read an encoder that comes with the package.

    Parameters
    ----------
    name
        One of `bundled`.

    Returns
    -------
    The encoder on the CPU.

    Raises
    ------
    FileNotFoundError
        The package was installed without it.
    ValueError
        See `load_exported`.
    """
    path = weights_of(name)
    if not path.is_file():
        msg = f"The weights of {name!r} come with lemon_sc, but {path} is not there. Install lemon_sc again."
        raise FileNotFoundError(msg)
    return load_exported(path)
