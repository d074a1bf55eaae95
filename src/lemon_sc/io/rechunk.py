"""Write an image as a well-chunked OME-Zarr, in bounded memory, whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

import lemon_sc
from lemon_sc._core.log import progress
from lemon_sc._core.threads import in_order
from lemon_sc.io.chunks import ZarrPixels
from lemon_sc.io.image import Image, PixelsLevel, downsample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Box = tuple[int, int, int, int]

CHUNK_PX = 1024
"""Side of a chunk."""

SHARD_PX = 8192
"""A shard, which is a file, is one chunk high and this wide: what comes in strips is written strip by strip."""

COARSEST_PX = 1024
"""A pyramid is built until a level fits into so many px."""

MEMORY = 1_000_000_000
"""Bytes of decoded px that may be under way at once, if more than one block is."""


def write_pyramid(image: Image, path: Path, *, channels: list[str], mpp: tuple[float, float] | None) -> None:
    """Write a uint8 image as OME-Zarr 0.5 (zarr v3, sharded), losslessly; it appears at `path` only when it is whole.

    Levels of a pyramid are kept as they are. An image of one level gets a pyramid: means of 2 x 2 px, rounded down.

    Parameters
    ----------
    image
        What to write. What is decoded at once (a tile, a strip, a chunk) is decoded once.
    path
        Folder, which must not exist.
    channels
        Names of the channels.
    mpp
        um per level-0 px, (x, y), or None if unknown.

    Raises
    ------
    OSError
        If it cannot be written, or the image cannot be read. Nothing is left at `path`.
    """
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    sizes = [level.shape for level in image.levels]
    if len(sizes) == 1:
        while max(sizes[-1]) > COARSEST_PX and min(sizes[-1]) > 1:
            sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            group = zarr.open_group(part, mode="w", zarr_format=3)
        n_px = sum(h * w for h, w in sizes)
        with progress(total=n_px, desc=f"Writing {path.name}", unit="px") as bar:
            for k, size in enumerate(sizes):
                level = image.levels[k] if k < len(image.levels) else Halved(group[str(k - 1)])
                with _writing(path):
                    array = _create(group, str(k), size, len(channels))
                for n in _copy(level, array, path):
                    bar.update(n)
        with _writing(path):
            group.attrs.update(_ome_metadata(sizes, channels=channels, mpp=mpp, name=path.stem))
            part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _ome_metadata(
    sizes: Sequence[tuple[int, int]], *, channels: list[str], mpp: tuple[float, float] | None, name: str
) -> dict[str, Any]:
    """Metadata of an OME-Zarr 0.5 image with axes c, y, x.

    Parameters
    ----------
    sizes
        (height, width) of each level.
    channels, mpp
        As for `write_pyramid`.
    name
        Of the image.
    """
    unit = {} if mpp is None else {"unit": "micrometer"}
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", **unit} for a in "yx")]
    x, y = (1.0, 1.0) if mpp is None else mpp
    datasets = []
    for k, (height, width) in enumerate(sizes):
        scale = [1.0, y * downsample(sizes[0][0], height), x * downsample(sizes[0][1], width)]
        datasets.append({"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
            "omero": {"channels": [{"label": c} for c in channels]},
            "_creator": {"name": "lemon_sc", "version": lemon_sc.__version__},
        }
    }


class Halved(PixelsLevel):
    """A level half the size of a written one: means of 2 x 2 px, rounded down; an odd last px is dropped.

    Parameters
    ----------
    array
        The written level, (c, h, w).
    """

    def __init__(self, array: Any) -> None:
        super().__init__(ZarrPixels(array))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[1] // 2, self.pixels.shape[2] // 2

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[Any]:
        """Pixels (y1 - y0, x1 - x0, c)."""
        fine = self.pixels.read(2 * y0, 2 * y1, 2 * x0, 2 * x1)
        total = np.zeros((y1 - y0, x1 - x0, fine.shape[2]), dtype=np.uint16)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            total += fine[dy::2, dx::2]
        return (total // 4).astype(np.uint8)


def _create(group: zarr.Group, name: str, size: tuple[int, int], n_channels: int) -> Any:
    """An empty array of a level."""
    height, width = (min(CHUNK_PX, n) for n in size)
    per_shard = min(SHARD_PX // CHUNK_PX, -(-size[1] // width))
    return group.create_array(
        name,
        shape=(n_channels, *size),
        chunks=(n_channels, height, width),
        shards=(n_channels, height, width * per_shard),
        dtype="uint8",
        dimension_names=["c", "y", "x"],
        compressors=ZstdCodec(level=3),
    )


def boxes(size: tuple[int, int], shard: tuple[int, int], unit: tuple[int, int]) -> list[Box]:
    """Rectangles of whole shards that are read one at a time, each large enough that what is decoded is used up.

    Parameters
    ----------
    size, shard, unit
        Rows and columns of the image, of a shard, and of what is decoded at once.

    Returns
    -------
    The rectangles; together they cover the image once.
    """
    tall, wide = (s * max(-(-min(u, n) // s), 1) for s, u, n in zip(shard, unit, size, strict=True))
    return [
        (y, min(y + tall, size[0]), x, min(x + wide, size[1]))
        for y in range(0, size[0], tall)
        for x in range(0, size[1], wide)
    ]


def _copy(level: Any, array: Any, path: Path) -> Iterator[int]:
    """Copy a level box by box, as many at once as memory allows; give the px of each."""
    n_channels, shard = array.shape[0], array.shards[1:]
    jobs = boxes(level.shape, shard, level.unit)
    y0, y1, x0, x1 = jobs[0]
    at_once = (y1 - y0) * (x1 - x0) * n_channels * 3  # decoded, interleaved, and by plane again
    workers = int(min(os.cpu_count() or 1, max(MEMORY // at_once, 1), len(jobs)))

    def copy(box: Box) -> int:
        y0, y1, x0, x1 = box
        pixels = level.read(*box)
        for y in range(y0, y1, shard[0]):
            for x in range(x0, x1, shard[1]):
                yb, xb = min(y + shard[0], y1), min(x + shard[1], x1)
                planes = np.ascontiguousarray(np.moveaxis(pixels[y - y0 : yb - y0, x - x0 : xb - x0], 2, 0))
                with _writing(path):
                    array[:, y:yb, x:xb] = planes
        return (y1 - y0) * (x1 - x0)

    yield from in_order(copy, jobs, workers=workers)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of the disk, with the path that the user gave and what to do."""
    try:
        yield
    except OSError as error:
        msg = (
            f"'{path}' cannot be written ({error.strerror or error}). Nothing is left of it, and the image is as it "
            "was. Make room or name another folder."
        )
        raise OSError(error.errno, msg) from error
