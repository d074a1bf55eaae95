"""All tokens of a ViT, of images of any multiple of the patch size, with some patches hidden."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lemon_sc._core.errors import bad_value

PARTS = ("patch_embed", "cls_token", "pos_embed", "blocks", "norm")


def check_vit(encoder: nn.Module) -> None:
    """Raise unless the encoder is a ViT of timm with a class token, no registers and no classifier.

    Parameters
    ----------
    encoder
        Any module.

    Raises
    ------
    ValueError
        If it is something else.
    """
    complete = all(getattr(encoder, name, None) is not None for name in PARTS)
    bare = isinstance(getattr(encoder, "head", None), nn.Identity)
    if not complete or not bare or getattr(encoder, "num_prefix_tokens", 0) != 1:
        must = "be a ViT of timm with a class token, without registers and classifier"
        raise bad_value("encoder", must=must, got=type(encoder).__name__, fix="See `lemon_sc.models.vit_s8_40`.")


def vit_tokens(
    vit: Any, images: torch.Tensor, *, mask: torch.Tensor | None = None, mask_token: torch.Tensor | None = None
) -> torch.Tensor:
    """Normed tokens of a ViT, the class token first.

    Parameters
    ----------
    vit
        As `check_vit` has it.
    images
        (n, 3, H, W), with sides that are multiples of the patch size. For another size than its own the position
        embedding is interpolated bicubically.
    mask
        bool (n, P), true for patches whose embedding is replaced by `mask_token`, before positions are added.
    mask_token
        (1, D).

    Returns
    -------
    (n, 1 + P, D); patches run along rows.

    Raises
    ------
    ValueError
        A size that is no multiple of the patch size.
    """
    patch = vit.patch_embed.patch_size
    sides = (images.shape[2] // patch[0], images.shape[3] // patch[1])
    if images.shape[2] % patch[0] or images.shape[3] % patch[1]:
        raise bad_value("views", must=f"have sides that are multiples of {patch[0]} px", got=tuple(images.shape))
    x = vit.patch_embed.norm(vit.patch_embed.proj(images).flatten(2).transpose(1, 2))
    if mask is not None and mask_token is not None:
        x = torch.where(mask[..., None], mask_token.to(x.dtype), x)
    x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1)
    x = x + resized_positions(vit.pos_embed, vit.patch_embed.grid_size, sides)
    return vit.norm(vit.blocks(vit.norm_pre(vit.pos_drop(x))))


def resized_positions(positions: torch.Tensor, own: tuple[int, int], sides: tuple[int, int]) -> torch.Tensor:
    """Position embedding of another grid, the class token's row as it is.

    Parameters
    ----------
    positions
        (1, 1 + rows * columns, D).
    own, sides
        Rows and columns that it is made for, and those wanted.

    Returns
    -------
    (1, 1 + rows * columns, D).
    """
    if tuple(own) == tuple(sides):
        return positions
    grid = positions[:, 1:].unflatten(1, own).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=sides, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
