"""Tiles of a slide at the pixel size of a network: overlapping, the first row and column included, white beyond.

Tile (i, j) begins at ``(j * stride - overlap, i * stride - overlap)`` px, with ``stride = tile - 2 * overlap``: its
inner part, `overlap` px from each side, is its own, and every px of the slide belongs to the inner part of one tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc.crops.stream import stream_crops

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lemon_sc.crops.stream import PyramidImage

TILE_PX = 784
"""A multiple of 14 and 16, the patches of common networks."""
OVERLAP_PX = 64
"""16 um at 0.25 um per px: wider than a nucleus."""
WHITE = 255
TOLERANCE = 0.2
"""A pyramid level whose px differ by less than this from the network's is read as it is; others are resampled."""
COARSEST_MPP = 1.0
"""um per px beyond which nuclei are a few px wide and nothing can tell them apart."""
FINEST_MPP = 0.02
"""um per px below which no microscope resolves anything."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Grid:
    """The tiles of an image.

    Attributes
    ----------
    mpp
        um per px of the tiles.
    scale
        Level-0 px per px of the tiles, (x, y).
    size
        Width and height of the image in px of the tiles, not rounded.
    tile_px, overlap_px
        Side of a tile, and of its outer part.
    """

    mpp: float
    scale: tuple[float, float]
    size: tuple[float, float]
    tile_px: int
    overlap_px: int

    @property
    def stride(self) -> int:
        """Px from one tile to the next."""
        return self.tile_px - 2 * self.overlap_px

    @property
    def n(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        across, down = (max(int(np.ceil(side / self.stride - 1e-9)), 1) for side in self.size)
        return across, down

    @property
    def origins(self) -> NDArray[np.int64]:
        """First px (x, y) of each tile, row by row, int64 (n, 2); negative in the first row and column."""
        across, down = self.n
        y, x = np.divmod(np.arange(across * down), across)
        return np.column_stack([x, y]) * self.stride - self.overlap_px

    def origin(self, number: int) -> NDArray[np.int64]:
        """First px (x, y) of one tile."""
        y, x = divmod(number, self.n[0])
        return np.array([x, y]) * self.stride - self.overlap_px

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(x0, y0, x1, y1) of each tile's own part, in level-0 px, cut at the image's border, (n, 4)."""
        first = self.origins + self.overlap_px
        last = np.minimum(first + self.stride, self.size)
        return np.hstack([first * self.scale, last * self.scale]).astype(np.float64)


def working_mpp(mpp: Sequence[float], downsamples: Sequence[tuple[float, float]], *, wanted: float) -> float:
    """um per px of the tiles: that of a pyramid level if one is within `TOLERANCE` of what is wanted, else that.

    Parameters
    ----------
    mpp
        um per level-0 px, (x, y).
    downsamples
        Level-0 px per px of each level, (x, y).
    wanted
        um per px of the network.

    Returns
    -------
    um per px.
    """
    sides = [np.asarray(mpp) * d for d in downsamples]
    off = [float(np.abs(side / wanted - 1).max()) for side in sides]
    nearest = int(np.argmin(off))
    return float(sides[nearest].max()) if off[nearest] <= TOLERANCE else float(wanted)


def check_tile(tile_px: int, overlap_px: int, *, least: int) -> None:
    """Raise unless a tile is large enough for its network and for its overlap.

    Parameters
    ----------
    tile_px, overlap_px
        Side of the tiles and of their outer part, px.
    least
        Side of the images that the network was trained on, px.

    Raises
    ------
    ValueError
        If it is not.
    """
    if overlap_px < 0:
        raise bad_value("overlap_px", must="be >= 0", got=overlap_px)
    most = max(least, 4 * overlap_px + 1)
    if isinstance(tile_px, bool) or not isinstance(tile_px, int | np.integer) or tile_px < most:
        fix = f"The network was trained on {least} px, and half a tile must be its own beside {overlap_px} px overlap."
        raise bad_value("tile_px", must=f"be an int >= {most}", got=tile_px, fix=fix)


def plan_grid(
    image: PyramidImage,
    *,
    mpp: Sequence[float],
    wanted: float,
    tile_px: int = TILE_PX,
    overlap_px: int = OVERLAP_PX,
) -> Grid:
    """Lay tiles over an image.

    Parameters
    ----------
    image
        Pyramid that is read in parts.
    mpp
        um per level-0 px, (x, y).
    wanted
        um per px of the network.
    tile_px, overlap_px
        Side of the tiles and of their outer part, px.

    Returns
    -------
    The grid.

    Raises
    ------
    ValueError
        If no nucleus can be seen at that pixel size.
    """
    if not (min(mpp) >= FINEST_MPP and max(mpp) <= COARSEST_MPP):
        raise bad_value(
            "mpp",
            must=f"lie between {FINEST_MPP} and {COARSEST_MPP} um per px for nuclei to be told apart",
            got=tuple(float(m) for m in mpp),
            fix="Scans at 40x have about 0.25, at 20x about 0.5: is it the pixel size of the finest level, in um?",
        )
    used = working_mpp(mpp, image.downsamples, wanted=wanted)
    scale = used / float(mpp[0]), used / float(mpp[1])
    height, width = image.levels[0].shape
    return Grid(
        mpp=used, scale=scale, size=(width / scale[0], height / scale[1]), tile_px=tile_px, overlap_px=overlap_px
    )


def whiten(tile: NDArray[np.uint8], origin: NDArray[np.integer], size: Sequence[float]) -> NDArray[np.uint8]:
    """A tile with what lies beyond the image made white, in place.

    Parameters
    ----------
    tile
        Uint8 (t, t, 3).
    origin
        Its first px, (x, y).
    size
        Width and height of the image in px of the tiles.

    Returns
    -------
    The tile.
    """
    for axis, (first, side) in enumerate(zip(origin[::-1], size[::-1], strict=True)):
        centre = np.arange(len(tile)) + first + 0.5
        beyond = (centre < 0) | (centre > side)
        tile[(slice(None),) * axis + (beyond,)] = WHITE
    return tile


def read_tiles(
    image: PyramidImage, grid: Grid, which: NDArray[np.integer], *, workers: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Tiles of an image; every block of it is decoded once, ahead of what is asked for.

    Parameters
    ----------
    image
        Pyramid that is read in parts.
    grid
        The tiles.
    which
        Numbers of those that are wanted, counted row by row.
    workers
        Threads that decode and cut.

    Yields
    ------
    Number of a tile and its px, uint8 (t, t, 3); in the order in which their blocks are read, which depends on the
    image alone.
    """
    origins = grid.origins[which]
    centres = (origins + grid.tile_px / 2) * grid.scale
    mpp = grid.mpp / grid.scale[0], grid.mpp / grid.scale[1]
    cut = stream_crops(image, centres, mpp=mpp, size_px=grid.tile_px, target_mpp=grid.mpp, workers=workers)
    for index, tiles in cut:
        for k, tile in zip(index, tiles, strict=True):
            yield int(which[k]), whiten(tile, origins[k], grid.size)
