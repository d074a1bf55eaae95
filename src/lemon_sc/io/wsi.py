"""Whole-slide formats beyond TIFF (MIRAX, NDPI, SCN, DICOM, ...), through OpenSlide where it is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemon_sc._core.optional import require
from lemon_sc.io.pixels import Pixels
from lemon_sc.io.tiff import Pyramid, image_file, lazy_levels

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

SUFFIXES = {".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svslide", ".vms", ".vmu", ".vsi"}
"""Files that are left to OpenSlide at once. Others are tried as TIFF first."""

UNTILED_PX = 512
"""Reads are multiples of this where a format does not say how large its tiles are."""


def _openslide_for(path: Path) -> ModuleType:
    """OpenSlide's module, or an error that says how to get it."""
    return require("openslide", extra="wsi", purpose=f"Reading '{path}'")


class SlideLevel(Pixels):
    """One level of a slide. Safe to read from several threads; pickles by path.

    Parameters
    ----------
    path
        The file.
    level
        Which level of its pyramid.
    """

    def __init__(self, path: str | os.PathLike[str], level: int) -> None:
        self.path, self.level = os.fspath(path), level
        self.slide = _openslide_for(Path(path)).OpenSlide(self.path)
        width, height = self.slide.level_dimensions[level]
        self.shape, self.dtype = (3, int(height), int(width)), np.dtype(np.uint8)
        self.down = float(self.slide.level_downsamples[level])
        facts = self.slide.properties
        tile = [int(facts.get(f"openslide.level[{level}].tile-{s}", UNTILED_PX)) for s in ("height", "width")]
        self.unit = min(tile[0], height), min(tile[1], width)
        colour = facts.get("openslide.background-color", "FFFFFF")
        self.background = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)], dtype=np.uint16)

    def __reduce__(self) -> tuple[Any, ...]:
        return SlideLevel, (self.path, self.level)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        """Pixels of a rectangle, (y1 - y0, x1 - x0, 3). Where nothing was scanned there is the slide's background."""
        at = round(x0 * self.down), round(y0 * self.down)  # OpenSlide counts from level 0 whatever level it reads
        try:
            region = np.asarray(self.slide.read_region(at, self.level, (x1 - x0, y1 - y0)))
        except Exception as error:  # OpenSlideError, which needs the package to be named
            msg = f"'{self.path}' is damaged: OpenSlide cannot read level {self.level} at x={x0}, y={y0} ({error})."
            raise OSError(msg) from error
        colours, alpha = region[..., :3], region[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(colours)
        weight = alpha.astype(np.uint16)
        return ((colours * weight + self.background * (255 - weight) + 127) // 255).astype(np.uint8)


def recognises(path: Path) -> bool:
    """Whether OpenSlide is there and knows the format of a file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    False where OpenSlide is not installed.
    """
    try:
        openslide = _openslide_for(path)
    except ImportError:
        return False
    return openslide.OpenSlide.detect_format(path) is not None


def open_slide(path: str | os.PathLike[str]) -> Pyramid:
    """Open a slide lazily.

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
    ImportError
        If OpenSlide is not installed.
    ValueError
        If OpenSlide does not know the format, or cannot open the file.
    """
    path = image_file(path)
    openslide = _openslide_for(path)
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        msg = f"'{path}' is not a slide that OpenSlide can open ({error}). Convert it to OME-TIFF first."
        raise ValueError(msg) from error
    with slide:
        n_levels = slide.level_count
        stated = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    mpp = None if None in stated else (float(stated[0]), float(stated[1]))
    return Pyramid(levels=lazy_levels([SlideLevel(path, k) for k in range(n_levels)]), mpp=mpp)
