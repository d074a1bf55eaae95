"""CellViT: a transformer's features, skips back to the image, and three maps: nuclei, distances, types.

Hörst et al., "CellViT" (Medical Image Analysis 2024), in the form of HistoPLUS (arXiv:2508.09926): one neck for all
branches, no head for the tissue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from lemon_sc._core.errors import bad_value
from lemon_sc.seg.blocks import Branch, ConvBlock, up_path
from lemon_sc.seg.taps import build_encoder

if TYPE_CHECKING:
    from lemon_sc.seg.card import SegCard
    from lemon_sc.seg.taps import PyramidTaps, VitTaps

WIDTH = 64
"""Channels of the published decoder at the side of the image."""


class Neck(nn.Module):
    """Skips for the branches, from the image and the first three of the encoder's maps.

    Parameters
    ----------
    encoder
        Where the maps come from.
    width
        Channels at the side of the image; 2, 4 and 8 times as many below.
    first_scale
        Scale of the first block on each map.
    dropout
        Probability in every block.
    """

    def __init__(self, encoder: VitTaps | PyramidTaps, *, width: int, first_scale: int, dropout: float) -> None:
        super().__init__()
        half, w1, w2, w4, w8 = width // 2, width, 2 * width, 4 * width, 8 * width
        self.skip0 = nn.Sequential(ConvBlock(3, half, dropout=dropout), ConvBlock(half, w1, dropout=dropout))
        e1, e2, e3, _ = encoder.widths
        if encoder.pyramid:  # its maps are as large as the skips
            self.skip1: nn.Module = ConvBlock(e1, w2, dropout=dropout)
            self.skip2: nn.Module = ConvBlock(e2, w4, dropout=dropout)
            self.skip3: nn.Module = ConvBlock(e3, w8, dropout=dropout)
        else:
            self.skip1 = up_path([e1, w8, w4, w2], first_scale=first_scale, dropout=dropout)
            self.skip2 = up_path([e2, w8, w4], first_scale=first_scale, dropout=dropout)
            self.skip3 = up_path([e3, w8], first_scale=first_scale, dropout=dropout)

    def forward(self, image: torch.Tensor, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Image and maps to four skips, that of the image first."""
        z1, z2, z3, _ = maps
        return [self.skip0(image), self.skip1(z1), self.skip2(z2), self.skip3(z3)]


class CellViT(nn.Module):
    """Nuclei, their distance maps and their types from an image.

    With patches of 14 and 16 px there are four steps up, with 8 px three: the first then changes the channels alone.

    Parameters
    ----------
    encoder
        From `build_encoder`.
    n_classes
        Classes of the types, background among them; 0 for a network without types.
    width
        Channels at the side of the image: 64 in the published network, an even number.
    dropout
        Probability in every block of the decoder.

    Raises
    ------
    ValueError
        A width that is odd, or a single class.
    """

    def __init__(
        self, encoder: VitTaps | PyramidTaps, *, n_classes: int, width: int = WIDTH, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise bad_value("width", must="be an even int >= 2", got=width)
        if n_classes < 0 or n_classes == 1:
            raise bad_value("n_classes", must="be 0, or at least 2: background and a type", got=n_classes)
        first_scale = 2 if encoder.pyramid or encoder.stride > 8 else 1
        self.encoder = encoder
        self.stride = encoder.stride
        self.neck = Neck(encoder, width=width, first_scale=first_scale, dropout=dropout)

        def branch(channels: int) -> Branch:
            deepest = encoder.widths[-1]
            return Branch(deepest, width=width, channels=channels, first_scale=first_scale, dropout=dropout)

        self.np = branch(2)
        self.hv = branch(2)
        self.tp = branch(n_classes) if n_classes else None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised images (n, 3, H, W), sides multiples of `stride`, to maps of the same side.

        ``"np"``: logits (n, 2, H, W), background and nucleus. ``"hv"``: (n, 2, H, W), horizontal and vertical offset
        from the centre of the nucleus, -1 to 1. ``"tp"``, if there are types: logits (n, n_classes, H, W).
        """
        maps = self.encoder(x)
        skips = self.neck(x, maps)
        branches = {"np": self.np, "hv": self.hv, "tp": self.tp}
        return {name: branch(maps[-1], skips) for name, branch in branches.items() if branch is not None}


def build_network(card: SegCard, *, drop_path: float = 0.0, generator: torch.Generator | None = None) -> CellViT:
    """The network of a card with initial weights, on torch's current default device.

    Parameters
    ----------
    card
        Says encoder, taps, classes and width.
    drop_path
        Probability that a sample skips the last block of the encoder in training.
    generator
        Randomness of the initial weights; ``None`` seeds one with 0.

    Returns
    -------
    The network, in training mode.
    """
    seed = int(torch.randint(2**31, (), generator=generator or torch.Generator().manual_seed(0), device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        encoder = build_encoder(card.encoder, size_px=card.size_px, taps=card.taps, drop_path=drop_path)
        return CellViT(encoder, n_classes=len(card.classes), width=card.width)
