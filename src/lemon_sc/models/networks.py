"""Networks of the zoo: built to their published architecture, fed with resized crops, pooled to one vector."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from lemon_sc._core.errors import one_of
from lemon_sc.models.conch import ConchTower, image_tower

if TYPE_CHECKING:
    from pathlib import Path

    from lemon_sc.models.zoo import Entry

POOLINGS = {"cls": 1, "cls_mean": 2, "centre": 1}
"""Ways to pool the tokens of a ViT, and the width of the result over that of the ViT."""
CENTRE = 4
"""Tokens per side that centre pooling keeps."""


class TileEncoder(nn.Module):
    """A network trained on tiles, applied to crops of any size.

    Crops are resized (bicubic, antialiased, as Pillow does) to `size_px`. They may be normalised before: both steps
    are linear, and the weights of the first sum to one.
    """

    def __init__(self, backbone: nn.Module, *, size_px: int, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.size_px = size_px
        self.pooling = pooling

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Normalised crops (n, 3, S, S) to (n, D)."""
        size = (self.size_px, self.size_px)
        if x_NCHW.shape[-2:] != size:
            x_NCHW = functional.interpolate(x_NCHW, size, mode="bicubic", antialias=True)
        if not isinstance(self.backbone, VisionTransformer):
            return self.backbone(x_NCHW)
        tokens_NTD = self.backbone.forward_features(x_NCHW)
        return pool(tokens_NTD, prefix=self.backbone.num_prefix_tokens, pooling=self.pooling)


def pool(tokens_NTD: torch.Tensor, *, prefix: int, pooling: str) -> torch.Tensor:
    """One vector per image from the tokens of a ViT.

    Parameters
    ----------
    tokens_NTD
        Normed tokens: the class token, registers, then the patches row by row.
    prefix
        Tokens before the patches: class token and registers.
    pooling
        ``"cls"``: the class token. ``"cls_mean"``: it, then the mean over the patches. ``"centre"``: the mean over
        the central 4 x 4 patches.

    Returns
    -------
    (n, D), or (n, 2 D) for ``"cls_mean"``.
    """
    one_of("pooling", pooling, POOLINGS)
    cls_ND, patches_NPD = tokens_NTD[:, 0], tokens_NTD[:, prefix:]
    if pooling == "cls":
        return cls_ND
    if pooling == "cls_mean":
        return torch.cat([cls_ND, patches_NPD.mean(dim=1)], dim=1)
    side = round(patches_NPD.shape[1] ** 0.5)
    start = (side - CENTRE) // 2
    middle = slice(start, start + CENTRE)
    return patches_NPD.unflatten(1, (side, side))[:, middle, middle].mean(dim=(1, 2))


def build(entry: Entry, **changes: Any) -> nn.Module:
    """The network of an entry, without trained weights, on torch's current default device.

    Parameters
    ----------
    entry
        The declaration.
    **changes
        Options of the transformer to replace, for instance a smaller depth.

    Returns
    -------
    The network in training mode, with initial weights.
    """
    if entry.kind == "conch":
        return ConchTower(img_size=entry.size_px, **{**entry.options, **changes})
    if entry.kind == "preact_resnet18":
        return PreActResNet18()
    if entry.kind == "vit":
        return _vision_transformer({**entry.options, **changes}, entry.size_px)
    from torchvision import models

    network = getattr(models, entry.kind)(weights=None)
    network.fc = nn.Identity()
    return network


def _vision_transformer(options: dict[str, Any], size_px: int) -> VisionTransformer:
    given = dict(options)
    norm = partial(nn.LayerNorm, eps=given.pop("norm_eps", 1e-6))
    mlp: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if given.pop("gated_mlp", False) else {}
    return VisionTransformer(img_size=size_px, num_classes=0, global_pool="token", norm_layer=norm, **mlp, **given)


def construct(entry: Entry) -> nn.Module:
    """The network of an entry on the device ``"meta"``: its shape and cost, without memory for its weights.

    Parameters
    ----------
    entry
        The declaration.

    Returns
    -------
    The network; its parameters have shapes and no values.
    """
    with torch.device("meta"):
        return build(entry)


class PreActBlock(nn.Module):
    """Two 3 x 3 convolutions, each after its norm and ReLU (He et al., arXiv:1603.05027)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride > 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride=stride, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width_in, H, W) to (n, width, H / stride, W / stride)."""
        ready = self.bn1(x).relu()
        skipped = x if self.shortcut is None else self.shortcut(ready)
        return skipped + self.conv2(self.bn2(self.conv1(ready)).relu())


class PreActResNet18(nn.Module):
    """VOLTA's encoder: pre-activation ResNet-18 with a 3 x 3 stem of stride 1, no max-pooling, no last norm."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        for i in range(1, 5):
            first = PreActBlock(widths[i - 1], widths[i], stride=1 if i == 1 else 2)
            self.add_module(f"layer{i}", nn.Sequential(first, PreActBlock(widths[i], widths[i], stride=1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S) to (n, 512)."""
        x = self.conv1(x)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return x.mean(dim=(2, 3))


def adapt(state: dict[str, torch.Tensor], entry: Entry, network: nn.Module, *, file: Path) -> dict[str, torch.Tensor]:
    """Published tensors under the names, and for the image size, of the network.

    Parameters
    ----------
    state
        Names and tensors of the checkpoint.
    entry
        Says how they are laid out.
    network
        The network they are for.
    file
        Where they come from, for the message.

    Returns
    -------
    Tensors by the names of the network.
    """
    if entry.layout == "volta":
        state = _teacher(state, file=file)
    if entry.layout == "transformers":
        state = from_transformers(state)
    if entry.layout == "conch":
        state = image_tower(state)
    if entry.kind != "vit":
        return {k: v for k, v in state.items() if not k.startswith("fc.")}
    state = {k: v for k, v in state.items() if not k.startswith("head.") and k != "mask_token"}
    position = state.get("pos_embed")
    if entry.resample and position is not None and isinstance(network, VisionTransformer):
        grid = network.patch_embed.grid_size
        prefix = 0 if network.no_embed_class else network.num_prefix_tokens
        state["pos_embed"] = resample_abs_pos_embed(position.float(), list(grid), num_prefix_tokens=prefix)
    return state


def _teacher(state: dict[str, torch.Tensor], *, file: Path) -> dict[str, torch.Tensor]:
    """VOLTA's momentum encoder, which its embeddings come from; or the state as it is, if it holds one network."""
    for prefix in ("module.encoder_k.", "encoder_k."):
        if any(k.startswith(prefix) for k in state):
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if any("encoder_q." in k for k in state):
        msg = f"{file} holds VOLTA's student (`encoder_q`) but not the teacher (`encoder_k`) that embeds."
        raise ValueError(msg)
    return state


_RENAMED = (
    (r"^(vit|dinov2)\.", ""),
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
_THIRD = re.compile(r"^(.*\.)attention\.attention\.(query|key|value)\.(weight|bias)$")


def from_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of transformers' ViTModel or Dinov2Model under timm's names; query, key and value become one.

    Parameters
    ----------
    state
        Names and tensors; a pooler, which the class token does not pass, is left out.

    Returns
    -------
    Tensors by timm's names.
    """
    renamed: dict[str, torch.Tensor] = {}
    thirds: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        name = key
        for pattern, by in _RENAMED:
            name = re.sub(pattern, by, name)
        third = _THIRD.match(name)
        if third:
            thirds.setdefault(f"{third[1]}attn.qkv.{third[3]}", {})[third[2]] = value
        elif not name.startswith("pooler."):
            renamed[name] = value
    for name, parts in thirds.items():
        if len(parts) == 3:  # an incomplete triple is then reported as a missing key
            renamed[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return renamed
