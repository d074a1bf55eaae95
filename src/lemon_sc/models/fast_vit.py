"""A plain ViT, read once and run faster than its own forward pass, to the same result.

What a `timm` VisionTransformer with class token does, rearranged for short sequences (26 tokens at 40 px):

- Crops stay uint8 until they are patches. Patches are a reordering of bytes; the statistics of the card are folded
  into the patch projection. Whole numbers are exact in bfloat16 up to 256, so the nearest whole number to the mean is
  subtracted and the rest of it goes, in float32, into the position embedding.
- Weights are converted once, not at every call as under autocast.
- On the CPU, weights lie as oneDNN wants them, and GELU is part of the matrix product. A few crops at a time go through
  all layers, so that what is between two layers stays in the caches. Threads take crops, not parts of a matrix.
- In bfloat16 on the CPU, attention is `ShortAttention`, elsewhere that of torch; residual sum and norm are one
  compiled loop there.
- Only the class token leaves the last block: of the others, the last block computes no more than keys and values.

Letters of array names: N crops, P patches, T = P + 1 tokens, C values of a patch, D width, M = N * T.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, Mlp, PatchEmbed
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

AT_ONCE = (64, 32, 16)
"""Crops that a CPU thread takes through all layers together: few, for the caches, and enough to be worth fetching the
weights for; the fewer, the fewer there are for each thread."""

_SHORT = 64  # tokens: for more, torch's fused attention is made

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LAYERS = frozenset(
    {
        *(VisionTransformer, Block, Attention, Mlp, PatchEmbed, LayerNorm),
        *(nn.Linear, nn.LayerNorm, nn.Conv2d, nn.GELU, nn.Sequential, nn.Identity, nn.Dropout),
    }
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def fits(module: nn.Module | None) -> TypeGuard[VisionTransformer]:
    """Whether a module is a plain ViT: what `FastViT` computes is then what its forward pass computes.

    That is timm's VisionTransformer in eval mode and float32, square, pooled to its class token, with one linear
    layer after it or none, with exact GELU, without registers, layer scale, norms of queries and keys, hooks, or layers
    of other types.

    Parameters
    ----------
    module
        Any module; ``None`` does not fit.

    Returns
    -------
    Whether it does.
    """
    if type(module) is not VisionTransformer or module.global_pool != "token" or module.dynamic_img_size:
        return False
    for layer in module.modules():
        hooked = any(vars(layer)[name] for name in _HOOKS) or "forward" in vars(layer)
        if type(layer) not in _LAYERS or layer.training or hooked:
            return False
    # the names of its tensors say what it is made of
    norms, linears = ("norm1", "norm2"), ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    names = [f"blocks.{i}.{layer}" for i in range(len(module.blocks)) for layer in (*norms, *linears)]
    expected = {f"{name}.{kind}" for name in (*names, "norm", "patch_embed.proj") for kind in ("weight", "bias")}
    state = module.state_dict()
    if isinstance(module.head, nn.Linear):
        expected |= {"head.weight", "head.bias"}
    if state.keys() != {*expected, "cls_token", "pos_embed"} or any(v.dtype != torch.float32 for v in state.values()):
        return False
    for act in (getattr(block.mlp, "act", None) for block in module.blocks):
        if type(act) is not nn.GELU or act.approximate != "none":
            return False
    grid, patch = module.patch_embed.grid_size, module.patch_embed.patch_size
    in_rgb = module.patch_embed.proj.in_channels == 3
    return in_rgb and len(set(grid)) == len(set(patch)) == 1 and state["pos_embed"].shape[1] == grid[0] ** 2 + 1


class FastViT:
    """A plain ViT for uint8 crops on one device in one precision.

    Parameters
    ----------
    module
        One that `fits`. Its weights are copied.
    mean, std
        Of the three channels, as in the model's card.
    device
        Name of the device.
    dtype
        ``"fp32"`` or ``"bf16"``: of weights and activations. Sums within a product, norms and exponentials are
        float32 in either.
    """

    def __init__(
        self, module: VisionTransformer, *, mean: Sequence[float], std: Sequence[float], device: str, dtype: str
    ) -> None:
        self.device, self.dtype = torch.device(device), _TYPES[dtype]
        self.threads = torch.get_num_threads()
        attention: Any = module.blocks[0].attn
        self.heads, self.head_width, self.dim = attention.num_heads, attention.head_dim, module.embed_dim
        self.grid, self.patch = module.patch_embed.grid_size[0], module.patch_embed.patch_size[0]
        self.tokens = self.grid**2 + 1
        with torch.inference_mode():
            self._read(module, mean=mean, std=std)

    def _read(self, module: Any, *, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the weights over."""
        packed = self.device.type == "cpu" and can_pack(self.dtype)
        rows = AT_ONCE[0] * self.tokens

        def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> _Linear:
            w, b = self._own(weight), None if bias is None else self._own(bias)
            if not packed:
                return _Linear(w, b)
            return _PackedLinear(torch.ops.mkldnn._reorder_linear_weight(w.contiguous(), rows), b)

        mean_C, std_C = (torch.tensor(v, dtype=torch.float64).repeat(self.patch**2) for v in (mean, std))
        centre_C = (255 * mean_C).round()
        conv = module.patch_embed.proj
        w_DC = _exact(conv.weight).permute(0, 2, 3, 1).flatten(1) / std_C
        rest_D = _exact(conv.bias) + w_DC @ (centre_C / 255 - mean_C)
        position_TD = _exact(module.pos_embed)[0]
        self._centre_C = self._own(centre_C)
        self._project = linear(w_DC / 255, None)
        self._position_PD = self._own(position_TD[1:] + rest_D)
        self._first_D = self._own(position_TD[0] + _exact(module.cls_token)[0, 0])
        self._norm = self._norm_of(module.norm)
        self._blocks = [self._block_of(block, linear) for block in module.blocks[:-1]]
        self._last = self._block_of(module.blocks[-1], linear, parted=True)
        self._head: tuple[torch.Tensor, torch.Tensor] | None = None
        if isinstance(module.head, nn.Linear):  # in float32: its outputs may be far from 0
            weight, bias = (v.detach().clone().to(self.device) for v in (module.head.weight, module.head.bias))
            self._head = weight, bias

    def _own(self, values: torch.Tensor) -> torch.Tensor:
        return values.detach().to(self.device, self.dtype, copy=True)

    def _norm_of(self, norm: nn.LayerNorm) -> _Norm:
        compiled = self.device.type == "cpu" and self.dtype is torch.bfloat16
        weight, bias = (v.detach().clone() if compiled else self._own(v) for v in (norm.weight, norm.bias))
        return _Norm(weight, bias, norm.eps)

    def _block_of(self, block: Any, linear: Callable[..., _Linear], *, parted: bool = False) -> _Block:
        """The scale of the scores goes into the queries' weights; base 2, since that is what CPUs raise to powers."""
        weight, bias = block.attn.qkv.weight.detach().clone(), block.attn.qkv.bias.detach().clone()
        for part in (weight, bias):
            part[: self.dim] *= block.attn.scale * math.log2(math.e)
        cuts = [self.dim, 2 * self.dim] if parted else [3 * self.dim]
        return _Block(
            self._norm_of(block.norm1),
            [linear(w, b) for w, b in zip(weight.split(cuts), bias.split(cuts), strict=True)],
            linear(block.attn.proj.weight, block.attn.proj.bias),
            self._norm_of(block.norm2),
            linear(block.mlp.fc1.weight, block.mlp.fc1.bias),
            linear(block.mlp.fc2.weight, block.mlp.fc2.bias),
        )

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed crops.

        Parameters
        ----------
        crops
            uint8 (N, S, S, 3), S as the network takes it.

        Returns
        -------
        float32 (N, D).
        """
        made = self(torch.from_numpy(np.ascontiguousarray(crops)).to(self.device))
        return made.float().cpu().numpy()

    def __call__(self, x_NHWC: torch.Tensor) -> torch.Tensor:
        """Embed crops that are on the device.

        Parameters
        ----------
        x_NHWC
            uint8 (N, S, S, 3).

        Returns
        -------
        (N, D) in the precision of this object, float32 after a linear layer, on its device.
        """
        if self.device.type != "cpu":
            return self._forward(x_NHWC, self._attend)
        n = len(x_NHWC)
        size = next((size for size in AT_ONCE if n >= size * self.threads), AT_ONCE[-1])
        # always as many at once, blank ones added: oneDNN sums in an order that depends on the number of rows
        parts = F.pad(x_NHWC, (0, 0, 0, 0, 0, 0, 0, -n % size)).split(size)
        if self.threads == 1:
            attend = self._attention()
            return torch.cat([self._forward(part, attend) for part in parts])[:n]
        own = threading.local()

        def start() -> None:
            torch.set_num_threads(1)  # of this worker; and, until it is set again, of threads that start later
            own.attend = self._attention()

        try:
            with ThreadPoolExecutor(min(self.threads, len(parts)), initializer=start) as pool:
                return torch.cat(list(pool.map(lambda part: self._forward(part, own.attend), parts)))[:n]
        finally:
            torch.set_num_threads(self.threads)

    def _attention(self) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.dtype is torch.float32 or self.tokens > _SHORT:
            return self._attend
        from lemon_sc.models.amx_attention import ShortAttention  # compiled with numba, which a GPU node may lack

        return ShortAttention(most=AT_ONCE[0], tokens=self.tokens, heads=self.heads, width=self.head_width)

    @torch.inference_mode()
    def _forward(self, x_NHWC: torch.Tensor, attend: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        x = self._embed(x_NHWC).flatten(0, 1)
        blocks = [*self._blocks, self._last]
        normed = blocks[0].norm1(x)
        for block, after in pairwise(blocks):
            (qkv,) = block.qkv
            normed = block.norm2.after_adding(x, block.project(attend(qkv(normed))))
            normed = after.norm1.after_adding(x, block.fc2(block.fc1(normed, gelu=True)))
        return self._last_block(x.unflatten(0, (-1, self.tokens)), normed.unflatten(0, (-1, self.tokens)))

    def _embed(self, x_NHWC: torch.Tensor) -> torch.Tensor:
        """Tokens (N, T, D) of uint8 crops."""
        n, g, p = len(x_NHWC), self.grid, self.patch
        bytes_MC = x_NHWC.reshape(n, g, p, g, p, 3).transpose(2, 3).reshape(n * g * g, p * p * 3)
        patches = self._project(bytes_MC.to(self.dtype) - self._centre_C)
        tokens = patches.new_empty(n, self.tokens, self.dim)
        tokens[:, 0] = self._first_D
        tokens[:, 1:] = patches.view(n, g * g, self.dim) + self._position_PD
        return tokens

    def _attend(self, qkv_M3D: torch.Tensor) -> torch.Tensor:
        qkv = qkv_M3D.view(-1, self.tokens, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, scale=math.log(2))
        return out.transpose(1, 2).reshape(len(qkv_M3D), self.dim)

    def _last_block(self, x_NTD: torch.Tensor, normed_NTD: torch.Tensor) -> torch.Tensor:
        """What the last block, the norm and the linear layer after it make of the class token, (N, D)."""
        n = len(x_NTD)
        of_first, of_all = self._last.qkv
        q = of_first(normed_NTD[:, 0].contiguous()).view(n, 1, self.heads, self.head_width).transpose(1, 2)
        kv = (
            of_all(normed_NTD.flatten(0, 1)).view(n, self.tokens, 2, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        )
        k, v = kv.unbind(0)
        out_ND = F.scaled_dot_product_attention(q, k, v, scale=math.log(2)).reshape(n, self.dim)
        # one row per crop: for so few, oneDNN's sums depend on how many, which the number of threads must not decide
        size = AT_ONCE[-1] if self.device.type == "cpu" else n
        parts = zip(x_NTD[:, 0].contiguous().split(size), out_ND.split(size), strict=True)
        return torch.cat([self._after_attention(*part) for part in parts])

    def _after_attention(self, first_ND: torch.Tensor, out_ND: torch.Tensor) -> torch.Tensor:
        block = self._last
        normed_ND = block.norm2.after_adding(first_ND, block.project(out_ND))
        made = self._norm.after_adding(first_ND, block.fc2(block.fc1(normed_ND, gelu=True)))
        return made if self._head is None else F.linear(made.float(), *self._head)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this CPU and this build of torch have oneDNN's linear layers in a precision.

    Parameters
    ----------
    dtype
        torch.float32 or torch.bfloat16.

    Returns
    -------
    Whether they do.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _exact(weight: torch.Tensor) -> torch.Tensor:
    """float64 on the CPU, for arithmetic on weights."""
    return weight.detach().cpu().double()


class _Norm(NamedTuple):
    weight: torch.Tensor
    """float32 where the norm is a compiled loop, else as the activations."""
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)

    def after_adding(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add `y` to `x` in place, and give the norm of the sum; `y` is lost."""
        if self.weight.dtype is not x.dtype:
            from lemon_sc.models.add_norm import add_norm

            return add_norm(x, y, self.weight, self.bias, eps=self.eps)
        return self(x.add_(y))


class _Linear:
    """``x W^T + b``, then perhaps GELU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return torch.ops.aten.gelu_(y) if gelu else y


class _PackedLinear(_Linear):
    """The same, with a weight in oneDNN's layout, in one kernel."""

    def __call__(self, x: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
        after, how = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, after, [], how)


class _Block(NamedTuple):
    norm1: _Norm
    qkv: list[_Linear]
    """One layer; in the last block two, of queries and of keys with values."""
    project: _Linear
    norm2: _Norm
    fc1: _Linear
    fc2: _Linear
