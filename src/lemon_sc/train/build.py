"""From a recipe to what it names: encoder, method, optimiser, augmentations."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lemon_sc.models.vit import cell_vit
from lemon_sc.train.dino import N_GLOBAL, DINOv2
from lemon_sc.train.guided import Guided
from lemon_sc.train.moco import MoCoV3
from lemon_sc.train.policies import a0, a1, light, wide
from lemon_sc.train.recipes import ENCODERS
from lemon_sc.train.stain import StainMixture, lab_statistics
from lemon_sc.train.vit_weights import fill_vit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from timm.models.vision_transformer import VisionTransformer

    from lemon_sc.train.corpus_reader import Corpus
    from lemon_sc.train.method import Method
    from lemon_sc.train.recipes import Recipe
    from lemon_sc.train.views import Augmentation

METHODS: dict[str, type[Method]] = {"moco_v3": MoCoV3, "dinov2": DINOv2, "guided": Guided}
STAIN_CROPS = 50_000
"""Crops that a mixture of stains is fitted to."""
STAIN_BATCH = 4096
SCALE_CROPS = 4096
"""Crops that the scales of measurements are taken from."""
LOCAL_SCALE = (0.05, 0.32)
"""Range of the area of a local view over that of the frame."""


def build_encoder(recipe: Recipe) -> VisionTransformer:
    """The encoder of a recipe with its initial weights, on the CPU.

    Parameters
    ----------
    recipe
        The recipe.

    Returns
    -------
    The network; ``encoder_state_dict()`` of a method that was built for this recipe loads into it.
    """
    return cell_vit(
        **ENCODERS[recipe.encoder],
        image_px=recipe.image_px,
        drop_path=recipe.drop_path,
        layer_scale=recipe.layer_scale,
        generator=torch.Generator().manual_seed(recipe.seed),
    )


def begin_with(encoder: VisionTransformer, recipe: Recipe) -> dict[str, str] | None:
    """Load the weights that a run is to begin with, in place.

    Parameters
    ----------
    encoder
        From `build_encoder`.
    recipe
        Its `init` names the weights.

    Returns
    -------
    Name and digest of the weights; ``None`` if there are none to begin with.

    Raises
    ------
    ValueError
        They are of another network, or were trained on crops that were normalised otherwise.
    FileNotFoundError
        They are not there.
    """
    if recipe.init is None:
        return None
    what = f"`init` {recipe.init!r}"
    card = fill_vit(encoder, recipe.init, what=what, name=recipe.encoder, keep_positions=True)
    if not np.allclose([card.mean, card.std], [recipe.mean, recipe.std], atol=1e-6):
        msg = (
            f"{what} was trained on crops with mean {card.mean} and std {card.std}, the recipe has {recipe.mean} and "
            f"{recipe.std}. Set `mean` and `std` of the recipe to those of the weights."
        )
        raise ValueError(msg)
    return {"name": card.name, "sha256": card.sha256}


def build_method(recipe: Recipe, *, encoder: VisionTransformer | None = None) -> Method:
    """The method of a recipe with its initial weights, on the CPU.

    Parameters
    ----------
    recipe
        The recipe.
    encoder
        What its encoders begin as; ``None`` makes one with initial weights.

    Returns
    -------
    The method, in training mode.
    """
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    options = dict(recipe.options)
    if recipe.is_guided:
        options["statistics"] = (recipe.mean, recipe.std)
    return METHODS[recipe.method](encoder or build_encoder(recipe), generator=generator, **options)


def prepare(method: Method, recipe: Recipe, corpus: Corpus) -> None:
    """Let a method see some crops before its first step, the same ones for the same seed.

    Parameters
    ----------
    method, recipe
        The method, and the recipe that it was built for.
    corpus
        The crops; 4,096 of them are shown, their centres of the side of a view.
    """
    if recipe.is_guided:
        margin = (corpus.size_px - recipe.image_px) // 2
        inside = slice(margin, margin + recipe.image_px)
        method.prepare(corpus.read(_some(corpus, SCALE_CROPS, recipe))[:, inside, inside])


def build_optimizer(recipe: Recipe, method: Method) -> torch.optim.AdamW:
    """AdamW on the parameters of a method that learn, where they lie.

    Parameters
    ----------
    recipe, method
        The recipe, and the method that was built for it.

    Returns
    -------
    The optimiser, without state.
    """
    groups = method.parameter_groups(recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True)


def augmentations(recipe: Recipe, corpus: Corpus) -> list[Augmentation]:
    """What may happen to each view of a crop, one entry per view.

    Parameters
    ----------
    recipe
        The recipe.
    corpus
        What mixtures of stains are fitted to: 50,000 of its crops, drawn with the recipe's seed.

    Returns
    -------
    Policies in the order of the views.
    """
    policy, _, extra = recipe.augmentation.partition("+")
    plain = {"a0": a0, "light": light, "wide": wide}
    if policy in plain:
        made = plain[policy]()
    else:
        n_components = int(extra.removeprefix("gmm")) if extra.startswith("gmm") else 0
        stain = _stain_mixture(corpus, n_components, recipe) if n_components else None
        made = a1(gray_p=0.2 if extra == "gray" else 0.0, stain=stain)
    side = recipe.image_px
    frame = side * made.frame_px // made.out_px
    common: dict[str, Any] = {"frame_px": frame, "out_px": side, "mean": recipe.mean, "std": recipe.std}
    made = dataclasses.replace(made, **common)
    if recipe.method == "guided":
        return [made]
    if recipe.method == "moco_v3":
        measured = dataclasses.replace(light(), **{**common, "frame_px": side})
        return [made, made] + [measured] * recipe.is_guided
    local = dataclasses.replace(made, out_px=recipe.local_px, crop_scale=LOCAL_SCALE)
    return [made] * N_GLOBAL + [local] * int(recipe.options.get("n_local", 8))


def _stain_mixture(corpus: Corpus, n_components: int, recipe: Recipe) -> StainMixture:
    """Mixture of the colour statistics of a corpus; the recipe's seed decides which crops are looked at."""
    rows = _some(corpus, STAIN_CROPS, recipe)
    parts = [
        lab_statistics(torch.from_numpy(corpus.read(part)), size_px=recipe.image_px)
        for part in np.array_split(rows, -(-len(rows) // STAIN_BATCH))
    ]
    return StainMixture.fit(torch.cat(parts), n_components=n_components, rng=recipe.seed)


def _some(corpus: Corpus, most: int, recipe: Recipe) -> NDArray[np.int64]:
    """Positions of up to so many crops, drawn with the recipe's seed, in order."""
    n = min(len(corpus), most)
    return np.sort(np.random.default_rng([recipe.seed, 1]).choice(len(corpus), n, replace=False))
