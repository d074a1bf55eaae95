"""Nuclei of a whole slide: tiles are read ahead, seen on the device, turned into outlines on threads, and joined.

Reading, the device and the threads work at the same time. A few tiles are held at once; what stays are outlines.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from functools import partial
from os import cpu_count
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import progress
from lemon_sc._core.threads import in_order_on, thread_pool
from lemon_sc.geometry.windows import check_mpp
from lemon_sc.seg.contours import outlines
from lemon_sc.seg.finders import check_found
from lemon_sc.seg.stitch import border_distance, stitch
from lemon_sc.seg.tiles import OVERLAP_PX, TILE_PX, check_tile, plan_grid, read_tiles
from lemon_sc.seg.tissue import grey_thumbnail, tissue_mask, tissue_share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from lemon_sc.crops.stream import PyramidImage
    from lemon_sc.seg.finders import Finder
    from lemon_sc.seg.tiles import Grid

    Tiles = tuple[list[int], NDArray[np.uint8]]

BEYOND_PX = 16
"""A nucleus this far outside its tile's own part is another tile's."""
MIN_TISSUE = 0.01
"""Share of a tile's own part that has to be tissue. 0.8 is usual and loses the rims of the tissue."""
MULTIPLE = 16
"""Sides of tiles are multiples of this where the image is smaller than a tile."""
AT_ONCE = {"cuda": 16, "cpu": 2}
"""Tiles per batch by kind of device."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SlideNuclei:
    """Nuclei of a slide.

    Attributes
    ----------
    polygons
        Outlines in level-0 px, shapely polygons (n,).
    xy
        Centres of mass in level-0 px, float64 (n, 2).
    type
        Code of the type, int64 (n,).
    probability
        Of the type, or of being a nucleus where there are no types, float64 (n,).
    tile
        Number of the tile that each was found in, row by row, int64 (n,).
    """

    polygons: NDArray[Any]
    xy: NDArray[np.float64]
    type: NDArray[np.int64]
    probability: NDArray[np.float64]
    tile: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.polygons)

    def take(self, which: NDArray[Any]) -> SlideNuclei:
        """Some of them."""
        return SlideNuclei(**{name: values[which] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class SlideReport:
    """What a run over a slide did.

    Attributes
    ----------
    mpp
        um per px of the tiles.
    tile_px, overlap_px
        Side of the tiles and of their outer part.
    n_tiles, n_empty
        Tiles that were looked at, and tiles left out for want of tissue.
    n_doubled
        Nuclei found by several tiles, of which one was kept.
    waited, device, threads, joined, total
        Seconds: waiting for tiles, in ``look``, in ``find`` (summed over threads), joining, and all in all.
    """

    mpp: float
    tile_px: int
    overlap_px: int
    n_tiles: int
    n_empty: int
    n_doubled: int
    waited: float
    device: float
    threads: float
    joined: float
    total: float


@dataclass(frozen=True, eq=False, kw_only=True)
class _Found:
    """What a tile gave: its nuclei, px to the tile's border, which of them other tiles may have, and seconds."""

    nuclei: SlideNuclei
    border: NDArray[np.float64]
    shared: NDArray[np.bool_]
    seconds: float


def segment_slide(
    image: PyramidImage,
    finder: Finder,
    *,
    mpp: float | Sequence[float],
    tile_px: int | None = None,
    overlap_px: int = OVERLAP_PX,
    min_tissue: float = MIN_TISSUE,
    batch_size: int | None = None,
    workers: int | None = None,
    simplify_px: float = 0.0,
) -> tuple[SlideNuclei, SlideReport]:
    """Outline the nuclei of an image of any size.

    Parameters
    ----------
    image
        Pyramid that is read in parts.
    finder
        What finds the nuclei of a tile.
    mpp
        um per level-0 px, one number or (x, y).
    tile_px, overlap_px
        Side of the tiles and of their outer part, px of the model. None takes `TILE_PX`, less for a smaller image.
    min_tissue
        Share of a tile's own part that has to be tissue; 0 looks at every tile.
    batch_size
        Tiles that the device sees at once. Neither this nor `workers` decides what is found.
    workers
        Threads that decode, and as many that outline; None takes one per core.
    simplify_px
        How far an outline may stray from the borders of its px, px of the model.

    Returns
    -------
    The nuclei, ordered by tile, and what was done.

    Raises
    ------
    ValueError
        If nothing can be seen at that pixel size, the tile is too small for the model, or there is no tissue.
    """
    begun = perf_counter()
    size = check_mpp(mpp)
    check_share(min_tissue)
    workers = workers or cpu_count() or 1
    least = finder.least_px
    check_tile(TILE_PX if tile_px is None else tile_px, overlap_px, least=least)
    grid = plan_grid(image, mpp=size, wanted=finder.mpp, tile_px=tile_px or TILE_PX, overlap_px=overlap_px)
    if tile_px is None:
        grid = plan_grid(image, mpp=size, wanted=finder.mpp, tile_px=_fit(grid, least), overlap_px=overlap_px)
    which = tiles_with_tissue(image, grid, mpp=size, min_tissue=min_tissue, workers=workers)
    seconds = {"waited": 0.0, "device": 0.0}
    batches = _batches(read_tiles(image, grid, which, workers=workers), batch_size or _batch(finder))
    outline = partial(_outlined, finder, grid, simplify_px)
    found = dict(_run(batches, finder.look, outline, total=len(which), workers=workers, seconds=seconds))
    ready = perf_counter()
    nuclei, n_doubled = _joined([found[number] for number in sorted(found)])
    done = perf_counter()
    return nuclei, SlideReport(
        mpp=grid.mpp,
        tile_px=grid.tile_px,
        overlap_px=overlap_px,
        n_tiles=len(which),
        n_empty=grid.n[0] * grid.n[1] - len(which),
        n_doubled=n_doubled,
        threads=sum(made.seconds for made in found.values()),
        joined=done - ready,
        total=done - begun,
        **seconds,
    )


def check_share(min_tissue: float) -> None:
    """Raise unless this is a share.

    Parameters
    ----------
    min_tissue
        Share of a tile that has to be tissue.

    Raises
    ------
    ValueError
        If it is not between 0 and 1.
    """
    if not 0 <= min_tissue <= 1:
        raise bad_value("min_tissue", must="be a share between 0 and 1", got=min_tissue)


def _fit(grid: Grid, least: int) -> int:
    """Side of the tile for an image that may be smaller than one."""
    needed = int(np.ceil(max(grid.size))) + 2 * grid.overlap_px
    return max(min(-(-needed // MULTIPLE) * MULTIPLE, grid.tile_px), least, 4 * grid.overlap_px + MULTIPLE)


def _batch(finder: Finder) -> int:
    segmenter = getattr(finder, "segmenter", None)
    return AT_ONCE.get("cpu" if segmenter is None else segmenter.device.split(":")[0], AT_ONCE["cpu"])


def tiles_with_tissue(
    image: PyramidImage, grid: Grid, *, mpp: Sequence[float], min_tissue: float, workers: int
) -> NDArray[np.int64]:
    """Numbers of the tiles that hold enough tissue.

    Parameters
    ----------
    image
        Pyramid that is read in parts.
    grid
        Its tiles.
    mpp
        um per level-0 px, (x, y).
    min_tissue
        Share of a tile's own part that has to be tissue; with 0 the image is not looked at.
    workers
        Threads that read.

    Returns
    -------
    Int64, ascending.

    Raises
    ------
    ValueError
        If there are none.
    """
    every = np.arange(grid.n[0] * grid.n[1])
    if min_tissue == 0:
        return every
    grey, down = grey_thumbnail(image, mpp=mpp, workers=workers)
    mask = tissue_mask(grey)
    kept = every[tissue_share(mask, down=down, boxes=grid.boxes) >= min_tissue]
    if not len(kept):
        msg = (
            f"No tissue: {mask.mean():.2%} of the image is dark enough to be tissue, and no tile has "
            f"{min_tissue:.0%} of it (mean grey level {grey.mean():.0f} of 255, darkest {grey.min():.0f}). "
            "Is it the H&E? Pass `min_tissue=0` to look at every tile."
        )
        raise ValueError(msg)
    return kept


def _batches(tiles: Iterator[tuple[int, NDArray[np.uint8]]], size: int) -> Iterator[Tiles]:
    while batch := list(itertools.islice(tiles, size)):
        yield [number for number, _ in batch], np.stack([tile for _, tile in batch])


def _run(
    batches: Iterator[Tiles],
    look: Callable[[NDArray[np.uint8]], Sequence[Any]],
    outline: Callable[[int, NDArray[np.uint8], Any], _Found],
    *,
    total: int,
    workers: int,
    seconds: dict[str, float],
) -> Iterator[tuple[int, _Found]]:
    """Number and nuclei of each tile, in the order of reading: one thread reads, this one looks, others outline."""
    begun: deque[tuple[int, Future[_Found]]] = deque()
    with (
        thread_pool(1) as reader,
        thread_pool(workers) as pool,
        progress(total=total, desc="Segmenting", unit="tiles") as bar,
    ):
        ahead = in_order_on(reader, lambda _: next(batches, None), itertools.count(), ahead=1)
        try:
            while (batch := _timed(ahead.__next__, seconds, "waited")) is not None:
                numbers, tiles = batch
                seen = _timed(partial(look, tiles), seconds, "device")
                for number, tile, one in zip(numbers, tiles, seen, strict=True):
                    begun.append((number, pool.submit(outline, number, tile, one)))
                while len(begun) > workers + len(tiles):
                    yield _next(begun, bar)
            while begun:
                yield _next(begun, bar)
        finally:
            ahead.close()
            for _, job in begun:
                job.cancel()


def _timed(function: Callable[[], Any], seconds: dict[str, float], what: str) -> Any:
    """What a function gives; the time it took is added to an entry of `seconds`."""
    now = perf_counter()
    made = function()
    seconds[what] += perf_counter() - now
    return made


def _next(begun: deque[tuple[int, Future[_Found]]], bar: Any) -> tuple[int, _Found]:
    number, job = begun.popleft()
    bar.update()
    return number, job.result()


def _outlined(
    finder: Finder, grid: Grid, simplify_px: float, number: int, tile: NDArray[np.uint8], seen: Any
) -> _Found:
    """The nuclei of a tile, in level-0 px, without those that are surely another tile's or beyond the image."""
    now, origin = perf_counter(), grid.origin(number)
    found = check_found(finder.find(tile, seen, mpp=grid.mpp), finder.classes, name=finder.name)
    polygons = outlines(found.labels, simplify_px=simplify_px)
    inner = grid.overlap_px, grid.tile_px - grid.overlap_px
    box = found.box
    near = (box[:, 2:] > inner[0] - BEYOND_PX).all(axis=1) & (box[:, :2] < inner[1] + BEYOND_PX).all(axis=1)
    at = found.xy + origin
    inside = ((at >= 0) & (at <= grid.size)).all(axis=1)
    kept = near & inside & ~shapely.is_empty(polygons)
    alone = 2 * grid.overlap_px, grid.tile_px - 2 * grid.overlap_px
    shared = np.any(np.column_stack([box[:, :2] < alone[0], box[:, 2:] > alone[1]]), axis=1)
    nuclei = SlideNuclei(
        polygons=shapely.transform(polygons, lambda xy: (xy + origin) * grid.scale),
        xy=at * grid.scale,
        type=found.type,
        probability=found.probability,
        tile=np.full(len(found), number, dtype=np.int64),
    )
    border = border_distance(box, np.array([0, 0, grid.tile_px, grid.tile_px]))
    return _Found(nuclei=nuclei.take(kept), border=border[kept], shared=shared[kept], seconds=perf_counter() - now)


def _joined(found: Sequence[_Found]) -> tuple[SlideNuclei, int]:
    """All nuclei, each once; and how many were found twice."""
    parts = [vars(made.nuclei) for made in found]
    every = SlideNuclei(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    border = np.concatenate([made.border for made in found])
    shared = np.concatenate([made.shared for made in found])
    keep: NDArray[np.bool_] = np.ones(len(every), dtype=np.bool_)
    if shared.any():
        keep[shared] = stitch(every.polygons[shared], tile=every.tile[shared], border=border[shared])
    return every.take(keep), int((~keep).sum())
