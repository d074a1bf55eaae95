"""TIFF files that dask-image has opened as one frame, as `spatialdata_io.xenium` does with an aligned H&E.

Every piece of such an array decodes the whole file. Where nothing but the order of axes lies between the file and the
array, the file is read in tiles instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemon_sc.io.tiff import TiffLevel, open_tiff

if TYPE_CHECKING:
    import dask.array as da

WHOLE = slice(None)
STEPS = ("array-", "_map_read_frame-", "getitem-", "transpose-")
"""Layers of the graph from the name of the file to (c, y, x): dask-image's, then the reader's."""


def _only(layers: Any, name: str) -> Any:
    """The one task of a layer; None if it has several."""
    return next(iter(layers[name].values())) if len(layers[name]) == 1 else None


def frame_file(array: da.Array) -> TiffLevel | None:
    """The file behind an array (3, h, w), if the array is the file's first frame as it is; else None.

    Parameters
    ----------
    array
        Of which the graph is looked at; nothing is computed.

    Returns
    -------
    Level of the file, or None.
    """
    layers = getattr(array.__dask_graph__(), "layers", {})
    chain = [name for name in layers if not name.startswith("rechunk-")]
    if len(chain) != len(STEPS) or not all(n.startswith(s) for n, s in zip(chain, STEPS, strict=True)):
        return None
    names, frame, first, moved = (_only(layers, name) for name in chain)
    one_file = getattr(names, "shape", None) == (1,) and getattr(frame, "kwargs", {}).get("multiple_files") is False
    first_frame = tuple(getattr(first, "args", ())[1:]) == ((0, WHOLE, WHOLE, WHOLE),)
    channels_first = getattr(moved, "kwargs", {}).get("axes") == (2, 0, 1)
    if not (one_file and first_frame and channels_first):
        return None
    path = Path(str(names[0]))
    try:
        open_tiff(path)
        level = TiffLevel(path, 0, 0)
    except (OSError, ValueError):  # dask will say what is wrong with it
        return None
    return level if level.shape == array.shape and level.dtype == array.dtype else None
