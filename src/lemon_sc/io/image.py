"""Images that are read in parts, never whole: arrays, files and dask arrays behind one small interface.

The interface is `lemon_sc.crops.stream.PyramidImage`: levels with a size, storage-chunk borders and ``read``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lemon_sc.io.pixels import Pixels


@dataclass(frozen=True, eq=False)
class ArrayLevel:
    """A level over anything that slices like numpy, channel last (h, w, 3): numpy, zarr, memory map."""

    array: Any
    chunk_px: int = 2048

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.array.shape[0]), int(self.array.shape[1])

    @property
    def unit(self) -> tuple[int, int]:
        """Rows and columns that are read at once."""
        return self.chunk_px, self.chunk_px

    @property
    def row_edges(self) -> list[int]:
        """Chunk borders along y, first 0 and last the height."""
        return [*range(0, self.shape[0], self.chunk_px), self.shape[0]]

    @property
    def col_edges(self) -> list[int]:
        """Chunk borders along x."""
        return [*range(0, self.shape[1], self.chunk_px), self.shape[1]]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        """Pixels (y1 - y0, x1 - x0, 3)."""
        return np.asarray(self.array[y0:y1, x0:x1])


@dataclass(frozen=True, eq=False)
class PixelsLevel:
    """A level that is read straight from its file, in blocks of whole tiles, strips or storage chunks."""

    pixels: Pixels

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[1:]

    @property
    def unit(self) -> tuple[int, int]:
        """Rows and columns that are decoded at once."""
        return self.pixels.unit

    @property
    def row_edges(self) -> list[int]:
        """Borders of what is decoded at once along y, first 0 and last the height."""
        return [*range(0, self.shape[0], self.unit[0]), self.shape[0]]

    @property
    def col_edges(self) -> list[int]:
        """The same along x."""
        return [*range(0, self.shape[1], self.unit[1]), self.shape[1]]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        """Pixels (y1 - y0, x1 - x0, 3)."""
        return self.pixels.read(y0, y1, x0, x1)


@dataclass(frozen=True, eq=False)
class DaskLevel:
    """A level that dask computes, channel first (3, h, w): anything but a plain array or file."""

    array: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.array.shape[1]), int(self.array.shape[2])

    @property
    def unit(self) -> tuple[int, int]:
        """About how many rows and columns are computed at once: the image, over the pieces of its coarsest step."""
        pieces = _fewest_pieces(self.array)
        height, width = self.shape
        if pieces == 1:
            return height, width
        return tuple(max(int(n / pieces**0.5), 1) for n in (height, width))  # type: ignore[return-value]

    @property
    def row_edges(self) -> list[int]:
        """Chunk borders along y, first 0 and last the height."""
        return [0, *np.cumsum(self.array.chunks[1]).tolist()]

    @property
    def col_edges(self) -> list[int]:
        """Chunk borders along x."""
        return [0, *np.cumsum(self.array.chunks[2]).tolist()]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        """Pixels (y1 - y0, x1 - x0, 3). Runs in the calling thread, so that the caller decides on parallelism."""
        part = self.array[:, y0:y1, x0:x1].compute(scheduler="synchronous")
        return np.ascontiguousarray(np.moveaxis(np.asarray(part), 0, 2))


def _fewest_pieces(array: Any) -> int:
    """In how many pieces a dask array passes through the coarsest of its steps.

    Whatever its chunks are now: an image that was read as one frame and cut up afterwards is read whole for every
    chunk.
    """
    layers, needs = array.__dask_graph__().layers, array.__dask_graph__().dependencies
    least = int(array.npartitions)
    for name, layer in layers.items():
        if name.startswith("original-"):
            source = next(iter(layer.values()))
            if hasattr(source, "chunks") and len(source.chunks) == len(source.shape):
                sides = (-(-n // c) for n, c in zip(source.shape[-2:], source.chunks[-2:], strict=True))
                least = min(least, int(np.prod(list(sides))))
        elif needs[name]:
            least = min(least, len(layer))
    return max(least, 1)


@dataclass(eq=False)
class Image:
    """A pyramid. `downsamples`: level-0 px per px of each level, (x, y)."""

    levels: Sequence[Any]
    downsamples: Sequence[tuple[float, float]]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of level 0."""
        height, width = self.levels[0].shape
        return int(height), int(width)


def downsample(full: int, part: int) -> float:
    """Level-0 px per px of a level.

    Pyramids halve and drop the odd last pixel, so 527 -> 263 is a factor of 2, not 2.004: the nearest integer factor is
    taken wherever it explains the size.

    Parameters
    ----------
    full, part
        Length of an axis at level 0 and at the level, in px.

    Returns
    -------
    The factor.
    """
    factor = max(round(full / part), 1)
    return float(factor) if abs(full - factor * part) < factor else full / part


def array_image(*levels: Any) -> Image:
    """Image from channel-last arrays (h, w, 3), finest first.

    Parameters
    ----------
    levels
        Arrays, or anything sliced as they are.

    Returns
    -------
    The image.
    """
    sizes = [(a.shape[0], a.shape[1]) for a in levels]
    (h, w) = sizes[0]
    return Image([ArrayLevel(a) for a in levels], [(downsample(w, b), downsample(h, a)) for a, b in sizes])


def dask_image(*levels: Any) -> Image:
    """Image from channel-first dask arrays (3, h, w), finest first.

    Parameters
    ----------
    levels
        Lazy levels.

    Returns
    -------
    The image; each level has the best reader for what lies behind its array.
    """
    from lemon_sc.io.sources import level_of  # arrays, above, need neither dask nor zarr

    sizes = [(a.shape[1], a.shape[2]) for a in levels]
    (h, w) = sizes[0]
    return Image([level_of(a) for a in levels], [(downsample(w, b), downsample(h, a)) for a, b in sizes])
