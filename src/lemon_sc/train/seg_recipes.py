"""Recipes of segmenters: all that decides what a training run computes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.fields import changed_fields, check_int, check_number
from lemon_sc.models.zoo import IMAGENET, OPTIMUS
from lemon_sc.seg.card import SegCard
from lemon_sc.seg.losses import NP_LOSSES, LossOptions
from lemon_sc.seg.sampling import GAMMA
from lemon_sc.seg.taps import ENCODERS, TOLD
from lemon_sc.train.epochs import Epochs
from lemon_sc.train.recipes import PRECISIONS
from lemon_sc.train.seg_augment import AUGMENTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEDULES = ("exponential", "cosine")
LOSS_FIELDS = tuple(f.name for f in dataclasses.fields(LossOptions))


@dataclass(frozen=True, kw_only=True)
class SegRecipe(Epochs):
    """What a run computes. The same recipe, data and number of threads give the same weights."""

    name: str
    """What the recipe, and the segmenter, is called."""
    encoder: str = "conv_r18"
    """One of `lemon_sc.seg.taps.ENCODERS`."""
    encoder_weights: str | None = None
    """What `lm.models.load` takes for the weights of a transformer; None for initial weights."""
    init: str | None = None
    """Segmenter whose weights, encoder and decoder, the run begins with: what `lm.seg.load` takes. None for none. With
    other classes than its own, the last layer of the types begins anew. A network that is told by a ViT may begin with
    one that is not; the weights of the ViT are `encoder_weights`."""
    taps: tuple[int, ...] = (3, 6, 9, 12)
    """Blocks of a transformer whose outputs are decoded, 1-based."""
    width: int = 64
    """Channels of the decoder at the side of the image."""
    size_px: int = 256
    """Side of the tiles."""
    mpp: float = 0.25
    """um per px; the data must be opened at it."""
    mean: tuple[float, float, float] = IMAGENET["mean"]
    """Channel means that are subtracted, after division by 255."""
    std: tuple[float, float, float] = IMAGENET["std"]
    """Channel standard deviations to divide by."""
    drop_path: float = 0.0
    """Probability that a sample skips the last block of a transformer."""
    augmentation: str = "cellvit"
    """``"none"``, ``"cellvit"`` or ``"strong"``."""
    batch: int = 16
    """Tiles per step."""
    epochs: int = 130
    """Epochs of the run."""
    epoch_length: int = 2000
    """Tiles per epoch, drawn with replacement."""
    gamma: float = GAMMA
    """How much rare types and small sets are drawn more often: 0 not at all, 1 in inverse proportion."""
    lr: float = 3e-4
    """Learning rate at the beginning."""
    schedule: str = "exponential"
    """``"exponential"``: times `lr_gamma` after each epoch. ``"cosine"``: half a cosine to 0."""
    lr_gamma: float = 0.85
    """Factor per epoch; 1 is a constant learning rate."""
    weight_decay: float = 1e-4
    """Of AdamW, on all that learns."""
    betas: tuple[float, float] = (0.85, 0.95)
    """Of AdamW."""
    clip: float | None = None
    """Largest norm of the gradient of a step; None for no bound."""
    frozen_epochs: int = 0
    """Epochs before the encoder learns."""
    np_loss: str = "ft+dice"
    """Loss of the nuclei: ``"ft+dice"`` or ``"ce+dice"``."""
    legacy_pooled: bool = False
    """See `lemon_sc.seg.losses.LossOptions`."""
    legacy_double_softmax: bool = False
    """See `lemon_sc.seg.losses.LossOptions`."""
    legacy_kernel: bool = False
    """See `lemon_sc.seg.losses.LossOptions`."""
    valid_epochs: int = 10
    """Epochs per validation; there is one at the end, too."""
    valid_images: int = 50
    """Images of the validation set that are looked at, evenly spread over it."""
    precision: str = "fp32"
    """``"fp32"``, or ``"bf16"``: products in bfloat16 and weights in float32."""
    seed: int = 0
    """Decides initial weights, tiles and what happens to them."""

    def __post_init__(self) -> None:
        for name in ("taps", "mean", "std", "betas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        one_of("augmentation", self.augmentation, AUGMENTATIONS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("precision", self.precision, PRECISIONS)
        self.card(())  # which checks side, statistics and width
        one_of("encoder", self.encoder, ENCODERS)
        one_of("np_loss", self.np_loss, NP_LOSSES)
        if self.init is not None and self.encoder_weights is not None and self.encoder not in TOLD:
            raise bad_value("init", must="be None where `encoder_weights` are named", got=self.init)
        if self.init is None and self.encoder_weights is None and self.encoder in TOLD:
            must = f"name weights for the ViT of {self.encoder}, which does not learn"
            raise bad_value("encoder_weights", must=must, got=None, fix="The package has 'guided_ti8'.")
        if self.drop_path and self.encoder in TOLD:
            raise bad_value("drop_path", must=f"be 0 for {self.encoder}, whose ViT does not learn", got=self.drop_path)
        integers = {
            "batch": 1, "epochs": 1, "epoch_length": 1, "frozen_epochs": 0, "valid_epochs": 1, "valid_images": 1,
            "seed": 0,
        }  # fmt: skip
        for name, least in integers.items():
            check_int(name, getattr(self, name), least=least)
        for name in ("lr", "lr_gamma", *(() if self.clip is None else ("clip",))):
            check_number(name, getattr(self, name), zero=False)
        for name in ("weight_decay", "drop_path"):
            check_number(name, getattr(self, name))
        if self.drop_path >= 1:
            raise bad_value("drop_path", must="be below 1", got=self.drop_path)
        self.check_epochs()

    @property
    def losses(self) -> LossOptions:
        """How the terms of the loss are computed."""
        return LossOptions(**{name: getattr(self, name) for name in LOSS_FIELDS})

    def card(self, classes: tuple[str, ...]) -> SegCard:
        """The card of a network of this recipe.

        Parameters
        ----------
        classes
            Types by channel, the background first; empty for none.
        """
        shared = ("name", "encoder", "taps", "width", "size_px", "mpp", "mean", "std")
        return SegCard(classes=classes, **{name: getattr(self, name) for name in shared})

    def lr_at(self, step: int) -> float:
        """Learning rate of a step.

        Parameters
        ----------
        step
            Steps made so far.
        """
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.lr * self.lr_gamma ** (step // self.epoch_steps)


def changed_recipe(recipe: SegRecipe, changes: Mapping[str, Any]) -> SegRecipe:
    """A recipe with some fields set.

    Parameters
    ----------
    recipe
        Where to begin.
    changes
        New values, by field.

    Returns
    -------
    Another recipe.

    Raises
    ------
    KeyError
        A field that recipes do not have.
    ValueError
        A value that a field cannot have.
    """
    return changed_fields(recipe, changes, where="fields of a segmenter's recipe")


def seg_small(**changes: Any) -> SegRecipe:
    """A small segmenter, of use on a CPU: a convolutional encoder and a decoder of a quarter of the published width.

    Parameters
    ----------
    **changes
        Fields of `SegRecipe` to set.

    Returns
    -------
    The recipe.
    """
    made = SegRecipe(
        name="small", width=16, augmentation="strong", batch=8, epochs=60, epoch_length=2000, lr=1e-3,
        schedule="cosine", betas=(0.9, 0.99), clip=5.0,
    )  # fmt: skip
    return changed_recipe(made, changes)


def seg_cellvit(**changes: Any) -> SegRecipe:
    """CellViT's own training, on Segment Anything's ViT-B: the encoder learns after 25 epochs.

    Parameters
    ----------
    **changes
        Fields of `SegRecipe` to set.

    Returns
    -------
    The recipe.
    """
    made = SegRecipe(name="cellvit", encoder="sam_b", drop_path=0.1, frozen_epochs=25)
    return changed_recipe(made, changes)


def seg_histoplus(**changes: Any) -> SegRecipe:
    """HistoPLUS' training: H0-mini with its weights, tiles of 448 px, a small and constant learning rate.

    Parameters
    ----------
    **changes
        Fields of `SegRecipe` to set.

    Returns
    -------
    The recipe.
    """
    made = SegRecipe(
        name="histoplus", encoder="h0_mini", encoder_weights="h0_mini", size_px=448, mean=OPTIMUS["mean"],
        std=OPTIMUS["std"], epochs=150, epoch_length=1415, lr=1e-5, lr_gamma=1.0, weight_decay=1e-5, betas=(0.9, 0.99),
        seed=111,
    )  # fmt: skip
    return changed_recipe(made, changes)


SEG_RECIPES: dict[str, Callable[..., SegRecipe]] = {
    "small": seg_small, "cellvit": seg_cellvit, "histoplus": seg_histoplus
}  # fmt: skip
"""Recipes by name."""
