"""A network with its card: images in, maps out."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lemon_sc._core.errors import bad_value
from lemon_sc.embed.devices import cpu_has_amx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.seg.card import SegCard
    from lemon_sc.seg.network import CellViT


@dataclass(frozen=True, eq=False, kw_only=True)
class Maps:
    """What a network says of n images of H x W px.

    Attributes
    ----------
    nuclei
        Probability of a nucleus, float32 (n, H, W).
    hv
        Horizontal and vertical offset from the centre of the nucleus, float32 (n, 2, H, W).
    types
        Most probable class, uint8 (n, H, W), 0 for the background; None of a network without types.
    """

    nuclei: NDArray[np.float32]
    hv: NDArray[np.float32]
    types: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Segmenter:
    """A network in eval mode, and what its card says of it.

    Attributes
    ----------
    card
        What it expects and gives.
    network
        Normalised images to logits, see `CellViT`.
    """

    card: SegCard
    network: CellViT

    @property
    def device(self) -> str:
        """Where the network is."""
        return str(next(self.network.parameters()).device)

    def to(self, device: str) -> Segmenter:
        """The segmenter with a copy of its network on a device."""
        if self.device == device:
            return self
        return replace(self, network=copy.deepcopy(self.network).to(device))

    def maps(self, images: NDArray[np.uint8]) -> Maps:
        """Look at images, all in one batch, where the network is.

        Sides that are no multiple of the network's stride are continued by reflection, and the maps cut back.

        Parameters
        ----------
        images
            uint8 (n, H, W, 3), RGB at ``card.mpp``.

        Returns
        -------
        Maps of the same height and width. The network computes in bfloat16 where the device multiplies matrices of it
        in hardware: on CUDA, and on a CPU with AMX.

        Raises
        ------
        ValueError
            Not uint8 (n, H, W, 3), or images without pixels.
        """
        check_images(images)
        height, width = images.shape[1:3]
        if not len(images):
            none = np.zeros((0, height, width), np.uint8) if self.card.classes else None
            empty = np.zeros((0, height, width), np.float32)
            return Maps(nuclei=empty, hv=np.zeros((0, 2, height, width), np.float32), types=none)
        padded = pad_to(images, self.network.stride)
        with torch.inference_mode():
            x = normalised(torch.from_numpy(padded).to(self.device), self.card)
            half = x.device.type == "cuda" or (x.device.type == "cpu" and cpu_has_amx())
            with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
                found = self.network(x)
            cut = {name: values[..., :height, :width].float() for name, values in found.items()}
            nuclei = cut["np"].softmax(1)[:, 1].cpu().numpy()
            types = cut["tp"].argmax(1).to(torch.uint8).cpu().numpy() if "tp" in cut else None
            return Maps(nuclei=nuclei, hv=np.ascontiguousarray(cut["hv"].cpu().numpy()), types=types)


def check_images(images: Any) -> None:
    """Raise unless these are images.

    Parameters
    ----------
    images
        What was given.

    Raises
    ------
    ValueError
        Not uint8 (n, H, W, 3), or without pixels.
    """
    is_array = isinstance(images, np.ndarray)
    good = is_array and images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if not good or min(images.shape[1:3]) < 1:
        got = f"{images.dtype} {images.shape}" if is_array else type(images).__name__
        fix = "One image is image[None]; drop the alpha channel: image[..., :3]."
        raise bad_value("images", must="be uint8 RGB of shape (n, H, W, 3)", got=got, fix=fix)


def pad_to(images: NDArray[np.uint8], stride: int) -> NDArray[np.uint8]:
    """Continue images to the right and below, by reflection, to sides that a stride divides.

    Parameters
    ----------
    images
        uint8 (n, H, W, 3).
    stride
        Px.

    Returns
    -------
    uint8 (n, H', W', 3); the same array where nothing is added.
    """
    below, right = (-side % stride for side in images.shape[1:3])
    if not (below or right):
        return np.require(images, requirements=["C", "W"])  # torch warns of arrays that it must not write to
    return np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")


def normalised(images: torch.Tensor, card: SegCard) -> torch.Tensor:
    """Images as the network takes them.

    Parameters
    ----------
    images
        uint8, or float of 0 to 255, (n, H, W, 3).
    card
        Has the statistics.

    Returns
    -------
    float32 (n, 3, H, W), channels last in memory.
    """
    mean, std = (torch.tensor(v, device=images.device) for v in (card.mean, card.std))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
