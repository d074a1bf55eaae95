"""Blocks of the decoder; the numbers of their layers are those under which CellViT's weights are published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch norm, ReLU, dropout: (n, width_in, H, W) to (n, width, H, W)."""

    def __init__(self, width_in: int, width: int, *, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(dropout)
        )


class UpBlock(nn.Sequential):
    """Transposed convolution, then as `ConvBlock`: (n, width_in, H, W) to (n, width, scale H, scale W)."""

    def __init__(self, width_in: int, width: int, *, scale: int = 2, dropout: float = 0.0) -> None:
        super().__init__(
            doubling(width_in, width, scale=scale),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )


def doubling(width_in: int, width: int, *, scale: int = 2) -> nn.ConvTranspose2d:
    """Transposed convolution whose kernel is its stride: every pixel becomes a square of `scale` px.

    Parameters
    ----------
    width_in, width
        Channels in and out.
    scale
        2, or 1 for a change of channels alone.

    Returns
    -------
    The layer.
    """
    return nn.ConvTranspose2d(width_in, width, scale, stride=scale)


def up_path(widths: Sequence[int], *, first_scale: int = 2, dropout: float = 0.0) -> nn.Sequential:
    """`UpBlock` after `UpBlock`.

    Parameters
    ----------
    widths
        Channels: of the input, then of every block.
    first_scale
        That of the first block; the others double.
    dropout
        Probability in every block.

    Returns
    -------
    One block fewer than there are widths.
    """

    def blocks() -> Iterator[nn.Module]:
        for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            yield UpBlock(before, after, scale=2 if i else first_scale, dropout=dropout)

    return nn.Sequential(*blocks())


class Branch(nn.Module):
    """One output of the decoder: from the deepest features, with the shared skips, up to the side of the image.

    Parameters
    ----------
    width_in
        Channels of the deepest features.
    width
        Channels at the side of the image; 2, 4 and 8 times as many below.
    channels
        Of the output.
    first_scale
        That of the first step up; the other three double.
    dropout
        Probability in every block.
    """

    def __init__(self, width_in: int, *, width: int, channels: int, first_scale: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        w1, w2, w4, w8 = width, 2 * width, 4 * width, 8 * width

        def conv(before: int, after: int) -> ConvBlock:
            return ConvBlock(before, after, dropout=dropout)

        self.up4 = doubling(width_in, w8, scale=first_scale)
        self.up3 = nn.Sequential(conv(2 * w8, w8), conv(w8, w8), conv(w8, w8), doubling(w8, w4))
        self.up2 = nn.Sequential(conv(2 * w4, w4), conv(w4, w4), doubling(w4, w2))
        self.up1 = nn.Sequential(conv(2 * w2, w2), conv(w2, w2), doubling(w2, w1))
        self.head = nn.Sequential(conv(2 * w1, w1), conv(w1, w1), nn.Conv2d(w1, channels, 1))

    def forward(self, z4: torch.Tensor, skips: Sequence[torch.Tensor]) -> torch.Tensor:
        """Deepest features and four skips, the one of the image first, to (n, channels, H, W)."""
        n0, n1, n2, n3 = skips
        d3 = self.up3(torch.cat([n3, self.up4(z4)], dim=1))
        d2 = self.up2(torch.cat([n2, d3], dim=1))
        d1 = self.up1(torch.cat([n1, d2], dim=1))
        if d1.shape[-2:] != n0.shape[-2:]:  # 16 times the grid of tokens is not the image where patches are of 14 px
            d1 = nn.functional.interpolate(d1, n0.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(torch.cat([n0, d1], dim=1))
