"""Names, paths and objects, all turned into encoders."""

from __future__ import annotations

import copy
import difflib
import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import listing
from lemon_sc.models import lemon, morphometry
from lemon_sc.models.cards import ModelCard
from lemon_sc.models.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT = "morphometry"

_CARDS: dict[str, ModelCard] = {"morphometry": morphometry.CARD, "lemon": lemon.CARD}


def available() -> list[ModelCard]:
    """Cards of the models that `load` knows by name.

    Returns
    -------
    Cards, the default model's first.
    """
    return list(_CARDS.values())


def load(name_or_path: str | PathLike[str], *, weights: str | PathLike[str] | None = None) -> Encoder:
    """Load a model by name, or from a checkpoint file.

    Parameters
    ----------
    name_or_path
        ``"morphometry"`` (no weights), ``"lemon"``, or the path of a checkpoint in LEMON's layout.
    weights
        Weight file of the named model. For ``"lemon"``, ``None`` looks for ``lemon.pth.tar`` in the folder that the
        environment variable ``LEMON_SC_WEIGHTS`` names. Nothing is ever fetched.

    Returns
    -------
    The encoder, on the CPU, with the digest of its weight file in ``.card.sha256``.

    Raises
    ------
    ValueError
        An unknown name, weights for a model that has none, or a file that is no such checkpoint.
    FileNotFoundError
        No weight file; the message says which, where to get it and how to pass it.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> lm.models.load("morphometry").card.input_px
    40
    """
    name = str(name_or_path)
    if name == "lemon":
        return lemon.load_lemon(weights)
    if weights is not None:
        msg = f"`weights` belongs to the model 'lemon'; {name!r} takes none."
        raise ValueError(msg)
    if name == "morphometry":
        return Encoder(card=morphometry.CARD, function=morphometry.measure)
    if isinstance(name_or_path, PathLike) or "/" in name or "\\" in name or Path(name).suffix or Path(name).exists():
        return lemon.load_checkpoint(name_or_path)
    close = difflib.get_close_matches(name, _CARDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    msg = (
        f"Unknown model {name!r} (models: {listing(_CARDS)}).{hint} A checkpoint is named by its path, a model of "
        "your own by the pair (module or callable, ModelCard)."
    )
    raise ValueError(msg)


def as_encoder(model: Any = None, card: ModelCard | None = None) -> Encoder:
    """Turn whatever names or is a model into an encoder.

    Parameters
    ----------
    model
        ``None`` (the default encoder), a name or checkpoint path (see `load`), an `Encoder`, a `torch.nn.Module`
        (normalised (n, 3, S, S) -> (n, D); a copy is used, in eval mode), a callable (uint8 (n, S, S, 3) -> (n, D)),
        or a pair of one of the last two and its card.
    card
        Card of a module or callable.

    Returns
    -------
    The encoder.

    Raises
    ------
    TypeError
        No model, or a module or callable without a card.
    """
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], ModelCard) and card is None:
        model, card = model
    if card is not None:
        return _wrap(model, card)
    if model is None:
        return load(DEFAULT)
    if isinstance(model, Encoder):
        return model
    if isinstance(model, str | PathLike):
        return load(model)
    if callable(model):
        msg = (
            f"`model` is a {type(model).__name__} without a card. Pass the pair (model, lm.models.ModelCard(name=..., "
            "dim=..., input_px=..., mpp=..., mean=..., std=...)), so that crops are cut and normalised as it expects."
        )
        raise TypeError(msg)
    msg = f"`model` must be None, a name, a path, an Encoder or a (model, card) pair, got {type(model).__name__}."
    raise TypeError(msg)


def _wrap(model: Callable[..., Any], card: ModelCard) -> Encoder:
    torch = sys.modules.get("torch")  # a module exists only where torch has been imported
    if torch is not None and isinstance(model, torch.nn.Module):
        return Encoder(card=card, module=copy.deepcopy(model).eval().requires_grad_(requires_grad=False))
    if isinstance(model, Encoder | str | PathLike) or not callable(model):
        msg = f"A card goes with a torch.nn.Module or a callable, not with {type(model).__name__}."
        raise TypeError(msg)
    return Encoder(card=card, function=model)
