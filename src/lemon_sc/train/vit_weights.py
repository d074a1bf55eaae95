"""Weights of `lm.models` for a transformer that is to learn on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from lemon_sc._core.errors import listing
from lemon_sc.models import registry
from lemon_sc.models.networks import TileEncoder

if TYPE_CHECKING:
    from lemon_sc.models.cards import ModelCard


def fill_vit(vit: VisionTransformer, weights: str, *, what: str, name: str, keep_positions: bool) -> ModelCard:
    """Load weights of `lm.models` into a transformer, in place.

    Parameters
    ----------
    vit
        The transformer.
    weights
        What `lemon_sc.models.load` takes.
    what
        Where `weights` were named, for messages.
    name
        What the transformer is called, for messages.
    keep_positions
        Whether the transformer keeps its own position embedding, a formula; else that of the weights is resampled to
        its grid (bicubic).

    Returns
    -------
    The card of the weights.

    Raises
    ------
    ValueError
        The weights are of another network.
    """
    found = registry.load(weights)
    module = found.module
    source = module.backbone if isinstance(module, TileEncoder) else module
    if not isinstance(source, VisionTransformer):
        msg = f"{what} is a {type(source).__name__}, not a vision transformer. Name the weights of a {name}."
        raise ValueError(msg)
    own = vit.state_dict()  # without a linear layer after the class token, which is no part of what learns on
    state = {k: v for k, v in source.state_dict().items() if k in own or not k.startswith("head.")}
    if keep_positions:
        state["pos_embed"] = own["pos_embed"]
    elif state["pos_embed"].shape != own["pos_embed"].shape:
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        grid = list(vit.patch_embed.grid_size)
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=prefix)
    wrong = sorted(
        k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape
    )
    heads = [cast("Any", v.blocks[0]).attn.num_heads for v in (source, vit)]
    if wrong or heads[0] != heads[1]:
        why = (
            f"{len(wrong)} tensors differ, {listing(wrong, most=4)}"
            if wrong
            else f"it has {heads[0]} heads, not {heads[1]}"
        )
        msg = f"{what} does not fit {name}: {why}. Name the weights of such a network."
        raise ValueError(msg)
    vit.load_state_dict(state)
    return found.card
