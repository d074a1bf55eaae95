"""Stored pixels behind one small interface: read a rectangle, slice like an array, say what is decoded at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]

MEMORY_PX = 1024
"""Pixels in memory are read in blocks of a multiple of this."""


class Pixels(ABC):
    """One level of an image in a file.

    To dask it is a channel-first array; the crop engine asks it for rectangles, channel last. Reading takes no lock and
    releases the interpreter's while it decodes, so that threads decode side by side.

    Attributes
    ----------
    shape, dtype
        (c, h, w) and type.
    unit
        Rows and columns that are decoded at once: a tile, a strip, a storage chunk.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    unit: tuple[int, int]
    ndim = 3

    @abstractmethod
    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[Any]:
        """Pixels of a rectangle inside the image, (y1 - y0, x1 - x0, c), C-contiguous."""

    def __getitem__(self, item: tuple[slice, slice, slice]) -> NDArray[Any]:
        (c0, c1), (y0, y1), (x0, x1) = (s.indices(n)[:2] for s, n in zip(item, self.shape, strict=True))
        if c1 <= c0 or y1 <= y0 or x1 <= x0:
            return np.zeros((max(c1 - c0, 0), max(y1 - y0, 0), max(x1 - x0, 0)), dtype=self.dtype)
        return np.moveaxis(self.read(y0, y1, x0, x1), 2, 0)[c0:c1]

    def units(self, y0: int, y1: int, x0: int, x1: int) -> list[tuple[int, int, Box, Box]]:
        """Units that a rectangle touches: row and column of the unit, its part that is wanted, where that belongs."""
        height, width = self.unit
        out = []
        for r in range(y0 // height, -(-y1 // height)):
            for c in range(x0 // width, -(-x1 // width)):
                ya, yb = max(r * height, y0), min((r + 1) * height, y1)
                xa, xb = max(c * width, x0), min((c + 1) * width, x1)
                part = ya - r * height, yb - r * height, xa - c * width, xb - c * width
                out.append((r, c, part, (ya - y0, yb - y0, xa - x0, xb - x0)))
        return out


@numba.njit(nogil=True, cache=True)
def _interleave(planes, y0, y1, x0, x1, out, at_y, at_x, first):  # noqa: ANN001, ANN202, PLR0917
    """Write planes (c, h, w) into `out` (h, w, n), `first` being the channel of the first plane.

    Indices are unsigned where that spares a look at their sign: only then are the loops vectorised.
    """
    width, n = x1 - x0, np.uintp(out.shape[2])
    three, one, two = np.uintp(3), np.uintp(1), np.uintp(2)
    for y in range(y1 - y0):
        line = out[at_y + y, at_x : at_x + width].reshape(width * out.shape[2])
        if planes.shape[0] == 3 and out.shape[2] == 3:
            red, green, blue = planes[0, y0 + y, x0:x1], planes[1, y0 + y, x0:x1], planes[2, y0 + y, x0:x1]
            for x in range(width):
                at = three * np.uintp(x)
                line[at], line[at + one], line[at + two] = red[x], green[x], blue[x]
            continue
        for k in range(planes.shape[0]):
            source, channel = planes[k, y0 + y, x0:x1], np.uintp(first + k)
            for x in range(width):
                line[n * np.uintp(x) + channel] = source[x]


def put_planes(planes: NDArray[Any], part: Box, out: NDArray[Any], at: Box, *, first: int = 0) -> None:
    """Copy a part of channel-first pixels into their place in channel-last ones.

    Parameters
    ----------
    planes
        Decoded, (c, h, w).
    part
        y0, y1, x0, x1 in `planes`.
    out
        (h, w, n), C-contiguous.
    at
        y0, y1, x0, x1 in `out`.
    first
        Channel of `out` that the first plane is.
    """
    if planes.flags.c_contiguous:  # compiled for this case; several times faster than numpy's strided copy
        _interleave(planes, *part, out, at[0], at[2], first)
        return
    moved = np.moveaxis(planes, 0, 2)[part[0] : part[1], part[2] : part[3]]
    out[at[0] : at[1], at[2] : at[3], first : first + len(planes)] = moved


class MemoryPixels(Pixels):
    """Pixels that are in memory, or mapped into it: nothing is decoded.

    Parameters
    ----------
    array
        Channel first, (c, h, w).
    """

    def __init__(self, array: NDArray[Any]) -> None:
        n, height, width = array.shape
        self.array, self.shape, self.dtype = array, (n, height, width), array.dtype
        self.unit = min(MEMORY_PX, height), min(MEMORY_PX, width)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[Any]:
        """Pixels of a rectangle, (y1 - y0, x1 - x0, c)."""
        out = np.empty((y1 - y0, x1 - x0, self.shape[0]), dtype=self.dtype)
        put_planes(self.array, (y0, y1, x0, x1), out, (0, y1 - y0, 0, x1 - x0))
        return out
