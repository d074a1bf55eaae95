"""The card of a segmenter: what a user, and the code that cuts the tiles, must know about it. No torch is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import bad_value, listing, missing_key
from lemon_sc._core.fields import check_names, plain
from lemon_sc.models.cards import Card

if TYPE_CHECKING:
    from collections.abc import Mapping

BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class SegCard(Card):
    """What a segmenter expects, gives, and may be used for."""

    name: str
    """Name under which results are recorded."""
    encoder: str
    """Its encoder, one of `lemon_sc.seg.taps.ENCODERS`."""
    classes: tuple[str, ...] = ()
    """Types by channel, ``"background"`` first; empty for a network that finds nuclei without types."""
    taps: tuple[int, ...] = (3, 6, 9, 12)
    """Blocks of a transformer whose outputs are decoded, 1-based. A convolutional encoder does not read it."""
    width: int = 64
    """Channels of the decoder at the side of the image."""
    mpp: float = 0.25
    """um per px that the network was trained at."""
    size_px: int = 256
    """Side of the tiles that the network was trained on."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means (RGB) after division by 255, subtracted before the network sees a tile."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations (RGB) after division by 255."""
    license: str = ""
    """Licence of the weights."""
    citation: str = ""
    """Paper to cite."""
    url: str = ""
    """Home of the weights."""
    sha256: str = ""
    """Digest of the weight file; empty where there is none."""
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What it was trained by and on: ``version``, ``step``, ``recipe``, ``data`` (name and licence of each set, to be
    credited with the weights) and ``metrics``. Else empty."""

    def __post_init__(self) -> None:
        for name in ("classes", "taps", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.check_card(size_px=self.size_px, width=self.width)
        check_classes(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """All fields, in types that JSON has."""
        return plain(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SegCard:
        """The card that `to_dict` wrote.

        Raises
        ------
        KeyError
            A field that cards do not have, or one that is missing.
        """
        check_names(cls, fields, where="fields of a segmenter's card")
        for name in ("name", "encoder", "sha256"):
            if name not in fields:
                raise missing_key(name, where="card of a segmenter", have=fields)
        return cls(**fields)


def check_classes(classes: tuple[str, ...]) -> None:
    """Raise unless a list of types is empty, or begins with the background and names every type once.

    Parameters
    ----------
    classes
        Names by channel.

    Raises
    ------
    ValueError
        Another list.
    """
    if not classes:
        return
    if classes[0] != BACKGROUND or len(classes) < 2:
        fix = f"Write ({BACKGROUND!r}, ...), or () for nuclei without types."
        raise bad_value("classes", must=f"begin with {BACKGROUND!r} and name a type", got=classes, fix=fix)
    if len(set(classes)) != len(classes):
        twice = sorted({c for c in classes if classes.count(c) > 1})
        msg = f"`classes` names {listing(twice)} twice: {listing(classes, most=40)}."
        raise ValueError(msg)
