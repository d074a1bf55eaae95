"""Policies of views: the published ones, and two that leave what can be measured in a view meaningful."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lemon_sc.train.views import Augmentation

if TYPE_CHECKING:
    from lemon_sc.crops.stain import StainEstimate
    from lemon_sc.train.stain import StainMixture


def a0() -> Augmentation:
    """MoCo's augmentations, made for photographs: small boxes, gray, and blur in nearly half of the views.

    Returns
    -------
    The recipe, for `augment`.
    """
    return Augmentation(
        crop_scale=(0.08, 1.0),
        flip_p=0.5,
        jitter_p=0.8,
        jitter=(0.4, 0.4, 0.2, 0.1),
        gray_p=0.2,
        blur_p=(1.0, 0.1),
    )


def a1(*, gray_p: float = 0.0, stain: StainMixture | StainEstimate | None = None) -> Augmentation:
    """LEMON's augmentations for nuclei: rotated, larger boxes, stronger jitter, erasing.

    Parameters
    ----------
    gray_p
        Probability of a gray image; 0.2 is "a1+gray", LEMON's default.
    stain
        A mixture with 1 or 10 components is "a1+gmm1" or "a1+gmm10"; stains of a slide vary Macenko's amounts.

    Returns
    -------
    The recipe.
    """
    return Augmentation(
        rotate=True,
        crop_scale=(0.32, 1.0),
        flip_p=0.5,
        jitter_p=0.8,
        jitter=(0.6, 0.7, 0.5, 0.2),
        gray_p=gray_p,
        stain=stain,
        blur_p=(0.1, 0.1),
        erase_p=0.3,
    )


def light() -> Augmentation:
    """What leaves measurements of a nucleus meaningful: turns, flips, small shifts, colours. Nothing is resampled.

    Returns
    -------
    The recipe, for `augment`.
    """
    return Augmentation(turn=True, flip_p=0.5, shift_px=2, jitter_p=0.8, jitter=(0.3, 0.3, 0.4, 0.05))


def wide() -> Augmentation:
    """Views for guidance that differ as slides and scanners do: `light`, with stronger colours, blur and other sizes.

    What is measured is measured on the view, so a size or a colour that no slide of the corpus has makes an example of
    such a slide. The frame is 48 px wide: boxes of 34 to 48 px of it are resampled to a view, at any place in it.

    Returns
    -------
    The recipe, for `augment`.
    """
    return Augmentation(
        turn=True,
        flip_p=0.5,
        frame_px=48,
        crop_scale=(0.5, 1.0),
        crop_ratio=(0.8, 1.25),
        jitter_p=0.9,
        jitter=(0.5, 0.5, 0.5, 0.1),
        blur_p=(0.2,),
        blur_sigma=(0.1, 1.0),
    )
