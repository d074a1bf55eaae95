"""Encoders as the decoder sees them: four feature maps of an image of any size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.models.networks import build
from lemon_sc.models.vit import INPUT_PX, PATCH_PX, cell_vit
from lemon_sc.models.zoo import ZOO

if TYPE_CHECKING:
    from collections.abc import Sequence

CELL_VITS: dict[str, dict[str, Any]] = {
    "vit_b8": {"dim": 768, "depth": 12, "num_heads": 12},
    "vit_s8": {"dim": 384, "depth": 12, "num_heads": 12},
    "vit_ti8": {"dim": 192, "depth": 12, "num_heads": 3},
    "vit_debug": {"dim": 32, "depth": 4, "num_heads": 2},
}
"""Our own transformers, with patches of 8 px."""
PYRAMIDS = {"conv_r18": "resnet18"}
"""Convolutional encoders, and their names in timm."""
SAM = {"sam_b": "samvit_base_patch16"}
"""Encoders of Segment Anything, and their names in timm."""
TOLD = {"conv_r18_vit_ti8": ("conv_r18", "vit_ti8")}
"""Convolutional encoders, and our own transformers that tell them what they see in crops of 40 px."""
ENCODERS = (*PYRAMIDS, *TOLD, *CELL_VITS, *SAM, *(name for name, entry in ZOO.items() if entry.kind == "vit"))
"""Encoders by the names that a card may give."""
PYRAMID_STRIDE = 16
SAM_PX = 1024
"""Side that Segment Anything's position embedding is for; it resamples it to the image by itself."""


class VitTaps(nn.Module):
    """A transformer that gives the raw outputs of four of its blocks as maps, class and register tokens removed.

    Parameters
    ----------
    vit
        Of timm; it then takes images of any multiple of its patch, the position embedding resampled (bicubic).
    taps
        The four blocks, 1-based, increasing: (3, 6, 9, 12) is behind the third, the sixth, ...

    Raises
    ------
    ValueError
        Blocks that it does not have.
    """

    pyramid = False

    def __init__(self, vit: nn.Module, *, taps: Sequence[int]) -> None:
        super().__init__()
        self.vit = cast("Any", any_size(vit))
        depth = len(self.vit.blocks)
        good = len(taps) == 4 and list(taps) == sorted(set(taps)) and taps[0] >= 1 and taps[-1] <= depth
        if not good:
            raise bad_value("taps", must=f"be four different blocks, increasing, of 1 to {depth}", got=tuple(taps))
        self.indices = [tap - 1 for tap in taps]
        self.stride = int(self.vit.patch_embed.patch_size[0])
        self.widths: tuple[int, ...] = (int(self.vit.embed_dim),) * 4

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Normalised images (n, 3, H, W) to four maps (n, D, H / patch, W / patch)."""
        return self.vit.forward_intermediates(x, indices=self.indices, norm=False, intermediates_only=True)


class PyramidTaps(nn.Module):
    """A convolutional network that gives its maps at 1/2, 1/4, 1/8 and 1/16 of the image.

    Parameters
    ----------
    name
        Of the network in timm.
    """

    pyramid = True
    stride = PYRAMID_STRIDE

    def __init__(self, name: str) -> None:
        super().__init__()
        made = timm.create_model(name, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3))
        self.body = cast("Any", made)
        self.widths: tuple[int, ...] = tuple(self.body.feature_info.channels())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Normalised images (n, 3, H, W) to maps with a half, a quarter, an eighth and a sixteenth of the side."""
        return self.body(x)


class ToldTaps(PyramidTaps):
    """A convolutional network that is told, at 1/4 of the image, what a cell ViT sees there.

    The image, at 0.5 um per px, is enlarged twice and laid out in crops of 40 px, side by side: what the ViT was
    trained on, with its position embedding as it is. Its tokens, of 2 um, lie where the network's px at 1/4 lie, and a
    linear layer of the outputs of four blocks is added to these. That layer begins at zero: the network begins as it is
    without the ViT, whose own weights do not learn.

    Parameters
    ----------
    name
        Of the network in timm.
    vit
        For crops of 40 px.
    """

    AT = "layer1"
    """The stage of the network whose px are as large as a token."""
    ZOOM = 2
    CROPS = 1024
    """Crops that go through the ViT together."""
    CROPS_CPU = 64
    """The same on a CPU, for its caches."""

    def __init__(self, name: str, vit: VitTaps) -> None:
        super().__init__(name)
        self.vit = vit.requires_grad_(requires_grad=False)
        told = nn.Conv2d(sum(vit.widths), self.widths[1], 1)
        for parameter in told.parameters():
            nn.init.zeros_(parameter)
        self.tell = nn.Sequential(nn.BatchNorm2d(sum(vit.widths)), told)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """As of `PyramidTaps`."""
        told, maps = self.tell(self.seen(x)), []
        for name, stage in self.body.items():
            x = stage(x)
            if name == self.AT:
                x = x + told
            if name in self.body.return_layers:
                maps.append(x)
        return maps

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the ViT says of images (n, 3, H, W): (n, D, H / 4, W / 4), its four maps one after the other."""
        n, _, height, width = x.shape
        large = F.interpolate(x, scale_factor=self.ZOOM, mode="bilinear")
        large = F.pad(large, (0, -large.shape[3] % INPUT_PX, 0, -large.shape[2] % INPUT_PX), mode="replicate")
        down, across = (side // INPUT_PX for side in large.shape[2:])
        crops = large.reshape(n, 3, down, INPUT_PX, across, INPUT_PX).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        at_once = self.CROPS_CPU if x.device.type == "cpu" else self.CROPS
        maps = torch.cat([torch.cat(self.vit(some), dim=1) for some in crops.split(at_once)])
        grid, depth = maps.shape[-1], maps.shape[1]
        whole = maps.reshape(n, down, across, depth, grid, grid).permute(0, 3, 1, 4, 2, 5)
        token = PATCH_PX // self.ZOOM
        return whole.reshape(n, depth, down * grid, across * grid)[..., : height // token, : width // token]


def any_size(vit: nn.Module) -> nn.Module:
    """Let a transformer of timm take images of other sizes than it was built for, in place.

    Parameters
    ----------
    vit
        timm's VisionTransformer, or one of Segment Anything, which does so by itself.

    Returns
    -------
    The same network.
    """
    if isinstance(vit, VisionTransformer):
        anything, embed = cast("Any", vit), cast("Any", vit.patch_embed)
        anything.dynamic_img_size = True
        embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC
    return vit


def build_encoder(
    name: str, *, size_px: int, taps: Sequence[int] = (3, 6, 9, 12), drop_path: float = 0.0
) -> VitTaps | PyramidTaps:
    """An encoder by name, with initial weights, on torch's current default device.

    Parameters
    ----------
    name
        One of `ENCODERS`.
    size_px
        Side of the images that its position embedding is made for, except Segment Anything's, and of `TOLD`.
    taps
        Blocks of a transformer, 1-based; a convolutional encoder has no choice.
    drop_path
        Probability that a sample skips the last block in training; it falls to 0 at the first. Of transformers.

    Returns
    -------
    The encoder, with ``widths`` and ``stride``.

    Raises
    ------
    ValueError
        An unknown name, blocks that it does not have, or a side that its patch does not divide.
    """
    one_of("encoder", name, ENCODERS)
    stride = stride_of(name)
    if size_px < stride or size_px % stride:
        fix = f"{max(round(size_px / stride), 1) * stride} would do."
        raise bad_value("size_px", must=f"be a multiple of {stride} for {name}", got=size_px, fix=fix)
    if name in PYRAMIDS:
        return PyramidTaps(PYRAMIDS[name])
    if name in TOLD:
        body, cells = TOLD[name]
        return ToldTaps(PYRAMIDS[body], VitTaps(cell_vit(**CELL_VITS[cells]), taps=taps))
    if name in CELL_VITS:
        return VitTaps(cell_vit(**CELL_VITS[name], image_px=size_px, drop_path=drop_path), taps=taps)
    if name in SAM:
        vit = timm.create_model(SAM[name], pretrained=False, num_classes=0, img_size=SAM_PX, drop_path_rate=drop_path)
        return VitTaps(vit, taps=taps)
    return VitTaps(build(replace(ZOO[name], size_px=size_px), drop_path_rate=drop_path), taps=taps)


def stride_of(name: str) -> int:
    """What sides of an encoder's images are multiples of: its patch, or 16.

    Parameters
    ----------
    name
        One of `ENCODERS`.

    Returns
    -------
    Px.
    """
    if name in PYRAMIDS or name in TOLD or name in SAM:
        return PYRAMID_STRIDE
    return PATCH_PX if name in CELL_VITS else int(ZOO[name].options["patch_size"])
