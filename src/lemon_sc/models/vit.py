"""The cell ViT: a vision transformer for crops of 40 px with patches of 8 px, as in MoCo v3.

Layout, position embedding and initialisation follow Chen, Xie and He, "An Empirical Study of Training Self-Supervised
Vision Transformers" (ICCV 2021), at the crop size of LEMON.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from collections.abc import Sequence

INPUT_PX = 40
PATCH_PX = 8


def vit_s8_40(*, num_heads: int = 12, generator: torch.Generator | None = None) -> VisionTransformer:
    """ViT-S/8 for 40 px: width 384, depth 12, **12 heads of width 32**, 21,378,816 parameters.

    Parameters
    ----------
    num_heads
        MoCo v3's ViT-S has 12. Other libraries' "small" has 6: weights of either load into the other, and give wrong
        embeddings.
    generator
        Randomness of the initial weights; ``None`` seeds one with 0.

    Returns
    -------
    timm's VisionTransformer; its output is the normed class token, (n, 384).
    """
    return cell_vit(dim=384, num_heads=num_heads, generator=generator)


def vit_b8_40(*, generator: torch.Generator | None = None) -> VisionTransformer:
    """ViT-B/8 for 40 px: width 768, depth 12, 12 heads, 85,224,960 parameters; output (n, 768).

    Parameters
    ----------
    generator
        Randomness of the initial weights; ``None`` seeds one with 0.

    Returns
    -------
    The network, initialised, taking normalised crops (n, 3, 40, 40).
    """
    return cell_vit(dim=768, num_heads=12, generator=generator)


def cell_vit(
    *,
    dim: int,
    num_heads: int,
    depth: int = 12,
    image_px: int = INPUT_PX,
    drop_path: float = 0.0,
    layer_scale: float | None = None,
    n_out: int = 0,
    generator: torch.Generator | None = None,
) -> VisionTransformer:
    """A cell ViT of any size.

    Parameters
    ----------
    dim, num_heads, depth
        Width, attention heads and transformer blocks.
    image_px
        Side of the crops, a multiple of the patch of 8 px.
    drop_path
        Probability that a sample skips the last block in training; it falls linearly to 0 at the first.
    layer_scale
        First value of a learned factor on the output of each half of a block; ``None`` for none.
    n_out
        Outputs of a linear layer after the class token; 0 for none.
    generator
        Randomness of the initial weights; ``None`` seeds one with 0.

    Returns
    -------
    The network, initialised, taking normalised crops (n, 3, image_px, image_px) to (n, dim), or (n, n_out).

    Raises
    ------
    ValueError
        A side that the patch does not divide.
    """
    if image_px < PATCH_PX or image_px % PATCH_PX:
        fix = f"{max(image_px // PATCH_PX, 1) * PATCH_PX} would do."
        raise bad_value("image_px", must=f"be a multiple of the patch, {PATCH_PX} px", got=image_px, fix=fix)
    with torch.random.fork_rng(devices=[]):  # its layers draw weights, which are drawn anew below
        model = VisionTransformer(
            img_size=image_px,
            patch_size=PATCH_PX,
            embed_dim=dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_classes=n_out,
            global_pool="token",
            weight_init="skip",
            drop_path_rate=drop_path,
            init_values=layer_scale,
        )
    initialise(model, generator=generator)
    grid = image_px // PATCH_PX
    model.pos_embed = nn.Parameter(sincos_pos_embed(dim, grid), requires_grad=False)
    return model


def sincos_pos_embed(dim: int, grid: int, *, temperature: float = 10_000.0) -> torch.Tensor:
    """Fixed 2-D sine-cosine position embedding with a zero row for the class token.

    The token at (row r, column c) gets ``[sin(r w), cos(r w), sin(c w), cos(c w)]`` with
    ``w_k = temperature ** (-k / q)``, ``q = dim / 4``: the first half follows the row.

    Parameters
    ----------
    dim
        Width, a multiple of 4.
    grid
        Patches per side; tokens run along rows.
    temperature
        Longest wavelength over 2 pi.

    Returns
    -------
    float32 (1, 1 + grid * grid, dim).
    """
    if dim % 4:
        raise bad_value("dim", must="be a multiple of 4", got=dim)
    q = dim // 4
    w = temperature ** (-torch.arange(q, dtype=torch.float64) / q)
    at = torch.arange(grid, dtype=torch.float64)
    row, col = (v.flatten()[:, None] * w for v in torch.meshgrid(at, at, indexing="ij"))
    patches = torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=1)
    return torch.cat([patches.new_zeros(1, dim), patches])[None].float()


def initialise(model: VisionTransformer, *, generator: torch.Generator | None = None) -> None:
    """Draw MoCo v3's initial weights, in place.

    Class token N(0, 1e-6); linear layers Xavier uniform, the fused qkv as three separate layers; patch projection
    uniform with bound ``sqrt(6 / (3 p^2 + D))``; biases 0.

    Parameters
    ----------
    model
        A timm VisionTransformer on the CPU.
    generator
        Source of the draws; ``None`` seeds one with 0.
    """
    draw = generator if generator is not None else torch.Generator().manual_seed(0)
    with torch.no_grad():
        if model.cls_token is not None:
            model.cls_token.normal_(std=1e-6, generator=draw)
        _uniform(model.patch_embed.proj, _fans(model.patch_embed.proj.weight.shape), draw)
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear):
                out, fan_in = layer.weight.shape
                _uniform(layer, (out // 3 if name.endswith(".qkv") else out, fan_in), draw)


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Width of the output, and number of inputs to one output, of a convolution without overlap."""
    return shape[0], math.prod(shape[1:])


def _uniform(layer: nn.Linear | nn.Conv2d, fans: tuple[int, int], generator: torch.Generator) -> None:
    bound = math.sqrt(6 / sum(fans))
    layer.weight.uniform_(-bound, bound, generator=generator)
    if layer.bias is not None:
        layer.bias.zero_()
