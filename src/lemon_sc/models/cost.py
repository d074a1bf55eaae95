"""Multiply-accumulates of an encoder for one image, from its layers."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lemon_sc._core.errors import bad_value
from lemon_sc.models import tiles, vit
from lemon_sc.models.conch import ConchTower
from lemon_sc.models.encoder import Encoder
from lemon_sc.models.networks import TileEncoder
from lemon_sc.models.zoo import ZOO

if TYPE_CHECKING:
    from collections.abc import Iterator


def macs(model: str | VisionTransformer | TileEncoder | Encoder, *, attention: bool = False) -> int:
    """Multiply-accumulates (half the FLOPs) for one image.

    Papers of the field print the count without the attention products as "FLOPs" (ViT-S/8 at 40 px: 0.554 G;
    H-Optimus-0 at 224 px: 295.8 G).

    Parameters
    ----------
    model
        Name of a model with a network (its weights are not needed), an `Encoder` with a module, or a timm
        VisionTransformer of any width, depth, MLP kind (plain or gated) and number of prefix tokens.
    attention
        Count the two products of queries, keys and values as well: ``2 * depth * tokens^2 * width``.

    Returns
    -------
    The count for linear and convolution layers, plus attention if asked.

    Raises
    ------
    TypeError, ValueError
        No such network.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> round(lm.models.macs("uni") / 1e9, 2)
    59.65
    """
    network: Any = _named(model) if isinstance(model, str) else model
    if isinstance(network, Encoder):
        network = network.module
    if isinstance(network, TileEncoder):
        if isinstance(network.backbone, ConchTower):
            tower = network.backbone
            return _of_transformer(tower.trunk, attention=attention) + tower.pooling_macs(attention=attention)
        if not isinstance(network.backbone, VisionTransformer):
            return _of_convolutions(network.backbone, network.size_px)
        network = network.backbone
    if not hasattr(network, "patch_embed") or not hasattr(network, "blocks"):
        msg = f"`model` must be the name of a network or a timm VisionTransformer, got {type(network).__name__}."
        raise TypeError(msg)
    return _of_transformer(network, attention=attention)


def _named(name: str) -> nn.Module:
    if name in ZOO:
        return tiles.untrained(ZOO[name])
    if name == "lemon":
        return vit.vit_s8_40()
    raise bad_value("model", must="be a model with a network", got=name, fix=f"These are: lemon, {', '.join(ZOO)}.")


def _of_transformer(model: Any, *, attention: bool) -> int:
    patches = model.patch_embed.num_patches
    tokens = patches + model.num_prefix_tokens
    total = patches * math.prod(model.patch_embed.proj.weight.shape)
    for block in model.blocks:
        total += tokens * sum(layer.weight.numel() for layer in block.modules() if isinstance(layer, nn.Linear))
        if attention:
            total += 2 * tokens**2 * model.embed_dim
    return total


def _of_convolutions(network: nn.Module, size_px: int) -> int:
    """Each value that a layer gives costs one product per weight of its filter; run without data."""
    counts: list[int] = []

    def count(layer: Any, _: Any, out: torch.Tensor) -> None:
        counts.append(out.numel() * layer.weight[0].numel())

    empty = copy.deepcopy(network).to("meta").eval()
    for layer in _counted(empty):
        layer.register_forward_hook(count)
    with torch.inference_mode():
        empty(torch.empty(1, 3, size_px, size_px, device="meta"))
    return sum(counts)


def _counted(network: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
