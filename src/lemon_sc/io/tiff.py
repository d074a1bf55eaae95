"""TIFF pyramids (OME-TIFF, SVS): opening reads headers, reading decodes only the tiles it touches."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import tifffile

from lemon_sc._core.memory import recycled
from lemon_sc.io.pixels import MEMORY_PX, Box, MemoryPixels, Pixels, put_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CHUNK_PX = 2048
"""Chunks of the lazy array are whole tiles, about this wide."""

DECODED_TO_RGB = (6, 7, 33005)
"""TIFF compressions whose decoder gives RGB although the file says YCbCr: JPEG, and Aperio's JPEG 2000 of RGB."""

APERIO_YCBCR = 33003
"""Aperio's JPEG 2000 of YCbCr, which the decoder leaves as it is."""


class TiffLevel(Pixels):
    """One level of a TIFF pyramid. Pickles by path.

    Parameters
    ----------
    path
        The file.
    series, level
        Which image of the file, and which level of its pyramid.
    """

    def __init__(self, path: str | os.PathLike[str], series: int, level: int) -> None:
        self.path, self.series, self.level = os.fspath(path), series, level
        self.file = tifffile.TiffFile(self.path)
        self.lock = threading.Lock()
        found = self.file.series[series].levels[level]
        self.pages = [page.aspage() for page in found.pages if page is not None]
        for page in self.pages:
            page.parent.filehandle.open()  # does nothing unless an OME-TIFF is spread over files that are closed
        page = self.pages[0]
        _check_colours(page, self.path)
        self.planar = len(self.pages) > 1 or (page.planarconfig == 2 and page.samplesperpixel > 1)
        samples = len(self.pages) if len(self.pages) > 1 else page.samplesperpixel
        self.shape = (int(samples), int(page.imagelength), int(page.imagewidth))
        self.dtype = np.dtype(page.dtype)
        self.mapped = [_mapped(page, self.path) for page in self.pages]
        width = page.tilewidth if page.is_tiled else page.imagewidth
        height = page.tilelength if page.is_tiled else page.rowsperstrip
        if self.mapped[0] is not None:  # nothing to decode, so any rectangle is as good as a strip
            height = width = MEMORY_PX
        self.unit = (min(int(height), self.shape[1]), min(int(width), self.shape[2]))

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffLevel, (self.path, self.series, self.level)

    def encoded(self, page: Any, index: int) -> bytes | None:
        """The bytes of one tile or strip; None where the file has none (sparse tiles)."""
        n_bytes, offset = page.databytecounts[index], page.dataoffsets[index]
        if not n_bytes:
            return None
        handle = page.parent.filehandle  # not always of this file: an OME-TIFF may be spread over several
        if hasattr(os, "pread"):
            data = os.pread(handle.fileno(), n_bytes, offset)
        else:  # Windows
            with self.lock:
                handle.seek(offset)
                data = handle.read(n_bytes)
        if len(data) < n_bytes:
            msg = f"'{handle.path}' is cut short: tile {index} should have {n_bytes} bytes, {len(data)} are there."
            raise OSError(msg)
        return data

    def segment(self, page: Any, index: int) -> NDArray[Any] | None:
        """Decode one tile or strip, (h, w, samples); None where the file has none."""
        encoded = self.encoded(page, index)
        if encoded is None:
            return None
        try:
            data, _, shape = page.decode(encoded, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        except Exception as error:
            msg = f"'{self.path}' is damaged: tile {index} of level {self.level} cannot be decoded ({error})."
            raise OSError(msg) from error
        return None if data is None else data[0, : shape[1], : shape[2]]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[Any]:
        """Pixels of a rectangle, (y1 - y0, x1 - x0, c)."""
        out = recycled((y1 - y0, x1 - x0, self.shape[0]), self.dtype)
        if self.mapped[0] is not None:
            self.copy(out, (y0, y1, x0, x1))
            return out
        across, down = (-(-n // u) for n, u in zip(self.shape[:0:-1], self.unit[::-1], strict=True))
        white = np.iinfo(self.dtype).max if self.dtype.kind == "u" else 0  # where a file has no tile, there is glass
        for r, c, part, to in self.units(y0, y1, x0, x1):
            target = out[to[0] : to[1], to[2] : to[3]]
            if not self.planar:
                data = self.segment(self.pages[0], r * across + c)
                target[...] = white if data is None else data[part[0] : part[1], part[2] : part[3]]
                continue
            for k in range(self.shape[0]):
                page, first = (self.pages[k], 0) if len(self.pages) > 1 else (self.pages[0], k * across * down)
                data = self.segment(page, first + r * across + c)
                if data is None:
                    target[..., k] = white
                else:
                    put_planes(data[None, ..., 0], part, out, to, first=k)
        return out

    def copy(self, out: NDArray[Any], box: Box) -> None:
        """Fill `out` from the mapped file."""
        y0, y1, x0, x1 = box
        first = 0
        for mapped in self.mapped:  # (planes, h, w, samples): one of planes and samples is 1
            if mapped is None:
                continue
            planes, samples = mapped.shape[0], mapped.shape[3]
            if samples > 1:
                out[...] = mapped[0, y0:y1, x0:x1]
            else:
                whole: Box = (0, y1 - y0, 0, x1 - x0)
                put_planes(mapped[..., 0], box, out, whole, first=first)
            first += planes


def _mapped(page: Any, path: str) -> NDArray[Any] | None:
    """Map the pixels of an uncompressed page without tiles, (planes, h, w, samples); None for any other."""
    if page.is_tiled or not page.is_memmappable or page.parent.filehandle.path != os.path.realpath(path):
        return None
    n_planes, _, height, width, n = page.shaped
    dtype = np.dtype(page.parent.byteorder + page.dtype.char)
    return np.memmap(path, dtype=dtype, mode="r", offset=page.dataoffsets[0], shape=(n_planes, height, width, n))


def _check_colours(page: Any, path: str) -> None:
    """Raise if the samples are not the colours themselves."""
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    if page.compression == APERIO_YCBCR:
        photometric = "YCBCR"  # whatever the file says: Aperio's own tag is wrong, see OpenSlide's notes on the format
    elif photometric in {"RGB", "MINISBLACK"} or (photometric == "YCBCR" and page.compression in DECODED_TO_RGB):
        return
    msg = (
        f"'{path}' has {photometric} colours, which tifffile does not turn into RGB. Save it as RGB, or, if it is a "
        'slide that OpenSlide knows: pip install "lemon_sc[wsi]".'
    )
    raise UnsupportedColoursError(msg)


class UnsupportedColoursError(ValueError):
    """Colours that tifffile does not turn into RGB; another reader may."""


class NotTiffError(ValueError):
    """No TIFF file; another reader may know it."""


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Lazy levels, finest first, and the pixel size the file states: um per px (x, y), or None."""

    levels: list[da.Array]
    mpp: tuple[float, float] | None


def lazy_levels(levels: Sequence[Pixels]) -> list[da.Array]:
    """Levels of a file as dask arrays (c, h, w), in chunks of whole tiles.

    Parameters
    ----------
    levels
        Levels of the file, finest first.

    Returns
    -------
    One array per level.
    """
    return [
        da.from_array(
            level,
            chunks=(level.shape[0], *map(_whole_tiles, level.unit, level.shape[1:])),
            name=False if isinstance(level, MemoryPixels) else None,  # a name is a digest of the source
            asarray=False,
            meta=np.zeros((0, 0, 0), level.dtype),
        )
        for level in levels
    ]


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


def image_file(path: str | os.PathLike[str]) -> Path:
    """The path of an image that is there.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Its path.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"No image at '{path}'."
        raise FileNotFoundError(msg)
    return path


def open_tiff(path: str | os.PathLike[str]) -> Pyramid:
    """Open the first image of a TIFF file lazily.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Levels, and the pixel size where it is stated.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a TIFF file, its first image has axes other than y, x and colour, or colours that are not RGB.
    """
    path = image_file(path)
    try:
        tif = tifffile.TiffFile(path)
    except tifffile.TiffFileError as error:
        msg = f"'{path}' is not a TIFF file ({error})."
        raise NotTiffError(msg) from error
    with tif:
        series = tif.series[0]
        axes = series.axes.replace("S", "C")
        if axes not in {"YXC", "CYX", "YX"}:
            msg = f"'{path}' has the axes {series.axes} and the shape {series.shape}; one plane of RGB is needed."
            raise ValueError(msg)
        n_levels = len(series.levels)
        mpp = _stated_mpp(tif)
    return Pyramid(levels=lazy_levels([TiffLevel(path, 0, k) for k in range(n_levels)]), mpp=mpp)
