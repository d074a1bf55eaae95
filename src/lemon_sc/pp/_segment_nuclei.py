"""`lm.pp.segment_nuclei`: find the nuclei of an H&E that has nothing but its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import spatialdata as sd

from lemon_sc._core.docs import doc
from lemon_sc._core.log import logger
from lemon_sc._objects.found_nuclei import check_free, put_nuclei, table_key_of
from lemon_sc.io.elements import open_image
from lemon_sc.io.image_size import image_mpp
from lemon_sc.seg.finders import resolve_finder
from lemon_sc.seg.slide import MIN_TISSUE, segment_slide
from lemon_sc.seg.tiles import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lemon_sc.seg.finders import Finder
    from lemon_sc.seg.segmenter import Segmenter
    from lemon_sc.seg.slide import SlideNuclei, SlideReport

SIMPLIFY_PX = 0.5
"""How far stored outlines may stray from the borders of their px, in px of the model."""


@doc
def segment_nuclei(
    sdata: sd.SpatialData,
    *,
    image_key: str = "he_image",
    model: str | Path | Segmenter | None = None,
    key_added: str = "he_nuclei",
    mpp: float | Sequence[float] | None = None,
    min_tissue: float = MIN_TISSUE,
    tile_px: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Find, outline and type the nuclei of an H&E; no Xenium run is needed.

    The tissue is found on a thumbnail, cut into overlapping tiles at the pixel size of the model, and the nuclei of the
    tiles are joined, so that each is there once. The image is read block by block, each block once, whatever its size.
    A pyramid level whose pixels are within 20 % of the model's is read as it is; others are resampled.

    Parameters
    ----------
    %(sdata)s
        Nuclei and table are not needed.
    %(image_key)s
    model
        ``None``: the segmenter that ships with the package, else ``"haematoxylin"``, which needs no weights and tells
        no types. A name or the path of a weight file; ``"cellpose"``, ``"instanseg"`` or ``"stardist"`` where those
        packages are installed; or what `lm.seg.load` returned.
    %(key_added)s
    %(image_mpp)s
    min_tissue
        Share of a tile that has to be tissue for it to be looked at. 0 looks at every tile: for sparse or very pale
        tissue.
    tile_px
        Side of the tiles in px of the model, at least what it was trained on, and 257; None takes 784.
    device
        ``"auto"`` (the first CUDA device, else MPS, else CPU) or a name such as ``"cuda:1"``.
    %(overwrite)s

    Returns
    -------
    Nothing. Adds to the object:

    `sdata.shapes[key_added]`
        Outlines in um, placed with the image in all its coordinate systems.
    `sdata.tables[key_added + "_table"]`
        One row per outline, without genes: ``obs["nucleus_type"]`` (categorical), ``obs["nucleus_probability"]`` (of
        the type, or of being a nucleus where there are no types; a score for ``"haematoxylin"``),
        ``obs["nucleus_area_um2"]``, ``obsm["spatial"]`` (centre in um) and the record of the run in ``uns``. Pass both
        names to `lm.pp.extract_nuclei` as `shapes_key` and `table_key`.

    Raises
    ------
    MissingKeyError
        If there is no such image.
    ValueError
        If the name is taken, the pixel size is unknown or contradictory, nuclei cannot be seen at it, there is no
        tissue or no nucleus, or the tile is smaller than the model's. Nothing is added then.
    FileNotFoundError, ImportError
        If the model, or the package it is from, is not there.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=100)
    >>> lm.pp.segment_nuclei(sdata, model="haematoxylin")
    >>> lm.pp.extract_nuclei(sdata, shapes_key="he_nuclei", table_key="he_nuclei_table")
    """
    if not isinstance(sdata, sd.SpatialData):
        msg = f"`sdata` must be a SpatialData, got {type(sdata).__name__}. For an array: `lm.seg.segment_image`."
        raise TypeError(msg)
    image = open_image(sdata, image_key)
    check_free(sdata, key_added, overwrite=overwrite)
    size = image_mpp(sdata, image_key=image_key, mpp=mpp)
    finder = resolve_finder(model, device=device)
    if min(size) > finder.mpp * (1 + TOLERANCE):
        logger.warning(
            "%r has %.3f um per px, the model %r was made for %.3f: detail that it looks for is not in the image, and "
            "it will find less than it can",
            image_key,
            min(size),
            finder.name,
            finder.mpp,
        )
    found, report = segment_slide(
        image, finder, mpp=size, tile_px=tile_px, min_tissue=min_tissue, simplify_px=SIMPLIFY_PX
    )
    if not len(found):
        msg = (
            f"{finder.name!r} found no nuclei in {image_key!r} ({report.n_tiles} tiles at {report.mpp:.3f} um per px). "
            "Is it an H&E, and is its pixel size right?"
        )
        raise ValueError(msg)
    names = np.asarray(finder.classes, dtype=object)
    put_nuclei(
        sdata,
        found.polygons,
        image_key=image_key,
        key_added=key_added,
        mpp=size,
        types=names[found.type],
        categories=[name for code, name in enumerate(names) if code or len(names) == 1],
        probability=found.probability,
        record=record_of(finder, report, image_key=image_key, key_added=key_added, min_tissue=min_tissue),
    )
    say(found, report, finder, image_key=image_key, key_added=key_added)


def record_of(
    finder: Finder, report: SlideReport, *, image_key: str, key_added: str, min_tissue: float
) -> dict[str, Any]:
    """What the table's record says of a run: all that decides what is found."""
    return {
        "image_key": image_key,
        "shapes_key": key_added,
        "model": finder.name,
        "classes": np.array(finder.classes, dtype=object),
        "model_mpp": finder.mpp,
        **finder.facts,
        "tile_mpp": report.mpp,
        "tile_px": report.tile_px,
        "overlap_px": report.overlap_px,
        "min_tissue": float(min_tissue),
        "n_tiles": report.n_tiles,
        "n_tiles_without_tissue": report.n_empty,
    }


def say(found: SlideNuclei, report: SlideReport, finder: Finder, *, image_key: str, key_added: str) -> None:
    """What was found, where, and how long it took."""
    logger.info(
        "%d nuclei in %r by %r, in sdata.shapes[%r] and sdata.tables[%r]: %d tiles at %.3f um per px in %.1f s, %d "
        "tiles without tissue left out, %d nuclei of tile borders joined",
        len(found),
        image_key,
        finder.name,
        key_added,
        table_key_of(key_added),
        report.n_tiles,
        report.mpp,
        report.total,
        report.n_empty,
        report.n_doubled,
    )
