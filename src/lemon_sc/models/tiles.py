"""Encoders of the zoo with their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import one_of
from lemon_sc.models import hub
from lemon_sc.models.checkpoint import digest, fit, read_tensors
from lemon_sc.models.encoder import Encoder
from lemon_sc.models.zoo import CENTRE_FIELD_PX

if TYPE_CHECKING:
    import os

    from lemon_sc.models.cards import ModelCard
    from lemon_sc.models.networks import TileEncoder
    from lemon_sc.models.zoo import Entry


def load_tiles(
    entry: Entry,
    *,
    weights: str | os.PathLike[str] | None = None,
    download: bool = False,
    revision: str | None = None,
    pooling: str | None = None,
    input_px: int | None = None,
    mpp: float | None = None,
) -> Encoder:
    """Build an encoder of the zoo and read its weights.

    Parameters
    ----------
    entry
        Its declaration.
    weights
        A weight file; None looks in the cache of the hub.
    download
        Fetch the weights where the cache lacks them.
    revision
        Commit, tag or branch on the hub; None takes ``main``.
    pooling, input_px, mpp
        See `chosen`.

    Returns
    -------
    The encoder on the CPU; digest and commit of its weights are in the card.
    """
    from lemon_sc.models import networks

    card = chosen(entry, pooling=pooling, input_px=input_px, mpp=mpp)
    network = networks.construct(entry)
    if weights is None:
        found = hub.find(card, download=download, revision=revision)
    else:
        found = hub.Weights(Path(weights).expanduser(), "")
    if not found.path.is_file():
        msg = f"No weights for the model {card.name!r}: {found.path} is not a file."
        raise FileNotFoundError(msg)
    sha256 = digest(found.path)
    state = networks.adapt(read_tensors(found.path), entry, network, file=found.path)
    fit(network, state, what=f"{card.name} ({card.arch})", file=found.path)
    module = networks.TileEncoder(network, size_px=entry.size_px, pooling=card.pooling).eval()
    return Encoder(card=replace(card, sha256=sha256, revision=found.revision), module=module)


def chosen(
    entry: Entry, *, pooling: str | None = None, input_px: int | None = None, mpp: float | None = None
) -> ModelCard:
    """The card with the user's choice of pooling and field.

    Parameters
    ----------
    entry
        The declaration.
    pooling
        ``"cls"``, ``"cls_mean"`` or ``"centre"`` for a ViT; None keeps the card's.
    input_px
        Side of the crop; None takes 128 for ``"centre"``, else the card's.
    mpp
        um per px of the crop; None takes the card's.

    Returns
    -------
    The card.
    """
    card = entry.card
    if pooling is not None and pooling != card.pooling:
        if entry.kind != "vit":
            msg = f"`pooling` is a choice for transformers; {card.name!r} has {card.pooling or 'its own'!r} alone."
            raise ValueError(msg)
        from lemon_sc.models.networks import POOLINGS

        one_of("pooling", pooling, POOLINGS)
        dim = entry.options["embed_dim"] * POOLINGS[pooling]
        card = replace(
            card, pooling=pooling, dim=dim, input_px=CENTRE_FIELD_PX if pooling == "centre" else card.input_px
        )
    changes: dict[str, Any] = {"input_px": input_px, "mpp": mpp}
    return replace(card, **{name: value for name, value in changes.items() if value is not None})


def untrained(entry: Entry) -> TileEncoder:
    """The whole module of an entry on the device ``"meta"``, to count with.

    Parameters
    ----------
    entry
        The declaration.

    Returns
    -------
    The module, without weights.
    """
    from lemon_sc.models import networks

    return networks.TileEncoder(networks.construct(entry), size_px=entry.size_px, pooling=entry.card.pooling)
