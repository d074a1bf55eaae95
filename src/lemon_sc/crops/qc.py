"""Can a nucleus be seen in its crop?

Five measurements per crop, one pass over its pixels, and thresholds on them. Whatever the crops are cut for, they are
judged by their central 10 um at 0.25 um per px, so that a verdict depends neither on their size nor on where they are
kept. The thresholds were set on nuclei of five public H&E sets at 40x; `benchmarks/qc.py` measures what they cost there
and what they find among planted faults.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

QC_PX = 40
"""Side of what is judged, in crop px."""

QC_MPP = 0.25
"""um per px of what is judged."""

WHITE = 240
"""Level of glass."""

TISSUE_OD = 0.15
"""Optical density above which a pixel holds stain (Macenko's beta)."""

BLANK_FRACTION = 0.05
"""A crop with less stained area than this is blank."""

CENTRE_UM = 2.5
"""Radius of the disc in which a nucleus must show: smaller than a nucleus, so that there is stain if there is one."""

OFF_TISSUE_FRACTION = 0.1
"""A crop whose central disc has less stained area than this shows no nucleus, but what lies beside it."""

COOL_INK = 0.25
"""Green and blue ink: red light is absorbed by this much more than green (natural log). Haematoxylin and eosin both
absorb green most."""

WARM_INK = 0.7
"""Red ink: blue light is absorbed by this much more than red (natural log)."""

BLACK_INK = (60, 14)
"""Black ink: all channels below the first, and no further apart than the second."""

PEN_FRACTION = 0.2
"""A crop with more ink than this shows pen."""

FAINT = 230
"""A pixel with a channel below this level holds at least faint stain: clipped glass has lost nothing."""

CLIPPED = (1, 254)
"""Levels at and beyond which a channel is clipped."""

SATURATED_FRACTION = 0.25
"""A crop in which more of the stain than this is clipped is saturated."""

BIN_PX = 2
"""Focus is judged at 0.5 um per px, where scanner noise is averaged away."""

BLURRED_FOCUS = 0.02
"""A crop whose focus is below is blurred. 0.1 % of in-focus nuclei have less than 0.04 in the softest of the five sets;
after a Gaussian blur of 1.5 um the median of every set is below 0.02."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Quality:
    """What was measured in n crops, each float64 (n,).

    Attributes
    ----------
    stained
        Share of pixels that absorb light in at least one channel.
    centre_stained
        The same in the central disc.
    ink
        Share of pixels of a colour that haematoxylin and eosin do not give.
    clipped
        Share of the pixels with stain, however faint, that are clipped in a channel; of 5 % of the crop where there are
        fewer.
    focus
        Energy of the Laplacian over the variance of the luminance. Both fall with contrast, so the ratio says how fine
        the structure is, not how strong the stain. A flat crop gives 0.
    """

    stained: NDArray[np.float64]
    centre_stained: NDArray[np.float64]
    ink: NDArray[np.float64]
    clipped: NDArray[np.float64]
    focus: NDArray[np.float64]


def central_disc(side_px: int = QC_PX) -> NDArray[np.bool_]:
    """Pixels of the judged window in the disc in its middle: `CENTRE_UM` of a nucleus, a quarter of the side.

    Parameters
    ----------
    side_px
        Side of the window, px.

    Returns
    -------
    Bool (side_px, side_px).
    """
    at = (np.arange(side_px) + 0.5) / side_px - 0.5
    return np.asarray(np.hypot(at[:, None], at) < CENTRE_UM / (QC_PX * QC_MPP))


@numba.njit(nogil=True, cache=True)
def _counts(crops, first, disc, limits, out, grey):  # noqa: ANN001, ANN202
    """Count pixels into `out` (n, 5) and add up their luminance in the bins of `grey`.

    Counted are: stained; stained in the disc; ink; faint stain or more; that and clipped. `limits`: stained below,
    faint below, green over red and red over blue that make ink (in 1/1024), black below, black spread below, clipped at
    and below, clipped at and above. Row by row and channel by channel, in whole numbers and without branches, so that
    it compiles to vector instructions.
    """
    stained, faint, cool, warm, black, spread, low, high = limits
    side = disc.shape[0]
    rgb = np.empty((3, side), np.int32)
    light = np.empty(side, np.int32)
    for k in range(crops.shape[0]):
        n_stained, n_centre, n_ink, n_faint, n_clipped = np.zeros(5, np.int32)
        for i in range(side):
            row, inside = crops[k, first + i], disc[i]
            for j in range(side):
                rgb[0, j], rgb[1, j], rgb[2, j] = row[first + j, 0], row[first + j, 1], row[first + j, 2]
            for j in range(side):
                r, g, b = rgb[0, j], rgb[1, j], rgb[2, j]
                darkest, lightest = min(r, min(g, b)), max(r, max(g, b))
                dark = np.int32(darkest < stained)
                colour = np.int32(r * 1024 < g * cool) | np.int32(b * 1024 < r * warm)
                jet = np.int32(lightest < black) & np.int32(lightest - darkest < spread)
                lost = np.int32(darkest <= low) | np.int32(lightest >= high)
                n_stained += dark
                n_centre += dark & inside[j]
                n_ink += (dark & colour) | jet
                some = np.int32(darkest < faint)
                n_faint += some
                n_clipped += some & lost
                light[j] = 299 * r + 587 * g + 114 * b
            bins = grey[k, i // BIN_PX]
            for j in range(bins.shape[0]):
                bins[j] += light[BIN_PX * j] + light[BIN_PX * j + 1]
        out[k, 0], out[k, 1], out[k, 2], out[k, 3], out[k, 4] = n_stained, n_centre, n_ink, n_faint, n_clipped


@numba.njit(nogil=True, cache=True)
def _focus(grey, out):  # noqa: ANN001, ANN202
    """Laplacian energy over variance of each `grey` (n, s, s), both over its inner pixels; exact, in whole numbers."""
    side = grey.shape[1]
    n = (side - 2) ** 2
    for k in range(grey.shape[0]):
        image = grey[k]
        s = ss = t = tt = np.int64(0)
        for i in range(1, side - 1):
            for j in range(1, side - 1):
                v = np.int64(image[i, j])
                lap = np.int64(image[i - 1, j] + image[i + 1, j] + image[i, j - 1] + image[i, j + 1] - 4 * image[i, j])
                s, ss, t, tt = s + v, ss + v * v, t + lap, tt + lap * lap
        variance, energy = n * ss - s * s, n * tt - t * t
        out[k] = energy / variance if variance > 0 else 0.0


def measure(crops: NDArray[np.uint8], *, side_px: int = QC_PX) -> Quality:
    """Measure crops, uint8 (n, S, S, 3), S even and at least 40, at 0.25 um per px, by their central 40 px.

    Parameters
    ----------
    crops
        As said; others are an error.
    side_px
        Another side of what is judged, even; the focus then means something at 0.25 um per px only.

    Returns
    -------
    Measures of each crop.
    """
    n, size = crops.shape[:2]
    if size < side_px or size % 2:
        raise bad_value("crops", must=f"be of an even size of at least {side_px} px", got=size)
    disc = central_disc(side_px)
    ratios = [round(1024 * np.exp(-od)) for od in (COOL_INK, WARM_INK)]
    limits = (int(np.ceil(WHITE * np.exp(-TISSUE_OD))), FAINT, *ratios, *BLACK_INK, *CLIPPED)
    counts = np.zeros((n, 5), dtype=np.int32)
    grey = np.zeros((n, side_px // BIN_PX, side_px // BIN_PX), dtype=np.int32)
    _counts(np.ascontiguousarray(crops), (size - side_px) // 2, disc.view(np.int8), limits, counts, grey)
    focus = np.empty(n)
    _focus(grey, focus)
    stained, centre, ink, faint, clipped = counts.T
    area = side_px**2
    return Quality(
        stained=stained / area,
        centre_stained=centre / disc.sum(),
        ink=ink / area,
        clipped=clipped / np.maximum(faint, BLANK_FRACTION * area),
        focus=focus,
    )


def verdicts(quality: Quality) -> NDArray[Any]:
    """One of `keys.QC_CATEGORIES` per crop, object (n,); where several faults meet, the first in their order.

    Parameters
    ----------
    quality
        From `measure`.

    Returns
    -------
    object (n,).
    """
    found = np.full(len(quality.focus), keys.QC_OK, dtype=object)
    faults = {
        keys.QC_BLURRED: quality.focus < BLURRED_FOCUS,
        keys.QC_SATURATED: quality.clipped > SATURATED_FRACTION,
        keys.QC_PEN: quality.ink > PEN_FRACTION,
        keys.QC_OFF_TISSUE: quality.centre_stained < OFF_TISSUE_FRACTION,
        keys.QC_BLANK: quality.stained < BLANK_FRACTION,
    }
    for name, fault in faults.items():
        found[fault] = name
    return found


def judge(crops: NDArray[np.uint8]) -> NDArray[Any]:
    """Verdict on each crop, from its pixels alone: `verdicts` of what `measure` finds.

    Parameters
    ----------
    crops
        As for `measure`.

    Returns
    -------
    As from `verdicts`.
    """
    return verdicts(measure(crops))


PATCH_PX = 56
"""Side of what a patch is judged by, however many um it shows: 2 um per px for patches of 112 um."""


def judge_patches(patches: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Verdict on each patch of tissue, and its share of tissue, from thumbnails that show it whole.

    The same measures and thresholds as for nuclei, over the whole patch; off tissue is one whose middle, a disc of half
    its side, holds none. Focus is not judged: nothing is sharp at that scale.

    Parameters
    ----------
    patches
        uint8 (n, PATCH_PX, PATCH_PX, 3).

    Returns
    -------
    Verdicts, object (n,), and shares of stained area, float64 (n,).
    """
    quality = measure(patches, side_px=PATCH_PX)
    sharp = np.full(len(patches), np.inf)
    return verdicts(replace(quality, focus=sharp)), quality.stained
