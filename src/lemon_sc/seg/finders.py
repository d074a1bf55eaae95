"""What finds the nuclei of a tile: a network of ours, haematoxylin alone, or another package.

A finder works in two steps. ``look`` takes a batch of tiles to the device, in the thread that owns it; ``find`` turns
what was seen of one tile into nuclei, on any thread, while the device looks at the next batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lemon_sc._core.errors import bad_value, listing
from lemon_sc.seg.classical import segment_haematoxylin
from lemon_sc.seg.packages import PACKAGES, load_package
from lemon_sc.seg.postprocess import nuclei

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lemon_sc.seg.postprocess import Nuclei
    from lemon_sc.seg.segmenter import Segmenter

HAEMATOXYLIN = "haematoxylin"
"""Name of the segmenter that needs no weights."""
UNTYPED = "nucleus"
"""Type of a nucleus where the model tells no types apart."""


class Finder(Protocol):
    """Finds nuclei in tiles of one pixel size."""

    @property
    def name(self) -> str:
        """Under which results are recorded."""
        ...

    @property
    def mpp(self) -> float:
        """um per px of the tiles."""
        ...

    @property
    def least_px(self) -> int:
        """Side of the smallest tiles it may be given, px."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Types by code; one of them where it tells none apart."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says of it: digest, licence and citation, as text."""
        ...

    def look(self, tiles: NDArray[np.uint8]) -> Sequence[Any]:
        """What is seen of each tile, uint8 (n, t, t, 3)."""
        ...

    def find(self, tile: NDArray[np.uint8], seen: Any, *, mpp: float) -> Nuclei:
        """The nuclei of one tile of `mpp` um per px."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkFinder:
    """A network and the watershed on its maps."""

    segmenter: Segmenter

    @property
    def name(self) -> str:
        """Of the card."""
        return self.segmenter.card.name

    @property
    def mpp(self) -> float:
        """Of the card."""
        return self.segmenter.card.mpp

    @property
    def least_px(self) -> int:
        """Side of the tiles that the network was trained on."""
        return self.segmenter.card.size_px

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the card; without types, one."""
        return self.segmenter.card.classes or (UNTYPED,)

    @property
    def facts(self) -> dict[str, Any]:
        """Of the card."""
        card = self.segmenter.card
        return {"sha256": card.sha256, "license": card.license, "citation": card.citation}

    def look(self, tiles: NDArray[np.uint8]) -> Sequence[Any]:
        """Maps of each tile."""
        maps = self.segmenter.maps(tiles)
        types = [None] * len(tiles) if maps.types is None else maps.types
        return list(zip(maps.nuclei, maps.hv, types, strict=True))

    def find(self, tile: NDArray[np.uint8], seen: Any, *, mpp: float) -> Nuclei:
        """Watershed on the maps."""
        probability, hv, types = seen
        return nuclei(probability, hv, types, mpp=mpp)


@dataclass(frozen=True, eq=False, kw_only=True)
class HaematoxylinFinder:
    """`segment_haematoxylin`, all of which runs on the threads."""

    name: str = HAEMATOXYLIN
    mpp: float = 0.25
    least_px: int = 64
    classes: tuple[str, ...] = (UNTYPED,)
    facts: dict[str, Any] = field(default_factory=dict)

    def look(self, tiles: NDArray[np.uint8]) -> Sequence[Any]:
        """Nothing to do on a device."""
        return [None] * len(tiles)

    def find(self, tile: NDArray[np.uint8], seen: Any, *, mpp: float) -> Nuclei:
        """Threshold and watershed."""
        return segment_haematoxylin(tile, mpp=mpp)


def resolve_finder(model: Any = None, *, device: str = "auto") -> Finder:
    """The finder that a user names.

    Parameters
    ----------
    model
        None (a segmenter that ships with the package if there is one, else haematoxylin alone), ``"haematoxylin"``,
        the name of a segmenter or of another package, the path of a weight file, a `Segmenter`, or a finder.
    device
        Where a network computes: ``"auto"`` or one name.

    Returns
    -------
    The finder.

    Raises
    ------
    ImportError
        If it is another package that is not installed.
    FileNotFoundError
        If there is no such model or file.
    TypeError
        If it is nothing of all that.
    """
    if model is None:
        model = _shipped() or HAEMATOXYLIN
    if isinstance(model, str) and model == HAEMATOXYLIN:
        return HaematoxylinFinder()
    if isinstance(model, str) and model in PACKAGES:
        return load_package(model, device=device)
    if isinstance(model, str | Path):
        from lemon_sc.seg import checkpoint  # loads torch

        try:
            model = checkpoint.load(model)
        except FileNotFoundError as error:
            names = listing([HAEMATOXYLIN, *PACKAGES])
            msg = f"{error} Without weights of ours: {names}."
            raise FileNotFoundError(msg) from error
    if hasattr(model, "card") and hasattr(model, "maps"):
        from lemon_sc.embed.devices import resolve_devices

        return NetworkFinder(segmenter=model.to(resolve_devices(device)[0]))
    if all(hasattr(model, name) for name in ("look", "find", "mpp", "classes")):
        return model
    msg = f"`model` must be None, a name, a path or a segmenter, got {type(model).__name__}."
    raise TypeError(msg)


def _shipped() -> str | None:
    """Name of the segmenter that ships with the package, or None."""
    folder = Path(__file__).parent / "weights"
    names = sorted(path.stem for path in folder.glob("*.json"))
    return names[0] if names else None


def check_found(found: Nuclei, classes: Sequence[str], *, name: str) -> Nuclei:
    """Return what a finder found if its types have names, else raise.

    Parameters
    ----------
    found
        Nuclei of a tile.
    classes
        Types by code.
    name
        Of the finder, for the message.

    Returns
    -------
    `found`.

    Raises
    ------
    ValueError
        If a code has no name.
    """
    if len(found) and int(found.type.max()) >= len(classes):
        raise bad_value(
            "classes",
            must=f"name every type that {name!r} finds, the background first (it found code {found.type.max()})",
            got=tuple(classes),
        )
    return found
