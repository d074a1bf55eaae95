"""Augmented views of nuclei, made for a whole batch at once on the device that holds the crops.

A recipe (`Augmentation`) says what may happen, `draw` decides what happens to each sample, `apply` does it, and
`augment` is both. Order: geometry, flip, colour jitter, gray, stain, blur, erasing, normalisation. What is drawn
follows the laws of torchvision's transforms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.crops.stain import StainEstimate
from lemon_sc.models.lemon import MEAN, STD
from lemon_sc.train import augment_color as color
from lemon_sc.train.augment_geometry import TRIES, between, draw_boxes, resample
from lemon_sc.train.stain import StainMixture, restain, vary_stains

STAIN_RANGE = 0.2
"""With Macenko stains: amounts are multiplied by 1 -/+ this, and -/+ this is added."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Augmentation:
    """What may happen to a crop. As it stands, nothing: the centre is cut and normalised.

    `lemon_sc.train.a0` and `a1` are the published recipes; ``dataclasses.replace(a1(), out_px=24, crop_scale=(0.05,
    0.32))`` makes the small views of DINOv2.
    """

    rotate: bool = False
    """Rotate by any angle about the centre. Needs crops of sqrt(2) times the frame, so that no corner is empty."""
    turn: bool = False
    """Turn by 0, 90, 180 or 270 degrees, which leaves the pixels as they are. Not with `rotate`."""
    shift_px: int = 0
    """Shift the frame by up to so many whole px each way; needs a margin of as many. Not with `crop_scale`."""
    crop_scale: tuple[float, float] | None = None
    """Range of the area of a random box over that of the frame, or None for the whole frame."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the box's width over its height."""
    flip_p: float = 0.0
    """Probability of a flip of left and right."""
    jitter_p: float = 0.0
    """Probability of colour jitter."""
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Strength of brightness, contrast and saturation (factors in 1 -/+ strength), and of hue (in full turns)."""
    gray_p: float = 0.0
    """Probability of a gray image."""
    stain: StainMixture | StainEstimate | None = None
    """A mixture: every view gets CIELAB statistics drawn from it. Stains of a slide: their amounts are varied."""
    blur_p: tuple[float, ...] = (0.0,)
    """Probability of a Gaussian blur in the first view, the second, ...; the last holds for all that follow."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, output px."""
    erase_p: float = 0.0
    """Probability that a rectangle is erased."""
    erase_scale: tuple[float, float] = (0.1, 0.3)
    """Range of the rectangle's area over that of the view."""
    erase_ratio: tuple[float, float] = (0.8, 1.2)
    """Range of the rectangle's height over its width."""
    erase_value: Literal["black", "mean"] = "black"
    """Erased pixels become black before normalisation, or `mean` (0 after it)."""
    frame_px: int = 40
    """Side of the centre of the crop from which views are taken, px."""
    out_px: int = 40
    """Side of a view, px."""
    mean: tuple[float, float, float] = MEAN
    """Channel means (RGB, after division by 255) that are subtracted; the model card's. LEMON's by default."""
    std: tuple[float, float, float] = STD
    """Channel standard deviations to divide by."""

    def __post_init__(self) -> None:
        for name in ("flip_p", "jitter_p", "gray_p", "erase_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise bad_value(name, must="be a probability", got=getattr(self, name))
        if not self.blur_p or not all(0 <= p <= 1 for p in self.blur_p):
            raise bad_value("blur_p", must="hold a probability per view, one or more", got=self.blur_p)
        if len(self.jitter) != 4 or min(self.jitter) < 0 or self.jitter[3] > 0.5:
            must = "be four strengths >= 0 (brightness, contrast, saturation, hue), hue <= 0.5"
            raise bad_value("jitter", must=must, got=self.jitter)
        self._check_ranges()
        one_of("erase_value", self.erase_value, ("black", "mean"))
        for name in ("frame_px", "out_px"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) <= color.BLUR_TAPS // 2:
                must = f"be an int >= {color.BLUR_TAPS // 2 + 1}"
                raise bad_value(name, must=must, got=getattr(self, name))
        if isinstance(self.shift_px, bool) or not isinstance(self.shift_px, int) or self.shift_px < 0:
            raise bad_value("shift_px", must="be an int >= 0", got=self.shift_px)
        if (self.turn and self.rotate) or (self.shift_px and self.crop_scale is not None):
            must = "not be set together with `rotate` and `crop_scale`"
            raise bad_value("turn, shift_px", must=must, got=(self.turn, self.shift_px))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise bad_value("mean, std", must="be three numbers each, std > 0", got=(self.mean, self.std))

    def _check_ranges(self) -> None:
        for name in ("crop_scale", "crop_ratio", "blur_sigma", "erase_scale", "erase_ratio"):
            most = 1.0 if name.endswith("scale") else math.inf
            low, high = getattr(self, name) or (1.0, 1.0)
            if not 0 < low <= high <= most:
                must = f"be (low, high) with 0 < low <= high{' <= 1' if most == 1 else ''}"
                raise bad_value(name, must=must, got=getattr(self, name))
        if not self.crop_ratio[0] <= 1 <= self.crop_ratio[1]:
            raise bad_value("crop_ratio", must="include 1, the shape of the frame", got=self.crop_ratio)


@dataclass(frozen=True, eq=False, kw_only=True)
class Draws:
    """What happens to each of n samples."""

    angle: torch.Tensor
    """Rotation, radians counter-clockwise, (n,)."""
    box: torch.Tensor
    """Top, left, height, width in px of the frame, (n, 4); a frame that was shifted begins below or above 0."""
    flip: torch.Tensor
    """Bool (n,)."""
    factors: torch.Tensor
    """Brightness, contrast, saturation, hue, (n, 4); (1, 1, 1, 0) changes nothing."""
    order: torch.Tensor
    """Which of these four comes first, second, third, last, int64 (n, 4)."""
    gray: torch.Tensor
    """Bool (n,)."""
    stain: torch.Tensor
    """CIELAB statistics to be given (n, 6), or factors and summands of Macenko stains (n, 4), or nothing (n, 0)."""
    sigma: torch.Tensor
    """Standard deviation of the blur in px, (n,); 0 for none."""
    erased: torch.Tensor
    """Top, left, height, width in px of the view, (n, 4); all 0 for none."""

    def __getitem__(self, rows: slice | torch.Tensor) -> Draws:
        """Those of some samples."""
        return Draws(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device: torch.device | str) -> Draws:
        """The same on a device."""
        return Draws(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


_COLUMNS = {
    "angle": 1, "areas": TRIES, "ratios": TRIES, "places": 2, "flip": 1, "jittered": 1, "factors": 4, "order": 4,
    "gray": 1, "blurred": 1, "sigma": 1, "erased": 1, "erase_areas": TRIES, "erase_ratios": TRIES, "erase_places": 2,
    "component": 1, "changes": 4,
}  # fmt: skip


def _draw_stain(
    stain: StainMixture | StainEstimate | None, u: dict[str, torch.Tensor], normal: torch.Tensor
) -> torch.Tensor:
    if isinstance(stain, StainMixture):
        return stain.sample(u["component"][:, 0].contiguous(), normal)
    if isinstance(stain, StainEstimate):
        change = between(u["changes"], -STAIN_RANGE, STAIN_RANGE)
        return change + torch.tensor([1.0, 1.0, 0.0, 0.0], device=normal.device)
    return normal[:, :0]


def _angle(u: torch.Tensor, recipe: Augmentation) -> torch.Tensor:
    turns = u if recipe.rotate else (4 * u).floor() / 4 * float(recipe.turn)
    return between(turns, 0.0, 2 * math.pi)


def draw(n: int, recipe: Augmentation, *, generator: torch.Generator, view: int = 0) -> Draws:
    """Decide what happens to each of `n` samples.

    The same numbers are drawn for every recipe, so recipes that differ in one step agree in all others under the same
    seed.

    Parameters
    ----------
    n
        Number of samples.
    recipe
        What may happen.
    generator
        Source of the numbers, on any device. One on the CPU gives the same draws whatever device the crops are on.
    view
        Which view of the sample this is, from 0.

    Returns
    -------
    The draws, on the generator's device.
    """
    if n < 0 or view < 0:
        raise bad_value("n, view", must="be >= 0", got=(n, view))
    device = generator.device
    numbers = torch.rand(n, sum(_COLUMNS.values()), generator=generator, device=device)
    u = dict(zip(_COLUMNS, numbers.split(list(_COLUMNS.values()), dim=1), strict=True))
    normal = torch.randn(n, 6, generator=generator, device=device)
    whole = torch.tensor([0.0, 0.0, recipe.frame_px, recipe.frame_px], device=device).expand(n, 4)
    box = whole
    if recipe.crop_scale is not None:
        box, found = draw_boxes(
            (u["areas"], u["ratios"], u["places"]),
            side=recipe.frame_px,
            largest=recipe.frame_px,
            scale=recipe.crop_scale,
            ratio=recipe.crop_ratio,
        )
        box = torch.where(found[:, None], box, whole)
    elif recipe.shift_px:
        box = torch.cat(
            [whole[:, :2] + (u["places"] * (2 * recipe.shift_px + 1)).floor() - recipe.shift_px, whole[:, 2:]], 1
        )
    erased, _ = draw_boxes(
        (u["erase_areas"], u["erase_ratios"], u["erase_places"]),
        side=recipe.out_px,
        largest=recipe.out_px - 1,
        scale=recipe.erase_scale,
        ratio=(1 / recipe.erase_ratio[1], 1 / recipe.erase_ratio[0]),  # from height over width
    )
    strength = torch.tensor(recipe.jitter, device=device)
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], device=device)
    lowest = (neutral - strength).clamp(min=torch.tensor([0.0, 0.0, 0.0, -0.5], device=device))
    factors = lowest + (neutral + strength - lowest) * u["factors"]
    blur_p = recipe.blur_p[min(view, len(recipe.blur_p) - 1)]
    return Draws(
        angle=_angle(u["angle"][:, 0], recipe),
        box=box,
        flip=(u["flip"] < recipe.flip_p)[:, 0],
        factors=torch.where(u["jittered"] < recipe.jitter_p, factors, neutral),
        order=u["order"].argsort(dim=1),
        gray=(u["gray"] < recipe.gray_p)[:, 0],
        stain=_draw_stain(recipe.stain, u, normal),
        sigma=(between(u["sigma"], *recipe.blur_sigma) * (u["blurred"] < blur_p))[:, 0],
        erased=erased * (u["erased"] < recipe.erase_p),
    )


def _check(crops: torch.Tensor, recipe: Augmentation) -> int:
    """Margin of the frame in the crops."""
    if crops.dtype != torch.uint8 or crops.ndim != 4 or crops.shape[3] != 3 or crops.shape[1] != crops.shape[2]:
        raise bad_value("crops", must="be uint8 (n, S, S, 3), RGB", got=f"{crops.dtype} {tuple(crops.shape)}")
    return check_side(crops.shape[1], recipe)


def check_side(side: int, recipe: Augmentation) -> int:
    """Raise unless views can be taken from crops of this size.

    Parameters
    ----------
    side
        Side of the crops, px.
    recipe
        What may happen to them.

    Returns
    -------
    Margin of the recipe's frame in the crops, px.

    Raises
    ------
    ValueError
        They are too small.
    """
    frame = recipe.frame_px
    if side < frame or (side - frame) % 2:
        must = f"have a side of {frame} px, or more by an even number, around the frame"
        raise bad_value("crops", must=must, got=side, fix="Cut them anew, or change the recipe's `frame_px`.")
    needed = (frame + 2 * recipe.shift_px) * (math.sqrt(2) if recipe.rotate else 1)
    if side < needed:
        must = f"have a side of {math.ceil(needed)} px or more, so that no corner is empty after a rotation or a shift"
        raise bad_value("crops", must=must, got=side, fix="Cut crops of 60 px for a frame of 40.")
    return (side - frame) // 2


@torch.no_grad()
def apply(crops: torch.Tensor, recipe: Augmentation, draws: Draws) -> torch.Tensor:
    """Make the views that were drawn. A sample depends on its own crop and draws alone.

    Parameters
    ----------
    crops
        RGB, uint8 (n, S, S, 3); S is 60 for rotations of a frame of 40.
    recipe
        The recipe of the draws.
    draws
        One per crop.

    Returns
    -------
    Normalised views, float32 (n, 3, out_px, out_px), on the device of `crops`.
    """
    margin = _check(crops, recipe)
    if len(draws.angle) != len(crops):
        raise bad_value("draws", must=f"hold one draw per crop ({len(crops)})", got=len(draws.angle))
    if not len(crops):
        return torch.zeros(0, 3, recipe.out_px, recipe.out_px, device=crops.device)
    if not (recipe.rotate or recipe.shift_px):  # the margin is never seen
        crops = crops[:, margin : margin + recipe.frame_px, margin : margin + recipe.frame_px]
    draws = draws.to(crops.device)
    with torch.autocast(crops.device.type, enabled=False):
        images = crops.permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v, device=images.device) for v in (recipe.mean, recipe.std))
        images = resample(
            images,
            angle=draws.angle,
            box=draws.box,
            flip=draws.flip,
            frame_px=recipe.frame_px,
            out_px=recipe.out_px,
        )
        if recipe.jitter_p > 0:
            images = color.jitter(images, draws.factors, draws.order)
        images = torch.where(draws.gray[:, None, None, None], color.gray(images), images)
        if isinstance(recipe.stain, StainMixture):
            images = restain(images, draws.stain)
        elif isinstance(recipe.stain, StainEstimate):
            vectors = torch.as_tensor(recipe.stain.vectors, dtype=images.dtype, device=images.device)
            images = vary_stains(images, vectors, draws.stain)
        blurred = draws.sigma.nonzero()[:, 0]
        images[blurred] = color.blur(images[blurred], draws.sigma[blurred])
        fill = mean if recipe.erase_value == "mean" else torch.zeros_like(mean)
        images = color.erase(images.clamp(0, 1), draws.erased, fill)
        return (images - mean[:, None, None]) / std[:, None, None]


def augment(crops: torch.Tensor, recipe: Augmentation, *, generator: torch.Generator, view: int = 0) -> torch.Tensor:
    """Make one augmented view of every crop.

    Parameters
    ----------
    crops
        RGB, uint8 (n, S, S, 3), on any device; S is 60 for rotations of a frame of 40.
    recipe
        What may happen: `lemon_sc.train.a0`, `a1`, or one of your own.
    generator
        Source of randomness, on any device; the same state gives the same views.
    view
        Which view of the sample this is, from 0: blur may differ between views.

    Returns
    -------
    Normalised views, float32 (n, 3, out_px, out_px), on the device of `crops`.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> first, second = (augment(crops, a1(gray_p=0.2), generator=generator, view=v) for v in (0, 1))
    """
    _check(crops, recipe)
    return apply(crops, recipe, draw(len(crops), recipe, generator=generator, view=view))
