"""Attention of short sequences on the CPU: a few batched products, where a kernel made for long ones is slow.

A crop of 40 px is 26 tokens. torch's fused attention spends most of a training step on the CPU in its backward pass for
them; products of all heads at once, which use the matrix units, take a seventh of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx


class _Attend(torch.autograd.Function):
    """From queries, keys and values (n, tokens, 3 * heads * width) to (n, tokens, heads * width)."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        n, tokens, _ = qkv.shape
        split = qkv.view(n, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = split.reshape(3, n * heads, tokens, -1).unbind(0)
        scale = q.shape[-1] ** -0.5
        weights = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale).softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, weights)
        ctx.heads = heads
        out = torch.bmm(weights, v).view(n, heads, tokens, -1)
        return out.transpose(1, 2).reshape(n, tokens, -1)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        q, k, v, weights = ctx.saved_tensors  # type: ignore[attr-defined]
        heads: int = ctx.heads  # type: ignore[attr-defined]
        n, tokens, _ = grads[0].shape
        grad = grads[0].to(q.dtype).view(n, tokens, heads, -1).transpose(1, 2).reshape(n * heads, tokens, -1)
        out = q.new_empty(3, *q.shape)
        torch.bmm(weights.transpose(1, 2), grad, out=out[2])
        by_weight = torch.bmm(grad, v.transpose(1, 2)).float()
        by_score = torch._softmax_backward_data(by_weight, weights.float(), -1, torch.float32)
        by_score = by_score.mul_(q.shape[-1] ** -0.5).to(q.dtype)
        torch.bmm(by_score, k, out=out[0])
        torch.bmm(by_score.transpose(1, 2), q, out=out[1])
        return out.view(3, n, heads, tokens, -1).permute(1, 3, 0, 2, 4).reshape(n, tokens, -1), None


class ShortAttention(nn.Module):
    """The attention of a block of a timm ViT, with the same parameters under the same names.

    Parameters
    ----------
    attention
        What it takes the place of: with neither dropout nor norms of queries and keys.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = int(attention.num_heads)
        self.qkv: nn.Linear = attention.qkv
        self.proj: nn.Linear = attention.proj

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        """(n, tokens, D) to (n, tokens, D); a mask, which timm would pass, is always None here."""
        return self.proj(_Attend.apply(self.qkv(x), self.heads))


def shorten_attention(module: nn.Module) -> None:
    """Put `ShortAttention` in the place of the attention of all blocks of timm ViTs below a module.

    Parameters
    ----------
    module
        A training method on the CPU. Its parameters and their names stay.
    """
    for block in module.modules():
        attention = getattr(block, "attn", None)
        if type(attention).__module__ == "timm.layers.attention" and _is_plain(attention):
            block.attn = ShortAttention(attention)


def _is_plain(attention: Any) -> bool:
    extras = (getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm"))
    drops = (getattr(attention, name, None) for name in ("attn_drop", "proj_drop"))
    return (
        all(extra is None or isinstance(extra, nn.Identity) for extra in extras)
        and all(getattr(drop, "p", 0.0) == 0.0 for drop in drops)
        and getattr(attention, "gate", None) is None
    )
