"""TIFF pyramids (OME-TIFF, SVS) as lazy arrays: opening reads headers, slicing decodes only the tiles it touches."""

from __future__ import annotations

import itertools
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import tifffile

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_PX = 2048
"""Chunks of the lazy array are whole tiles, about this wide."""


class TiffLevel:
    """One level of a TIFF pyramid, sliced as a channel-first array (3, h, w).

    Tiles (or strips) are read and decoded on demand. Safe to read from several threads; pickles by path.
    """

    def __init__(self, path: str | os.PathLike[str], series: int, level: int) -> None:
        self.path, self.series, self.level = os.fspath(path), series, level
        self.lock = threading.Lock()
        self.file = tifffile.TiffFile(self.path)
        found = self.file.series[series].levels[level]
        self.pages = [page.aspage() for page in found.pages if page is not None]
        page = self.pages[0]
        self.planar = len(self.pages) == 3 or (page.planarconfig == 2 and page.samplesperpixel > 1)
        samples = len(self.pages) if len(self.pages) > 1 else page.samplesperpixel
        self.shape = (int(samples), int(page.imagelength), int(page.imagewidth))
        self.dtype = np.dtype(page.dtype)
        self.ndim = 3
        width = page.tilewidth if page.is_tiled else page.imagewidth
        height = page.tilelength if page.is_tiled else page.rowsperstrip
        self.tile = (min(int(height), self.shape[1]), min(int(width), self.shape[2]))

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffLevel, (self.path, self.series, self.level)

    def segment(self, page: Any, index: int) -> NDArray[Any] | None:
        """Decode one tile or strip, (h, w, samples); None where the file has none (sparse tiles)."""
        n_bytes = page.databytecounts[index]
        if not n_bytes:
            return None
        with self.lock:  # one file handle; decoding runs outside the lock
            self.file.filehandle.seek(page.dataoffsets[index])
            encoded = self.file.filehandle.read(n_bytes)
        data, _, shape = page.decode(encoded, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        return None if data is None else data[0, : shape[1], : shape[2]]

    def __getitem__(self, item: tuple[slice, slice, slice]) -> NDArray[Any]:
        (c0, c1), (y0, y1), (x0, x1) = (s.indices(n)[:2] for s, n in zip(item, self.shape, strict=True))
        white = np.iinfo(self.dtype).max if self.dtype.kind == "u" else 0  # where a file has no tile, there is glass
        out = np.full((c1 - c0, y1 - y0, x1 - x0), white, dtype=self.dtype)
        if not out.size:
            return out
        th, tw = self.tile
        across, down = -(-self.shape[2] // tw), -(-self.shape[1] // th)
        tiles = itertools.product(range(y0 // th, -(-y1 // th)), range(x0 // tw, -(-x1 // tw)))
        for r, c in tiles:
            ya, yb, xa, xb = max(r * th, y0), min((r + 1) * th, y1), max(c * tw, x0), min((c + 1) * tw, x1)
            target = out[:, ya - y0 : yb - y0, xa - x0 : xb - x0]
            part = slice(ya - r * th, yb - r * th), slice(xa - c * tw, xb - c * tw)
            if not self.planar:
                data = self.segment(self.pages[0], r * across + c)
                if data is not None:
                    target[...] = np.moveaxis(data[part], 2, 0)[c0:c1]
                continue
            for k in range(c0, c1):
                page, first = (self.pages[k], 0) if len(self.pages) > 1 else (self.pages[0], k * across * down)
                data = self.segment(page, first + r * across + c)
                if data is not None:
                    target[k - c0] = data[part][..., 0]
        return out


@dataclass(frozen=True, kw_only=True)
class TiffPyramid:
    """Lazy levels, finest first, and the pixel size the file states: um per px (x, y), or None."""

    levels: list[da.Array]
    mpp: tuple[float, float] | None


def _whole_tiles(tile: int, length: int) -> int:
    """Chunk length: whole tiles, about `CHUNK_PX`, no more than the image."""
    return min(max(CHUNK_PX // tile, 1) * tile, length)


def _stated_mpp(tif: tifffile.TiffFile) -> tuple[float, float] | None:
    """Pixel size in um from OME-XML or an Aperio header; None where neither states one."""
    if tif.ome_metadata:
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]
        pixels = (pixels[0] if isinstance(pixels, list) else pixels)["Pixels"]
        to_um = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}
        units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY"]
        if "PhysicalSizeX" in pixels and "PhysicalSizeY" in pixels and all(u in to_um for u in units):
            x, y = (float(pixels[f"PhysicalSize{a}"]) * to_um[u] for a, u in zip("XY", units, strict=True))
            return x, y
    if tif.is_svs:
        mpp = tifffile.tifffile.svs_description_metadata(tif.pages.first.description).get("MPP")
        return None if mpp is None else (float(mpp), float(mpp))
    return None


def open_tiff(path: str | os.PathLike[str]) -> TiffPyramid:
    """Open the first image of a TIFF file lazily.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a TIFF file, or its first image has axes other than y, x and colour.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"No image at '{path}'."
        raise FileNotFoundError(msg)
    try:
        tif = tifffile.TiffFile(path)
    except tifffile.TiffFileError as error:
        msg = f"'{path}' is not a TIFF file ({error})."
        raise ValueError(msg) from error
    with tif:
        series = tif.series[0]
        axes = series.axes.replace("S", "C")
        if axes not in {"YXC", "CYX", "YX"}:
            msg = f"'{path}' has the axes {series.axes} and the shape {series.shape}; one plane of RGB is needed."
            raise ValueError(msg)
        n_levels = len(series.levels)
        mpp = _stated_mpp(tif)
    levels = []
    for k in range(n_levels):
        level = TiffLevel(path, 0, k)
        chunks = (level.shape[0], *map(_whole_tiles, level.tile, level.shape[1:]))
        levels.append(
            da.from_array(level, chunks=chunks, name=None, asarray=False, meta=np.zeros((0, 0, 0), level.dtype))
        )
    return TiffPyramid(levels=levels, mpp=mpp)
