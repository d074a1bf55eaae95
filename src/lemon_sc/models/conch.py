"""The image tower of CONCH: a ViT-B/16 at 448 px whose tokens are pooled by one learned query.

Sizes and names of the layers are those of the published configuration (``conch_ViT-B-16``) and of the module tree that
the authors' package prints; the pooling is that of CoCa (Yu et al., TMLR 2022). What only captions need is left out.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn


class AttentionPooler(nn.Module):
    """Tokens to one vector: a learned query attends to all of them.

    Parameters
    ----------
    dim
        Width of query and result.
    token_dim
        Width of the tokens.
    num_heads
        Heads of the attention.
    """

    def __init__(self, *, dim: int, token_dim: int, num_heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.attn = nn.MultiheadAttention(dim, num_heads, kdim=token_dim, vdim=token_dim, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(token_dim)

    def forward(self, tokens_NTD: torch.Tensor) -> torch.Tensor:
        """Tokens (n, T, token_dim) to (n, dim)."""
        keys_NTD = self.ln_k(tokens_NTD)
        query_N1D = self.ln_q(self.query).expand(len(tokens_NTD), 1, -1)
        return self.attn(query_N1D, keys_NTD, keys_NTD, need_weights=False)[0][:, 0]


class ConchTower(nn.Module):
    """Normalised images to projected embeddings, as CONCH compares them with text.

    Parameters
    ----------
    img_size, patch_size, embed_dim, depth, num_heads
        Of the ViT.
    out_dim, pool_heads
        Width of the result, and heads of the pooling.
    """

    def __init__(
        self,
        *,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        out_dim: int,
        pool_heads: int,
    ) -> None:
        super().__init__()
        self.trunk = VisionTransformer(
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            num_classes=0,
            global_pool="token",
        )
        self.attn_pool_contrast = AttentionPooler(dim=out_dim, token_dim=embed_dim, num_heads=pool_heads)
        self.ln_contrast = nn.LayerNorm(out_dim)
        self.proj_contrast = nn.Parameter(torch.eye(out_dim))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, S, S) to (n, out_dim)."""
        tokens_NTD = self.trunk.forward_features(x_NCHW)
        return self.ln_contrast(self.attn_pool_contrast(tokens_NTD)) @ self.proj_contrast

    def pooling_macs(self, *, attention: bool) -> int:
        """Multiply-accumulates of what follows the ViT, for one image.

        Parameters
        ----------
        attention
            Count the products of the query with keys and values, too.
        """
        tokens = self.trunk.patch_embed.num_patches + self.trunk.num_prefix_tokens
        dim, token_dim = len(self.proj_contrast), self.trunk.embed_dim
        return 2 * tokens * token_dim * dim + 3 * dim**2 + (2 * tokens * dim if attention else 0)


def image_tower(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the image tower from those of the whole model.

    Parameters
    ----------
    state
        Names and tensors of the published checkpoint, of which text and captions are left out.

    Returns
    -------
    Names as in `ConchTower`.
    """
    of_captions = ("attn_pool_caption.", "ln_caption.")
    found = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    return {k: v for k, v in (found or state).items() if not k.startswith(of_captions)}
