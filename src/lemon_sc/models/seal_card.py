"""The card of what `lm.train.seal` writes: an adapter, and the expression side that was trained with it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import bad_value
from lemon_sc._core.fields import check_int, check_names, check_number
from lemon_sc.models.card_files import CARD, check_digest, read_fields
from lemon_sc.models.cards import ModelCard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

ADAPTER, EXPRESSION = "lemon_sc.adapter/1", "lemon_sc.expression/1"
"""Which of the two files a card is of."""
_WORDS = {ADAPTER: "an adapter", EXPRESSION: "the expression side of a run"}
_TUPLES = ("layers", "genes", "hidden")


@dataclass(frozen=True, kw_only=True)
class SealCard:
    """What an adapter is for, and what it comes from."""

    name: str
    """Name under which results of the adapted encoder are recorded."""
    base: ModelCard
    """Card of the encoder that it was trained on."""
    network_sha256: str
    """`tensors_digest` of the weights of that encoder."""
    adapter_sha256: str
    """`tensors_digest` of the adapter."""
    rank: int
    """Rank of the adapters."""
    alpha: float
    """Their strength, over the rank."""
    layers: tuple[str, ...]
    """Layers that they are on."""
    genes: tuple[str, ...]
    """The panel, in order."""
    hidden: tuple[int, ...]
    """Widths of the layers of the expression side."""
    n_flows: int
    """Its planar flows."""
    license: str
    """Licence of the files."""
    citation: str = ""
    """Paper to cite."""
    sha256: str = ""
    """Digest of the file beside the card."""
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """``version``, ``step``, ``recipe``, ``data`` and ``metrics`` of the run."""

    def __post_init__(self) -> None:
        for name in _TUPLES:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.name:
            raise bad_value("card.name", must="not be empty", got=self.name)
        check_int("card.rank", self.rank)
        check_int("card.n_flows", self.n_flows, least=0)
        check_number("card.alpha", self.alpha, zero=False)
        digests = (self.network_sha256, self.adapter_sha256, self.sha256)
        if any(value and not re.fullmatch(r"[0-9a-f]{64}", value) for value in digests):
            raise bad_value("card.*sha256", must="be 64 lower-case hexadecimal digits, or empty", got=digests)

    @property
    def adapted_sha256(self) -> str:
        """What stands as digest on the card of the adapted encoder: it follows from network and adapter."""
        return hashlib.sha256(f"{self.network_sha256} {self.adapter_sha256}".encode()).hexdigest()


def tensors_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Digest of tensors as float32, with their names, whatever file they came from.

    Parameters
    ----------
    state
        Names and tensors, such as ``module.state_dict()``.

    Returns
    -------
    64 hexadecimal digits.
    """
    made = hashlib.sha256()
    for name, values in sorted(state.items()):
        made.update(f"{name} {tuple(values.shape)}".encode())
        made.update(values.detach().cpu().float().contiguous().numpy().data)
    return made.hexdigest()


def read_seal_card(file: Path, *, kind: str) -> SealCard:
    """Read the card of an adapter or an expression side, and hold it against the file beside it.

    Parameters
    ----------
    file
        The weight file; the card is the ``*.json`` beside it.
    kind
        `ADAPTER` or `EXPRESSION`.

    Returns
    -------
    The card.

    Raises
    ------
    FileNotFoundError
        File or card are missing.
    ValueError
        They are damaged, of another kind or version, or do not belong together.
    """
    found = read_fields(file, schema=kind, kind=_WORDS[kind], lost="which encoder it is for, and which genes it knows")
    try:
        check_names(SealCard, found, where="fields of the card")
        base: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.pop("base").items()}
        card = SealCard(base=ModelCard(**base), **found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"{file.with_suffix(CARD)} is damaged, or of a newer lemon_sc: {error}"
        raise ValueError(msg) from error
    check_digest(file, card.sha256)
    return card
