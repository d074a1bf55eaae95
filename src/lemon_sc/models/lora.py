"""Low-rank adapters (LoRA; Hu et al., ICLR 2022) on the attention and MLP layers of a transformer's last blocks."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch
from torch import nn

from lemon_sc._core.errors import bad_value, listing

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACE = re.compile(r"^(?P<block>(?:.*\.)?\d+)\.(?P<rest>.*(?:attn|attention|mlp).*)$")
_WHOLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
DOWN, UP = "lora_down", "lora_up"


class LoraLinear(nn.Module):
    """``W x + b + (alpha / r) B A dropout(x)``: what a linear layer gives, and a change of rank r that learns.

    B is 0 at first, so that the layer begins as it was. The layer itself does not learn.

    Parameters
    ----------
    base
        The layer.
    rank
        Rows of A and columns of B.
    alpha
        Strength of the change, over the rank.
    dropout
        Probability that an input of A is dropped in training.
    generator
        Draws A, uniform as Kaiming's.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.drop = nn.Dropout(dropout)
        bound = 1 / math.sqrt(base.in_features)
        self.lora_down = nn.Parameter(torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator))
        self.lora_up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        change = nn.functional.linear(nn.functional.linear(self.drop(x), self.lora_down), self.lora_up)
        return self.base(x) + self.scale * change


def adapted_layers(module: nn.Module, *, blocks: int) -> list[str]:
    """Names of the linear layers of attention and MLP in the last blocks of a transformer.

    Parameters
    ----------
    module
        Any module with numbered blocks that hold parts named ``attn`` (or ``attention``) and ``mlp``. Pooling by
        attention is left out.
    blocks
        How many, from the last.

    Returns
    -------
    Names, in the order of the module.

    Raises
    ------
    ValueError
        No such blocks, or fewer; or a block with an attention, MLP or other layer that cannot be adapted.
    """
    found: dict[str, list[str]] = {}
    for name, layer in module.named_modules():
        place = _PLACE.match(name)
        if place and isinstance(layer, nn.Linear) and "pool" not in name:
            found.setdefault(place["block"], []).append(name)
    if not 1 <= blocks <= len(found):
        kind = type(module).__name__
        must = f"be from 1 to the number of blocks with attention or MLP, {len(found)} in this {kind}"
        fix = "Adapters need a transformer." if not found else ""
        raise bad_value("blocks", must=must, got=blocks, fix=fix)
    chosen = list(found)[-blocks:]
    for block in chosen:
        whole = [f"{block}.{n}" for n, m in module.get_submodule(block).named_modules() if n and isinstance(m, _WHOLE)]
        missed = sorted(set(whole) - set(found[block]))
        parts = [part for part in ("att", "mlp") if not any(part in n[len(block) :] for n in found[block])]
        if missed or parts:
            why = f"layers would be left out: {listing(missed)}" if missed else "it has no attention, or no MLP"
            msg = (
                f"Block '{block}' cannot be adapted: {why} (found: {listing(found[block])}). The linear layers of a "
                "block must lie in parts that are called attn and mlp, and its attention be made of linear layers."
            )
            raise ValueError(msg)
    return [name for block in chosen for name in found[block]]


def add_lora(
    module: nn.Module, *, rank: int, alpha: float, dropout: float, blocks: int, generator: torch.Generator
) -> list[str]:
    """Freeze a module and put adapters on its last blocks, in place.

    Parameters
    ----------
    module
        The module; its parameters no longer learn.
    rank, alpha, dropout
        See `LoraLinear`.
    blocks
        Number of last blocks.
    generator
        Draws the first matrices.

    Returns
    -------
    Names of the adapted layers.

    Raises
    ------
    ValueError
        See `adapted_layers`.
    """
    names = adapted_layers(module, blocks=blocks)
    module.requires_grad_(requires_grad=False)
    for name in names:
        base = module.get_submodule(name)
        if isinstance(base, nn.Linear):
            layer = LoraLinear(base, rank=rank, alpha=alpha, dropout=dropout, generator=generator)
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, layer)
    return names


def lora_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The matrices of all adapters of a module.

    Parameters
    ----------
    module
        After `add_lora`.

    Returns
    -------
    Tensors by ``<layer>.lora_down`` and ``<layer>.lora_up``, with the layer's name in the module as it was before.
    """
    layers = {name: m for name, m in module.named_modules() if isinstance(m, LoraLinear)}
    return {f"{name}.{part}": getattr(m, part).detach() for name, m in layers.items() for part in (DOWN, UP)}


@torch.no_grad()
def merge_lora(module: nn.Module, state: Mapping[str, torch.Tensor], *, scale: float) -> None:
    """Add adapters to the weights of a module without them, in place: ``W + scale B A``.

    Parameters
    ----------
    module
        The module.
    state
        From `lora_state`.
    scale
        Alpha over rank.

    Raises
    ------
    ValueError
        A layer that is not there, or of another shape.
    """
    layers = sorted(key.removesuffix(f".{DOWN}") for key in state if key.endswith(f".{DOWN}"))
    linear = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    for name in layers:
        down, up = state[f"{name}.{DOWN}"], state.get(f"{name}.{UP}")
        weight = linear[name].weight if name in linear else None
        if up is None or weight is None or weight.shape != (len(up), down.shape[1]) or up.shape[1] != len(down):
            here = "no linear layer of that name" if weight is None else f"a weight of {tuple(weight.shape)}"
            msg = f"The adapter of layer '{name}' does not fit: the encoder has {here}. It is for another encoder."
            raise ValueError(msg)
    for name in layers:
        change = scale * (state[f"{name}.{UP}"].double() @ state[f"{name}.{DOWN}"].double())
        linear[name].weight += change.to(linear[name].weight)
