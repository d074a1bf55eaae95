"""Multiply-accumulates of a ViT for one image, from its layers: no input is run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


def macs(model: VisionTransformer, *, attention: bool = False) -> int:
    """Multiply-accumulates (half the FLOPs) for one image.

    Papers of the field print the count without the attention products as "FLOPs" (ViT-S/8 at 40 px: 0.554 G).

    Parameters
    ----------
    model
        A timm VisionTransformer, of any width, depth, MLP kind (plain or gated) and number of prefix tokens.
    attention
        Count the two products of queries, keys and values as well: ``2 * depth * tokens^2 * width``.

    Returns
    -------
    The count for linear and convolution layers of patch embedding and blocks, plus attention if asked.
    """
    if not hasattr(model, "patch_embed") or not hasattr(model, "blocks"):
        msg = f"`model` must be a timm VisionTransformer, got {type(model).__name__}."
        raise TypeError(msg)
    patches = model.patch_embed.num_patches
    tokens = patches + model.num_prefix_tokens
    total = patches * math.prod(model.patch_embed.proj.weight.shape)
    for block in model.blocks:
        total += tokens * sum(layer.weight.numel() for layer in block.modules() if isinstance(layer, nn.Linear))
        if attention:
            total += 2 * tokens**2 * model.embed_dim
    return total
