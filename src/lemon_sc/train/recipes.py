"""Recipes: all that decides what a training run computes, as frozen dataclasses that functions return."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lemon_sc._core.errors import bad_value, missing_key, one_of
from lemon_sc._core.fields import changed_fields, check_int, check_names, check_number
from lemon_sc.models.lemon import MEAN, STD
from lemon_sc.train.epochs import Epochs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATCH_PX = 8
ENCODERS = {
    "vit_b8": {"dim": 768, "depth": 12, "num_heads": 12},
    "vit_s8": {"dim": 384, "depth": 12, "num_heads": 12},
    "vit_ti8": {"dim": 192, "depth": 12, "num_heads": 3},
    "vit_debug": {"dim": 32, "depth": 2, "num_heads": 2},
}
"""Encoders that a recipe may name: width, blocks, heads. All have patches of 8 px."""
AUGMENTATIONS = ("a0", "a1", "a1+gray", "a1+gmm1", "a1+gmm10", "light", "wide")
"""Policies of views."""
OPTIONS = {
    "moco_v3": ("hidden", "out", "temperature", "guide"),
    "dinov2": ("n_local", "spread", "prototypes", "targets", "hidden", "bottleneck"),
    "guided": (),
}
"""Methods, and which arguments of theirs a recipe may set."""
PRECISIONS = ("bf16", "fp32")
WHERE = "fields of a recipe"
MEASURED_PX = 40
"""Side of the crops that `morphometry` measures."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Epochs):
    """What a run computes. The same recipe, corpus and number of threads give the same weights.

    Two recipes are equal when all fields are; a run goes on only with the recipe that it was begun with.
    """

    name: str
    """What the recipe is called."""
    encoder: str = "vit_s8"
    """``"vit_s8"``, ``"vit_b8"``, ``"vit_ti8"``, or ``"vit_debug"``, which learns nothing of use."""
    init: str | None = None
    """What `lm.models.load` takes for the weights that the encoder begins with; None for initial ones."""
    drop_path: float = 0.0
    """Probability that a sample skips the last block; it falls to 0 at the first."""
    layer_scale: float | None = None
    """First value of the factor on each half of a block, or None for none."""
    method: str = "moco_v3"
    """``"moco_v3"``, ``"dinov2"`` or ``"guided"``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the method: see `MoCoV3` and `DINOv2`; ``guide`` of the former is the weight of guidance."""
    augmentation: str = "a1+gray"
    """``"a0"``, ``"a1"``, ``"a1+gray"``, ``"a1+gmm1"`` or ``"a1+gmm10"``, mixtures that are fitted to the corpus; or
    for guidance ``"light"``, turns, flips, small shifts, mild colours, or ``"wide"``, strong ones and other sizes."""
    image_px: int = 40
    """Side of a view, px of 0.25 um; a multiple of 8."""
    local_px: int = 24
    """Side of a local view of DINOv2, px; a multiple of 8."""
    mean: tuple[float, float, float] = MEAN
    """Channel means that are subtracted, after division by 255."""
    std: tuple[float, float, float] = STD
    """Channel standard deviations to divide by."""
    batch: int = 4096
    """Crops per step, over all devices together."""
    epochs: int = 150
    """Epochs of the run."""
    epoch_length: int = 1_000_000
    """Crops per epoch, drawn without replacement; what fills no batch is left out."""
    base_lr: float = 1.5e-4
    """Learning rate at a batch of 256 (MoCo v3 and guided, in proportion) or 1024 (DINOv2, with the root)."""
    end_lr: float = 0.0
    """Learning rate at the end."""
    warmup_epochs: float = 20.0
    """Epochs over which the learning rate rises from 0."""
    weight_decay: float = 0.1
    """Weight decay at the beginning."""
    end_weight_decay: float = 0.1
    """Weight decay at the end; between the two lies half a cosine."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    clip: float | None = None
    """Largest norm of the gradient of a step; None for no bound."""
    precision: str = "bf16"
    """``"bf16"``, products in bfloat16 and weights in float32, or ``"fp32"``."""
    seed: int = 0
    """Decides initial weights, the order of crops, views and masks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", dict(self.options))
        for name in ("mean", "std", "betas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        one_of("encoder", self.encoder, ENCODERS)
        one_of("method", self.method, OPTIONS)
        one_of("augmentation", self.augmentation, AUGMENTATIONS)
        one_of("precision", self.precision, PRECISIONS)
        self._check_integers()
        self._check_numbers()
        self.check_epochs()
        for name in self.options:
            if name not in OPTIONS[self.method]:
                raise missing_key(name, where=f"options of {self.method}", have=OPTIONS[self.method])
        if self.is_guided and self.image_px != MEASURED_PX:
            raise bad_value("image_px", must=f"be {MEASURED_PX} where crops are measured", got=self.image_px)

    def _check_integers(self) -> None:
        for name, least in {"batch": 2, "epochs": 1, "epoch_length": 1, "seed": 0}.items():
            check_int(name, getattr(self, name), least=least)
        for name in ("image_px", "local_px"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < PATCH_PX or value % PATCH_PX:
                raise bad_value(name, must=f"be a multiple of the patch, {PATCH_PX} px", got=value)

    def _check_numbers(self) -> None:
        positive = ("base_lr",) if self.clip is None else ("base_lr", "clip")
        for name in (*positive, "drop_path", "end_lr", "warmup_epochs", "weight_decay", "end_weight_decay"):
            check_number(name, getattr(self, name), zero=name not in positive)
        if self.drop_path >= 1:
            raise bad_value("drop_path", must="be below 1", got=self.drop_path)
        if self.warmup_epochs >= self.epochs:
            raise bad_value("warmup_epochs", must=f"be below `epochs`, {self.epochs}", got=self.warmup_epochs)

    @property
    def is_guided(self) -> bool:
        """Whether the encoder is to tell what can be measured in a crop."""
        return self.method == "guided" or bool(self.options.get("guide"))

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up, at this batch."""
        if self.method == "dinov2":
            return self.base_lr * math.sqrt(self.batch / 1024)
        return self.base_lr * self.batch / 256

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote.

        Parameters
        ----------
        fields
            All fields, or those that differ from their defaults.

        Raises
        ------
        KeyError
            A field that recipes do not have.
        """
        check_names(cls, fields, where=WHERE)
        return cls(**fields)


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some fields set; ``options.hidden`` sets one of its options.

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
    plain = {name: value for name, value in changes.items() if not name.startswith("options.")}
    dotted = {name.removeprefix("options."): v for name, v in changes.items() if name.startswith("options.")}
    if dotted:
        plain["options"] = {**plain.get("options", recipe.options), **dotted}
    return changed_fields(recipe, plain, where=WHERE)


def lemon(**changes: Any) -> Recipe:
    """The run of the LEMON paper: MoCo v3, ViT-S/8, 150 epochs of 1 million crops of 10 million, batch 4096.

    What the paper leaves open (learning rate, weight decay, warm-up, temperature, momentum) is MoCo v3's, for a ViT.

    Parameters
    ----------
    **changes
        Fields of `Recipe` to set.

    Returns
    -------
    The recipe.
    """
    return changed(Recipe(name="lemon", options={"hidden": 4096, "out": 256, "temperature": 0.2}), changes)


def cpu(**changes: Any) -> Recipe:
    """A run for two CPU cores: MoCo v3 with a ViT-Ti/8 and smaller heads, batch 256.

    The learning rate is MoCo v3's at 4096, scaled with the root of the batch.

    Parameters
    ----------
    **changes
        Fields of `Recipe` to set.

    Returns
    -------
    The recipe.
    """
    made = Recipe(
        name="cpu",
        encoder="vit_ti8",
        options={"hidden": 1024, "out": 128, "temperature": 0.2},
        batch=256,
        epochs=20,
        epoch_length=25_600,
        base_lr=6e-4,
        warmup_epochs=2,
        clip=3.0,
    )
    return changed(made, changes)


def cpu_guided(**changes: Any) -> Recipe:
    """A run for one CPU core in which a ViT-Ti/8 learns to tell what can be measured in a crop.

    It takes three eighths of the time that MoCo v3 takes for a crop, and many small steps.

    Parameters
    ----------
    **changes
        Fields of `Recipe` to set.

    Returns
    -------
    The recipe.
    """
    made = Recipe(
        name="cpu_guided",
        encoder="vit_ti8",
        method="guided",
        augmentation="light",
        batch=64,
        epochs=40,
        epoch_length=25_600,
        base_lr=4e-3,
        warmup_epochs=1,
        weight_decay=0.05,
        end_weight_decay=0.05,
        clip=1.0,
    )
    return changed(made, changes)


def dinov2(**changes: Any) -> Recipe:
    """DINOv2 with eight local views and the KoLeo term, on the crops and views of `lemon`.

    Parameters
    ----------
    **changes
        Fields of `Recipe` to set.

    Returns
    -------
    The recipe.
    """
    made = Recipe(
        name="dinov2",
        method="dinov2",
        options={"n_local": 8, "spread": "koleo", "prototypes": 65_536, "targets": "centre"},
        drop_path=0.1,
        layer_scale=1e-5,
        base_lr=4e-3,
        end_lr=1e-6,
        warmup_epochs=10,
        weight_decay=0.04,
        end_weight_decay=0.4,
        clip=3.0,
    )
    return changed(made, changes)


def dinov2_no_local(**changes: Any) -> Recipe:
    """DINOv2 without local views: in a crop of 40 px they would show a part of a nucleus.

    Parameters
    ----------
    **changes
        Fields of `Recipe` to set.

    Returns
    -------
    The recipe.
    """
    return changed(dinov2(**{"name": "dinov2_no_local", "options.n_local": 0}), changes)


def dinov2_kde(**changes: Any) -> Recipe:
    """DINOv2 without local views and with the kernel density term in place of KoLeo.

    Parameters
    ----------
    **changes
        Fields of `Recipe` to set.

    Returns
    -------
    The recipe.
    """
    return changed(dinov2_no_local(**{"name": "dinov2_kde", "options.spread": "kde"}), changes)


def debug(**changes: Any) -> Recipe:
    """Seconds on one core: two blocks of width 32, batch 16. It shows that a corpus and a machine will do.

    Parameters
    ----------
    **changes
        Fields of `Recipe` to set.

    Returns
    -------
    The recipe.
    """
    made = Recipe(
        name="debug",
        encoder="vit_debug",
        options={"hidden": 64, "out": 32},
        batch=16,
        epochs=2,
        epoch_length=64,
        base_lr=1e-2,
        warmup_epochs=0.5,
        precision="fp32",
    )
    return changed(made, changes)


RECIPES: dict[str, Callable[..., Recipe]] = {
    made.__name__: made for made in (lemon, cpu, cpu_guided, dinov2, dinov2_no_local, dinov2_kde, debug)
}
"""Recipes by name."""
