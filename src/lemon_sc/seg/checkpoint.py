"""Weights of segmenters: a file (safetensors) with its card (JSON) beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lemon_sc._core.errors import bad_value, listing
from lemon_sc.models.card_files import CARD, WEIGHTS, check_digest, read_fields, write_pair
from lemon_sc.models.checkpoint import fit, read_tensors
from lemon_sc.seg.card import SegCard
from lemon_sc.seg.network import build_network
from lemon_sc.seg.segmenter import Segmenter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from lemon_sc.seg.network import CellViT

SCHEMA = "lemon_sc.segmenter/1"
FOLDER = Path(__file__).parent / "weights"
"""Segmenters that come with the package, each a weight file and a card named after the model."""
TYPES_HEAD = "tp.head.2.weight"
"""The layer whose output has a channel per class."""


def save(card: SegCard, state: Mapping[str, torch.Tensor], path: str | PathLike[str], *, half: bool = False) -> SegCard:
    """Write weights, and their card beside them.

    Parameters
    ----------
    card
        The card; its digest is replaced.
    state
        Of a network that was built for the card.
    path
        Weight file to write, ``*.safetensors``; the card is ``*.json``.
    half
        Write float16, for a file of half the size; it is read into float32.

    Returns
    -------
    The card with the digest of the file.

    Raises
    ------
    ValueError
        Another suffix, or another number of classes than the card says.
    OSError
        The disk is full, or cannot be written to; nothing is half-written.
    """
    path = Path(path)
    if path.suffix != WEIGHTS:
        raise bad_value("path", must=f"end in '{WEIGHTS}'", got=str(path))
    check_channels(card.classes, state, file=path)
    dtype = torch.float16 if half else torch.float32
    plain = {
        k: (v.detach().cpu().to(dtype) if v.is_floating_point() else v.detach().cpu()).contiguous()
        for k, v in state.items()
    }
    return write_pair(path, plain, card, schema=SCHEMA)


def load(name_or_path: str | PathLike[str] | None = None) -> Segmenter:
    """Load a segmenter that comes with the package, or one from a file.

    Parameters
    ----------
    name_or_path
        A name, or the path of a weight file with its card beside it; None takes the first that comes with the package.

    Returns
    -------
    The segmenter, on the CPU, in float32.

    Raises
    ------
    FileNotFoundError
        No such model or file, or the card is missing.
    ValueError
        Weights or card are damaged, or do not belong together.
    """
    bundled = {path.stem: path.with_suffix(WEIGHTS) for path in sorted(FOLDER.glob(f"*{CARD}"))}
    if name_or_path is None and bundled:
        name_or_path = next(iter(bundled))
    path = bundled.get(str(name_or_path), Path(name_or_path or ""))
    if name_or_path is None or not path.is_file():
        asked = "No segmenter comes with this installation" if name_or_path is None else f"There is no '{name_or_path}'"
        msg = (
            f"{asked} (by name: {listing(bundled)}). Name a weight file of `lm.train.segmenter`, with its card beside "
            "it, or load HistoPLUS' weights with `lm.seg.load_histoplus`."
        )
        raise FileNotFoundError(msg)
    card = read_card(path)
    check_digest(path, card.sha256)
    state = read_tensors(path)
    check_channels(card.classes, state, file=path)
    return fitted(card, state, file=path)


def read_card(file: Path) -> SegCard:
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
        It is damaged, of a newer version, or no card of a segmenter.
    """
    path = file.with_suffix(CARD)
    lost = "the pixel size, the statistics and the classes of the network"
    found = read_fields(file, schema=SCHEMA, kind="a segmenter", lost=lost)
    try:
        return SegCard.from_dict(found)
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path} is damaged, or of a newer lemon_sc: {error}"
        raise ValueError(msg) from error


def fitted(card: SegCard, state: dict[str, torch.Tensor], *, file: Path) -> Segmenter:
    """A segmenter with these weights, every one of them in its place.

    Parameters
    ----------
    card
        Says which network.
    state
        Names and tensors.
    file
        Where they come from, for the message.

    Returns
    -------
    The segmenter, in eval mode and frozen.

    Raises
    ------
    ValueError
        Keys that are missing, left over, or of another shape.
    """
    with torch.device("meta"):
        network: CellViT = build_network(card)
    fit(network, state, what=f"{card.name} (CellViT on {card.encoder})", file=file)
    return Segmenter(card=card, network=network)


def check_channels(classes: tuple[str, ...], state: Mapping[str, torch.Tensor], *, file: Path) -> None:
    """Raise unless a list of classes has a name for each channel of the weights.

    Parameters
    ----------
    classes
        Names by channel; none for a network without types.
    state
        Names and tensors.
    file
        Where they come from, for the message.

    Raises
    ------
    ValueError
        Another number; the message names the classes and the channels.
    """
    channels = state[TYPES_HEAD].shape[0] if TYPES_HEAD in state else 0
    if channels != len(classes):
        msg = (
            f"{file} has {channels} type channels, but {len(classes)} classes are named: {listing(classes, most=40)}. "
            "Pass the list of classes that these weights were trained with, the background first."
        )
        raise ValueError(msg)
