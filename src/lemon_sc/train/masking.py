"""Block masks on the patch grid, for masked image modelling.

The rules are those of BEiT (Bao et al., ICLR 2022) as DINOv2 (Oquab et al., TMLR 2024) applies them, on the 5 x 5 grid
of a crop of 40 px.
"""

from __future__ import annotations

import math

import numpy as np

from lemon_sc._core.errors import bad_value

SMALLEST_BLOCK = 4
ASPECT = (0.3, 1 / 0.3)
TRIES = 10


def block_mask(count: int, *, rng: np.random.Generator, grid: int = 5) -> np.ndarray:
    """Mask exactly `count` patches, in rectangles that may overlap.

    A rectangle aims at an area of 4 to ``grid * (grid // 2)`` patches (10 on 5 x 5) and an aspect ratio of 0.3 to
    1 / 0.3, drawn log-uniformly, is narrower and lower than the grid, and adds no more than is still to be masked; what
    is left below 4 is an area to aim at itself. Where ten draws in a row give no such rectangle, single patches make up
    the count, so that the share of masked patches is the one asked for.

    Parameters
    ----------
    count
        Patches to mask, 0 to ``grid ** 2``.
    rng
        Source of the draws.
    grid
        Patches per side.

    Returns
    -------
    bool (grid, grid), true where masked.

    Raises
    ------
    ValueError
        More patches than there are.
    """
    if not 0 <= count <= grid * grid:
        raise bad_value("count", must=f"be from 0 to {grid * grid}, the patches there are", got=count)
    mask = np.zeros((grid, grid), dtype=bool)
    while (left := count - int(mask.sum())) > 0:
        if not _add_block(mask, left, rng):
            free = np.flatnonzero(~mask)
            mask.flat[rng.choice(free, left, replace=False)] = True
    return mask


def _add_block(mask: np.ndarray, left: int, rng: np.random.Generator) -> bool:
    """Mask one more rectangle, in place; whether one was found."""
    for _ in range(TRIES):
        height, width = draw_block(left, rng=rng, grid=len(mask))
        if height == 0:
            continue
        top, start = rng.integers(len(mask) - height + 1), rng.integers(len(mask) - width + 1)
        block = mask[top : top + height, start : start + width]
        if 0 < block.size - int(block.sum()) <= left:
            block[...] = True
            return True
    return False


def draw_block(left: int, *, rng: np.random.Generator, grid: int = 5) -> tuple[int, int]:
    """Draw the size of one rectangle; (0, 0) where the draw breaks a rule.

    Parameters
    ----------
    left
        Patches still to be masked, 1 or more.
    rng
        Source of the draws.
    grid
        Patches per side.

    Returns
    -------
    Height and width, in patches.
    """
    largest = max(grid * (grid // 2), 1)
    smallest = min(SMALLEST_BLOCK, left, largest)
    area = rng.uniform(smallest, min(left, largest))
    aspect = math.exp(rng.uniform(*np.log(ASPECT)))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    fits = height < grid and width < grid and smallest <= height * width <= largest
    return (height, width) if fits else (0, 0)


def batch_masks(
    n: int,
    *,
    rng: np.random.Generator,
    grid: int = 5,
    masked_share: float = 0.5,
    ratio: tuple[float, float] = (0.1, 0.5),
) -> np.ndarray:
    """Masks of a batch: a share of its images is masked, by ratios that cover `ratio` evenly.

    The range is cut into as many slices as images are masked; each image draws its ratio u from a slice of its own and
    has ``int(u * grid ** 2)`` patches masked: 2 to 12 of 25. The order of the images is random.

    Parameters
    ----------
    n
        Images.
    rng
        Source of the draws.
    grid
        Patches per side.
    masked_share
        Share of the images that is masked: ``int(n * masked_share)`` of them.
    ratio
        Smallest and largest share of an image's patches.

    Returns
    -------
    bool (n, grid * grid), true where masked; patches run along rows.

    Raises
    ------
    ValueError
        Shares outside 0 to 1.
    """
    if not 0 <= masked_share <= 1:
        raise bad_value("masked_share", must="be from 0 to 1", got=masked_share)
    if not 0 <= ratio[0] <= ratio[1] <= 1:
        raise bad_value("ratio", must="be two shares from 0 to 1, the smaller first", got=ratio)
    masked = int(n * masked_share)
    edges = np.linspace(*ratio, masked + 1)
    counts = np.zeros(n, dtype=np.intp)
    counts[:masked] = (rng.uniform(edges[:-1], edges[1:]) * grid * grid).astype(np.intp)
    rng.shuffle(counts)
    masks = [block_mask(int(count), rng=rng, grid=grid).ravel() for count in counts]
    return np.stack(masks) if n else np.zeros((0, grid * grid), dtype=bool)
