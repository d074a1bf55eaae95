"""Names, paths and objects, all turned into encoders."""

from __future__ import annotations

import copy
import difflib
import hashlib
import sys
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import bad_value, listing, one_of
from lemon_sc.models import adapter, exported, hub, lemon, morphometry, tiles
from lemon_sc.models.cards import ModelCard
from lemon_sc.models.encoder import Encoder
from lemon_sc.models.zoo import ZOO

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT = "guided_ti8"
"""The model that ``None`` stands for: the name of an encoder in `exported.FOLDER`."""


def _cards() -> dict[str, ModelCard]:
    """All cards by name, the default model's first."""
    found = {
        "morphometry": morphometry.CARD,
        **exported.bundled(),
        "lemon": lemon.CARD,
        **{name: entry.card for name, entry in ZOO.items()},
    }
    return {name: found[name] for name in (DEFAULT, *found) if name in found}


def available() -> list[ModelCard]:
    """Cards of the models that `load` knows by name, whether or not their weights are on this machine.

    Returns
    -------
    Cards, the default model's first.
    """
    return list(_cards().values())


def status(name: str) -> str:
    """Whether a model can be used here and now. Nothing is built or fetched.

    Parameters
    ----------
    name
        One of the names of `available`.

    Returns
    -------
    ``"ready"``, with the place of its weights if it has any, or ``"not ready"`` and what it takes.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> lm.models.status("morphometry")
    'ready (no weights needed)'
    """
    cards = _cards()
    one_of("name", name, cards)
    if name == "morphometry":
        return "ready (no weights needed)"
    if name in exported.bundled():
        path = exported.weights_of(name)
        return f"ready: {path}" if path.is_file() else f"not ready: {path} is missing, install lemon_sc again"
    card = cards[name]
    found = lemon.at_hand() if name == "lemon" else hub.cached(card)
    if found is not None:
        return f"ready: {found.path}"
    if not card.hub:
        return f"not ready: weights from {card.url}, weights=PATH"
    terms = " after accepting its terms (gated)" if card.gated else ""
    return f"not ready: needs download=True from {card.hub}{terms}, or weights=PATH"


def load(
    name_or_path: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    download: bool = False,
    revision: str | None = None,
    pooling: str | None = None,
    input_px: int | None = None,
    mpp: float | None = None,
) -> Encoder:
    """Load a model by name, or from a checkpoint file.

    Parameters
    ----------
    name_or_path
        A name (see `available`), the path of a weight file that `lm.train.export` wrote, with its card beside it, that
        of an adapter of `lm.train.seal`, or that of a checkpoint in LEMON's layout.
    weights
        Weight file of the named model: safetensors, or what `torch.save` wrote; with an adapter, of the encoder that
        it is for. ``None`` looks in the cache of the
        Hugging Face Hub and, for ``"lemon"``, before that in the folder that the environment variable
        ``LEMON_SC_WEIGHTS`` names.
    download
        Fetch the weights from the hub if they are not in its cache. Without it nothing is ever fetched.
    revision
        Commit, tag or branch on the hub; ``None`` takes ``main``.
    pooling
        For transformers trained on tiles: ``"cls"`` (class token), ``"cls_mean"`` (and the mean of the patches), or
        ``"centre"`` (mean of the central 4 x 4 patches of a field of 128 px). ``None`` takes the card's.
    input_px, mpp
        Side of the crop in px, and um per px, for models trained on tiles. ``None`` takes 128 for ``"centre"``, else
        40, and 0.25: nuclei. ``input_px=224, mpp=0.5`` shows them the patches of `lm.pp.extract_patches`.

    Returns
    -------
    The encoder, on the CPU, with the digest of its weight file in ``.card.sha256``, and the commit it comes from in
    ``.card.revision``.

    Raises
    ------
    ValueError
        An unknown name, options that the model does not take, or a file that is damaged or of another network.
    FileNotFoundError
        No weights; the message says how to get them and how to pass them.
    PermissionError
        Download of a gated model without leave.
    ConnectionError
        Download while offline.
    ImportError
        A model that only its authors' package builds.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> lm.models.load("morphometry").card.input_px
    40
    """
    name = str(name_or_path)
    if not (isinstance(name_or_path, str | PathLike) and name):
        must = "name a model, or a weight file by its path"
        raise bad_value("name_or_path", must=must, got=name_or_path, fix=f"Models: {listing(_cards(), most=60)}.")
    if weights is not None and (download or revision is not None):
        msg = "`download` and `revision` are about weights of the hub; `weights` names a file. Pass one or the other."
        raise ValueError(msg)
    if adapter.is_adapter(Path(name_or_path).expanduser()):
        _refuse(name, "is on the card of the adapter", pooling=pooling, input_px=input_px, mpp=mpp)
        return _load_adapted(Path(name_or_path).expanduser(), weights=weights, download=download, revision=revision)
    if name in ZOO:
        card: Any = {"pooling": pooling, "input_px": input_px, "mpp": mpp}
        return tiles.load_tiles(ZOO[name], weights=weights, download=download, revision=revision, **card)
    _refuse(name, "is for models trained on tiles", pooling=pooling, input_px=input_px, mpp=mpp)
    if name == "lemon":
        return lemon.load_lemon(weights, download=download, revision=revision)
    _refuse(name, "is for models with weights, by their name", weights=weights, revision=revision, download=download)
    if name == "morphometry":
        return Encoder(card=morphometry.CARD, function=morphometry.measure)
    cards = _cards()
    if name in cards:
        return exported.load_bundled(name)
    if isinstance(name_or_path, PathLike) or "/" in name or "\\" in name or Path(name).suffix or Path(name).exists():
        path = Path(name_or_path).expanduser()
        return exported.load_exported(path) if exported.is_exported(path) else lemon.load_checkpoint(path)
    close = difflib.get_close_matches(name, cards, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    msg = (
        f"Unknown model {name!r} (models: {listing(cards, most=len(cards))}).{hint} A checkpoint is named by its "
        "path, a model of your own by the pair (module or callable, ModelCard)."
    )
    raise ValueError(msg)


def _load_adapted(path: Path, *, weights: str | PathLike[str] | None, download: bool, revision: str | None) -> Encoder:
    """An adapter's encoder, found by the name on its card or at `weights`, with the adapter."""
    base = adapter.read_adapter(path)[0].base
    if base.name in ZOO:
        entry = ZOO[base.name]
        card: Any = {"pooling": base.pooling, "input_px": base.input_px, "mpp": base.mpp}
        made = tiles.load_tiles(entry, weights=weights, download=download, revision=revision, **card)
    elif base.name == "lemon":
        made = lemon.load_lemon(weights, download=download, revision=revision)
    elif weights is not None:
        made = load(weights)
    elif base.name in _cards():
        made = load(base.name)
    else:
        msg = (
            f"{path} is an adapter for {base.name!r}, which is no model known by name. Pass `weights=`, the file of "
            "that encoder, or the encoder itself to `lm.models.with_adapter`."
        )
        raise ValueError(msg)
    return adapter.merged(made, path)


def with_adapter(model: Any, adapter_path: str | PathLike[str]) -> Encoder:
    """Put an adapter of `lm.train.seal` on an encoder.

    Parameters
    ----------
    model
        The encoder that the adapter was trained on: anything that `as_encoder` takes.
    adapter_path
        The file ``adapter.safetensors`` of the run; its card lies beside it.

    Returns
    -------
    Another encoder, with the adapter added to its weights. It has a card of its own.

    Raises
    ------
    FileNotFoundError
        File or card are missing.
    ValueError
        They are damaged, or the adapter is for another encoder.
    """
    return adapter.merged(as_encoder(model), Path(adapter_path).expanduser())


def _refuse(name: str, why: str, **options: Any) -> None:
    for option, value in options.items():
        if value:
            msg = f"`{option}` {why}; {name!r} takes none."
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
        return _identified(model)
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
        _check_heads(model, card)
        return _identified(Encoder(card=card, module=copy.deepcopy(model).eval().requires_grad_(requires_grad=False)))
    if isinstance(model, Encoder | str | PathLike) or not callable(model):
        msg = f"A card goes with a torch.nn.Module or a callable, not with {type(model).__name__}."
        raise TypeError(msg)
    return Encoder(card=card, function=model)


def _identified(encoder: Encoder) -> Encoder:
    """The encoder with the digest of its network on its card: networks of one name and other weights are not mixed."""
    if encoder.module is None or encoder.card.sha256:
        return encoder
    digest = hashlib.sha256(repr(encoder.module).encode())
    for name, values in encoder.module.state_dict().items():
        digest.update(name.encode())
        digest.update(values.detach().cpu().float().contiguous().numpy().tobytes())
    return replace(encoder, card=replace(encoder.card, sha256=digest.hexdigest()))


def _check_heads(module: Any, card: ModelCard) -> None:
    """Weights of a ViT load into any number of heads without complaint, and embed wrongly in all but one."""
    blocks = getattr(module, "blocks", None) or [None]
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None)
    if card.num_heads and heads not in {None, card.num_heads}:
        msg = (
            f"The network has {heads} attention heads, the card of {card.name!r} says {card.num_heads}. Its weights "
            f"load into either, and every embedding is wrong: build it with num_heads={card.num_heads}, or correct "
            "`card.num_heads` if it was trained so."
        )
        raise ValueError(msg)
