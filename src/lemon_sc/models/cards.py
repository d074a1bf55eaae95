"""A model's card: what a user, and the code that cuts the crops, must know about it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from lemon_sc._core.errors import bad_value
from lemon_sc._core.fields import check_int


class Card:
    """Base of cards, which are frozen dataclasses with these fields among theirs."""

    name: str
    mpp: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    license: str
    citation: str
    url: str
    sha256: str

    def check_card(self, **sizes: int) -> None:
        """Raise if a field is wrong that all cards have.

        Parameters
        ----------
        **sizes
            Numbers of px or channels, by the names of their fields.

        Raises
        ------
        ValueError
            What should be text and is none, a name that is empty, a size below 1, a pixel size or statistics that are
            not finite or positive, or a digest that is none.
        """
        self.check_texts("name", "license", "citation", "url", "sha256")
        if not self.name:
            raise bad_value("card.name", must="not be empty", got=self.name)
        for what, value in sizes.items():
            check_int(f"card.{what}", value)
        if not (_finite(self.mpp) and self.mpp > 0):
            raise bad_value("card.mpp", must="be a finite number of um per px > 0", got=self.mpp)
        for what, values in (("card.mean", self.mean), ("card.std", self.std)):
            if not isinstance(values, Sized) or len(values) != 3 or not all(map(_finite, values)):
                raise bad_value(what, must="be three finite numbers (RGB, after division by 255)", got=values)
        if min(self.std) <= 0:
            raise bad_value("card.std", must="be > 0 in every channel", got=self.std)
        if self.sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise bad_value("card.sha256", must="be 64 lower-case hexadecimal digits, or empty", got=self.sha256)

    def check_texts(self, *names: str) -> None:
        """Raise if a field is no text.

        Parameters
        ----------
        *names
            Of the fields.

        Raises
        ------
        ValueError
            One that is something else.
        """
        for name in names:
            what, value = f"card.{name}", getattr(self, name)
            if not isinstance(value, str):
                raise bad_value(what, must="be text, which may be empty", got=value)


def _finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class ModelCard(Card):
    """What a model expects, gives, and may be used for.

    Crops are cut as the card says; nobody retypes a size or a mean.
    """

    name: str
    """Name under which results are recorded."""
    dim: int
    """Width of the embedding."""
    input_px: int = 40
    """Side of the crop in px."""
    mpp: float = 0.25
    """um per crop px."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Channel means (RGB) after division by 255, subtracted before a `torch.nn.Module` sees the crop."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Channel standard deviations (RGB) after division by 255."""
    arch: str = ""
    """Architecture, in words or as the name of a constructor."""
    license: str = ""
    """Licence of the weights."""
    citation: str = ""
    """Paper to cite."""
    url: str = ""
    """Home of the weights."""
    sha256: str = ""
    """Digest of the weight file; empty where there is none."""
    hub: str = ""
    """Repository on the Hugging Face Hub; empty where the weights are not there."""
    files: tuple[str, ...] = ()
    """Names of the weight file in that repository, the preferred one first."""
    gated: bool = False
    """Whether the terms of the repository must be accepted, logged in, before the weights can be fetched."""
    revision: str = ""
    """Commit of the repository that the weights come from; empty for a file of the user's own."""
    pooling: str = ""
    """How tokens become one vector: ``"cls"``, ``"cls_mean"``, ``"centre"``, ``"average"`` or
    ``"attention"``; empty where unknown."""
    num_heads: int = 0
    """Attention heads of a ViT, 0 where there are none. Weights fit any number of heads, the embedding does not."""
    features: tuple[str, ...] = ()
    """Names of the columns where they mean something, empty for learned embeddings."""
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What an encoder of `lm.train` comes from: ``version``, ``step``, ``recipe``, ``corpus`` (digest of its manifest,
    counts, and of each source its name and licence: to be credited with the weights) and ``metrics``. Else empty."""

    def __post_init__(self) -> None:
        self.check_card(dim=self.dim, input_px=self.input_px)
        self.check_texts("arch", "hub", "revision", "pooling")
        check_int("card.num_heads", self.num_heads, least=0)
        for what, names in (("card.files", self.files), ("card.features", self.features)):
            if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
                raise bad_value(what, must="be a tuple of names", got=names)
        if not isinstance(self.training, Mapping):
            raise bad_value("card.training", must="be a dict", got=self.training)
        if self.features and (len(self.features) != self.dim or len(set(self.features)) != self.dim):
            raise bad_value("card.features", must=f"be {self.dim} different names (card.dim)", got=self.features)
