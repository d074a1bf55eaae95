"""From dask to the file behind it.

SpatialData holds images as dask arrays. Where such an array does no more than slice a zarr array or a file of ours, it
is read without dask: its scheduler costs more than the decoding, and its chunks need not be those of the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from lemon_sc.io.chunks import ZarrPixels
from lemon_sc.io.frames import frame_file
from lemon_sc.io.image import DaskLevel, PixelsLevel
from lemon_sc.io.pixels import MemoryPixels, Pixels

if TYPE_CHECKING:
    import dask.array as da


def behind(array: da.Array) -> Any:
    """What a dask array slices, a zarr array, numpy array or `Pixels`; None if it computes anything on the way.

    Parameters
    ----------
    array
        Of which the graph is looked at; nothing is computed.

    Returns
    -------
    The object, or None.
    """
    graph = array.__dask_graph__()
    layers = getattr(graph, "layers", {})
    plain = [name for name in layers if not name.startswith("rechunk-")]  # other chunks, the same pixels
    if len(plain) == 2:  # the object, and the slices of it
        plain = [name for name in plain if name.startswith("original-")]
    if len(plain) != 1 or len(layers[plain[0]]) != 1:
        return None
    found = next(iter(layers[plain[0]].values()))
    known = isinstance(found, Pixels | zarr.Array | np.ndarray)
    return found if known and tuple(found.shape) == tuple(array.shape) else None


def level_of(array: da.Array) -> DaskLevel | PixelsLevel:
    """The best reader of one level, channel first (c, h, w).

    Parameters
    ----------
    array
        Lazy level.

    Returns
    -------
    A reader past dask where nothing is computed on the way, else one through it.
    """
    source = behind(array)
    if isinstance(source, Pixels):
        return PixelsLevel(source)
    if isinstance(source, zarr.Array):
        return PixelsLevel(ZarrPixels(source))
    if isinstance(source, np.ndarray):
        return PixelsLevel(MemoryPixels(source))
    frame = frame_file(array)
    if frame is not None:
        return PixelsLevel(frame)
    return DaskLevel(array)
