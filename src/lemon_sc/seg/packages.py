"""Segmenters of other packages, each through its own documented call. They see tiles; nuclei are joined here.

Names, licences and limits are theirs. Pixel sizes are those of the H&E that their models were made for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.optional import require
from lemon_sc.seg.measure import measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lemon_sc.seg.postprocess import Nuclei

    Seen = tuple[NDArray[np.integer], NDArray[np.floating] | None]

UNTYPED = ("nucleus",)
MIN_AREA_UM2 = 4.0


@dataclass(frozen=True, eq=False, kw_only=True)
class PackageFinder:
    """Another package's model.

    Attributes
    ----------
    name
        Of the package.
    mpp
        um per px of the tiles it is given.
    call
        Tiles, uint8 (n, t, t, 3), to labels (t, t) and, where it tells, the probability of each label, (labels,).
    least_px
        Side of the smallest tiles.
    classes, facts
        As of `lemon_sc.seg.finders.Finder`.
    """

    name: str
    mpp: float
    call: Callable[[NDArray[np.uint8]], Sequence[Seen]]
    least_px: int = 128
    classes: tuple[str, ...] = UNTYPED
    facts: dict[str, Any] = field(default_factory=dict)

    def look(self, tiles: NDArray[np.uint8]) -> Sequence[Seen]:
        """Labels of each tile."""
        return self.call(tiles)

    def find(self, tile: NDArray[np.uint8], seen: Seen, *, mpp: float) -> Nuclei:
        """The nuclei of its labels."""
        labels, probability = seen
        if labels.shape != tile.shape[:2]:
            msg = f"{self.name} gave labels of shape {labels.shape} for a tile of {tile.shape[:2]} px."
            raise ValueError(msg)
        score = None if probability is None else np.r_[0.0, probability][labels]
        return measured(labels.astype(np.int64), score=score, least=MIN_AREA_UM2 / mpp**2)


def _use_gpu(device: str) -> bool:
    return device.startswith("cuda") if device != "auto" else _cuda()


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _cellpose(device: str) -> PackageFinder:
    """Cellpose 4 (Cellpose-SAM): ``CellposeModel.eval`` of a list of images gives a list of label images first."""
    models = require("cellpose.models", extra="cellpose", purpose="model='cellpose'")
    model = models.CellposeModel(gpu=_use_gpu(device))

    def call(tiles: NDArray[np.uint8]) -> list[Seen]:
        masks = model.eval(list(tiles))[0]
        return [(np.asarray(mask), None) for mask in masks]

    return PackageFinder(name="cellpose", mpp=0.5, call=call)


def _stardist(device: str) -> PackageFinder:
    """StarDist's 2D_versatile_he: ``predict_instances`` of an image of 0 to 1 gives labels and their probabilities."""
    models = require("stardist.models", extra="stardist", purpose="model='stardist'")
    model = models.StarDist2D.from_pretrained("2D_versatile_he")

    def call(tiles: NDArray[np.uint8]) -> list[Seen]:
        found = (model.predict_instances(tile.astype(np.float32) / 255) for tile in tiles)
        return [(np.asarray(labels), np.asarray(details["prob"])) for labels, details in found]

    return PackageFinder(name="stardist", mpp=0.25, call=call)


def _instanseg(device: str) -> PackageFinder:
    """InstanSeg's brightfield_nuclei: ``eval_small_image`` gives labels (1, 1, h, w) as a tensor."""
    instanseg = require("instanseg", extra="instanseg", purpose="model='instanseg'")
    mpp = 0.5
    model = instanseg.InstanSeg("brightfield_nuclei", device=None if device == "auto" else device, verbosity=0)

    def call(tiles: NDArray[np.uint8]) -> list[Seen]:
        found = (model.eval_small_image(tile, mpp, return_image_tensor=False) for tile in tiles)
        return [(np.asarray(labels).reshape(tiles.shape[1:3]).astype(np.int64), None) for labels in found]

    return PackageFinder(name="instanseg", mpp=mpp, call=call)


PACKAGES: dict[str, Callable[[str], PackageFinder]] = {
    "cellpose": _cellpose,
    "instanseg": _instanseg,
    "stardist": _stardist,
}


def load_package(name: str, *, device: str = "auto") -> PackageFinder:
    """Another package's model.

    Parameters
    ----------
    name
        One of `PACKAGES`.
    device
        ``"auto"`` or one name.

    Returns
    -------
    The finder. The package may fetch its weights on first use.

    Raises
    ------
    ImportError
        If the package is not installed; the message names the extra.
    """
    return PACKAGES[name](device)
