"""From a segmenter's recipe to network and optimiser; encoders begin with weights of `lm.models`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from timm.models.vision_transformer import VisionTransformer

from lemon_sc._core.errors import bad_value, listing
from lemon_sc.seg.checkpoint import TYPES_HEAD, load
from lemon_sc.seg.network import build_network
from lemon_sc.seg.taps import CELL_VITS, TOLD, ToldTaps, VitTaps
from lemon_sc.train.vit_weights import fill_vit

if TYPE_CHECKING:
    from lemon_sc.seg.network import CellViT
    from lemon_sc.seg.segmenter import Segmenter
    from lemon_sc.train.seg_recipes import SegRecipe

TOLD_BY = ("encoder.vit.", "encoder.tell.")
"""What `ToldTaps` adds to a convolutional network."""


def build_segmenter(recipe: SegRecipe, classes: tuple[str, ...]) -> CellViT:
    """The network of a recipe, on the CPU, in training mode.

    Parameters
    ----------
    recipe
        The recipe; weights that it names are loaded.
    classes
        Types by channel, the background first; empty for none.

    Returns
    -------
    The network.

    Raises
    ------
    ValueError
        Weights of another network than the recipe's.
    FileNotFoundError
        There are no such weights.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    network = build_network(recipe.card(classes), drop_path=recipe.drop_path, generator=generator)
    if recipe.encoder_weights is not None:
        fill_encoder(network.encoder, recipe)
    if recipe.init is not None:
        begun = load(recipe.init)
        if isinstance(network.encoder, ToldTaps):
            check_told(recipe, begun)
        go_on_from(network, begun, what=f"`init` {recipe.init!r}")
    return network


def check_told(recipe: SegRecipe, begun: Segmenter) -> None:
    """Raise unless a network that is told by a ViT has that ViT from one place, and shows it what it showed before.

    Parameters
    ----------
    recipe
        Of the network.
    begun
        The segmenter that it begins with.

    Raises
    ------
    ValueError
        Both have a ViT, or neither; or taps, statistics or pixel size are others than those of the segmenter's ViT.
    """
    told = isinstance(begun.network.encoder, ToldTaps)
    if told == (recipe.encoder_weights is not None):
        must = f"be None, since `init` {recipe.init!r} has its ViT" if told else "name the weights of a ViT"
        raise bad_value("encoder_weights", must=must, got=recipe.encoder_weights)
    for name in ("taps", "mean", "std", "mpp") if told else ():
        found, wanted = getattr(recipe, name), getattr(begun.card, name)
        if found != wanted:
            raise bad_value(
                name, must=f"be that of `init` {recipe.init!r}, {wanted}: its ViT is made for it", got=found
            )


def go_on_from(network: CellViT, segmenter: Segmenter, *, what: str) -> None:
    """Give a network the weights of a trained one, in place.

    Parameters
    ----------
    network
        The new one. Where its classes are not as many, its last layer of the types keeps what it has; where the trained
        one has no types, so does the whole branch. Where its encoder is told by a ViT and the trained one's is not, so
        does that.
    segmenter
        The trained one.
    what
        Where that comes from, for the message.

    Raises
    ------
    ValueError
        Its encoder or its width are others.
    """
    own, found = network.state_dict(), segmenter.network.state_dict()
    if isinstance(network.encoder, ToldTaps) and not isinstance(segmenter.network.encoder, ToldTaps):
        found |= {k: v for k, v in own.items() if k.startswith(TOLD_BY)}
    last, types = TYPES_HEAD.rpartition(".")[0], TYPES_HEAD.partition(".")[0] + "."
    anew = last if len(own.get(TYPES_HEAD, ())) != len(found.get(TYPES_HEAD, ())) else None
    if TYPES_HEAD not in found or TYPES_HEAD not in own:
        anew = types
    kept = {k: v for k, v in found.items() if anew is None or not k.startswith(anew)}
    wanted = {k for k in own if anew is None or not k.startswith(anew)}
    wrong = sorted(k for k in wanted | kept.keys() if k not in own or k not in kept or own[k].shape != kept[k].shape)
    if wrong:
        card = segmenter.card
        msg = (
            f"{what} is a segmenter on {card.encoder} of width {card.width}: {len(wrong)} tensors differ, "
            f"{listing(wrong, most=4)}. Set `encoder`, `taps` and `width` of the recipe to its own."
        )
        raise ValueError(msg)
    network.load_state_dict({**own, **kept})


def fill_encoder(encoder: torch.nn.Module, recipe: SegRecipe) -> None:
    """Load weights of `lm.models` into an encoder, in place.

    The position embedding is resampled to the tile (bicubic); that of our own transformers is a formula, and stays.

    Parameters
    ----------
    encoder
        Of the recipe.
    recipe
        Names the weights.

    Raises
    ------
    ValueError
        The encoder is no transformer, the weights are of another one, or for crops of another pixel size.
    """
    taps = encoder.vit if isinstance(encoder, ToldTaps) else encoder
    if not (isinstance(taps, VitTaps) and isinstance(taps.vit, VisionTransformer)):
        raise bad_value("encoder_weights", must=f"be None for {recipe.encoder}", got=recipe.encoder_weights)
    card = fill_vit(
        taps.vit,
        str(recipe.encoder_weights),
        what=f"`encoder_weights` {recipe.encoder_weights!r}",
        name=TOLD[recipe.encoder][1] if recipe.encoder in TOLD else recipe.encoder,
        keep_positions=recipe.encoder in {*CELL_VITS, *TOLD},
    )
    if isinstance(encoder, ToldTaps):
        mpp = encoder.ZOOM * card.mpp
        if not math.isclose(recipe.mpp, mpp, rel_tol=0.02):
            must = f"be {mpp:g} for {recipe.encoder} with {recipe.encoder_weights}, which knows {card.mpp:g} um per px"
            raise bad_value("mpp", must=must, got=recipe.mpp)
        restate(taps.vit.patch_embed.proj, mean=(recipe.mean, card.mean), std=(recipe.std, card.std))


def restate(
    layer: torch.nn.Conv2d,
    *,
    mean: tuple[tuple[float, ...], tuple[float, ...]],
    std: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    """Let a first layer take images of other statistics, in place: it gives what it gave, up to rounding.

    Parameters
    ----------
    layer
        Convolution without padding.
    mean, std
        Of the channels: those that images will be normalised by, and those that the layer is made for.
    """
    (mean_new, mean_old), (std_new, std_old) = (
        torch.tensor(pair, dtype=torch.float64)[:, :, None, None] for pair in (mean, std)
    )
    with torch.no_grad():
        weight = layer.weight.double() / std_old
        layer.bias += (weight * (mean_new - mean_old)).sum((1, 2, 3)).float()
        layer.weight.copy_(weight * std_new)


def seg_optimizer(recipe: SegRecipe, network: CellViT) -> torch.optim.AdamW:
    """AdamW on all that learns, where it lies.

    Parameters
    ----------
    recipe, network
        The recipe, and its network.

    Returns
    -------
    The optimiser, without state.
    """
    learning = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.AdamW(learning, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)


def freeze_encoder(network: CellViT, *, frozen: bool, learning: list[torch.nn.Parameter]) -> None:
    """Let the encoder learn or not, in place, the network in training mode otherwise.

    Parameters
    ----------
    network
        The network.
    frozen
        Whether its encoder is as it would be at inference.
    learning
        Parameters of the encoder that learn when it is not frozen.
    """
    network.train()
    network.encoder.train(not frozen)
    for parameter in learning:
        parameter.requires_grad_(not frozen)
