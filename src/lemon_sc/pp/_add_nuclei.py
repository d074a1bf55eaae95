"""`lm.pp.add_nuclei`: nuclei that another program has found in the H&E."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import spatialdata as sd

from lemon_sc._core.docs import doc
from lemon_sc._core.log import logger
from lemon_sc._core.record import digest
from lemon_sc._objects.candidates import check_sizes
from lemon_sc._objects.found_nuclei import check_free, put_nuclei, table_key_of
from lemon_sc.geometry.labels import as_labels
from lemon_sc.io.elements import open_image
from lemon_sc.io.image_size import image_mpp
from lemon_sc.io.nuclei_files import RASTERS, UNTYPED, Outlined, read_json, read_label_file, read_outlines
from lemon_sc.seg.contours import outlines
from lemon_sc.seg.measure import measured
from lemon_sc.seg.tiles import OVERLAP_PX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IN_IMAGE = 0.5
"""Coordinates are not the image's if a smaller share of the nuclei lies in it."""
OVERLAPPING = 0.5
"""Two outlines are of one nucleus if they share more than this of the smaller."""


@doc
def add_nuclei(
    sdata: sd.SpatialData,
    nuclei: str | os.PathLike[str] | NDArray[np.integer],
    *,
    image_key: str = "he_image",
    key_added: str = "he_nuclei",
    mpp: float | Sequence[float] | None = None,
    tile_overlap: int = OVERLAP_PX,
    overwrite: bool = False,
) -> None:
    """Take over nuclei that another program has outlined in the H&E.

    What it writes is what `lm.pp.segment_nuclei` writes, and goes on in the same way. A label image that is an element
    of the object already needs no call of this: pass its name to `lm.pp.extract_nuclei` as `shapes_key`.

    Parameters
    ----------
    %(sdata)s
        Nuclei and table are not needed.
    nuclei
        Path of a GeoJSON file (QuPath, CellViT, InstanSeg; ``.gz`` or not), of CellViT's ``cells.json``, of a HistoPLUS
        JSON file, or of a label image (``.npy``, ``.png``, ``.tif``); or the label image itself, integers (h, w). All
        are in px of the image's finest level.
    %(image_key)s
    %(key_added)s
    %(image_mpp)s
    tile_overlap
        Px by which the tiles of a HistoPLUS run overlap on each side; not used for other files.
    %(overwrite)s

    Returns
    -------
    Nothing. Adds to the object:

    `sdata.shapes[key_added]`
        Outlines in um, placed with the image in all its coordinate systems.
    `sdata.tables[key_added + "_table"]`
        One row per outline, without genes: ``obs["nucleus_type"]`` (categorical, as the file names it),
        ``obs["nucleus_probability"]`` (NaN where the file has none), ``obs["nucleus_area_um2"]``, ``obsm["spatial"]``
        (centre in um) and a record of where they are from in ``uns``.

    Outlines that overlap are kept, and counted in the log; so are entries that are left out: points, regions drawn by
    hand beside detections, damaged outlines, nuclei outside the image.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    MissingKeyError
        If there is no such image, or the file lacks what outlines need.
    ValueError
        If the name is taken, the file is of no known kind or holds no nuclei, a label image has another size than the
        H&E, most nuclei lie outside it, or their size is that of no nuclei. Nothing is added then.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=100)
    >>> he = sdata["he_image"]["scale0"].image.transpose("y", "x", "c").values
    >>> labels = lm.seg.segment_image(he, mpp=0.2738, model="haematoxylin")
    >>> lm.pp.add_nuclei(sdata, labels)
    >>> lm.pp.extract_nuclei(sdata, shapes_key="he_nuclei", table_key="he_nuclei_table")
    """
    if not isinstance(sdata, sd.SpatialData):
        msg = f"`sdata` must be a SpatialData, got {type(sdata).__name__}."
        raise TypeError(msg)
    shape = open_image(sdata, image_key).shape
    check_free(sdata, key_added, overwrite=overwrite)
    size = image_mpp(sdata, image_key=image_key, mpp=mpp)
    found, source = read_nuclei(nuclei, shape=shape, tile_overlap=tile_overlap)
    found = in_image(found, shape, image_key=image_key)
    check_sizes(shapely.area(found.polygons) * size[0] * size[1], size, key_added)
    put_nuclei(
        sdata,
        found.polygons,
        image_key=image_key,
        key_added=key_added,
        mpp=size,
        types=found.types,
        probability=found.probability,
        record={
            "image_key": image_key,
            "shapes_key": key_added,
            "model": found.kind,
            "source": source,
            "content": digest(shapely.get_coordinates(found.polygons)),
        },
    )
    say(found, key_added=key_added)


def read_nuclei(
    nuclei: str | os.PathLike[str] | NDArray[np.integer], *, shape: tuple[int, int], tile_overlap: int
) -> tuple[Outlined, str]:
    """Outlines in level-0 px, and the path they are from."""
    if not isinstance(nuclei, str | os.PathLike):
        return from_labels(nuclei, shape=shape, where="nuclei"), ""
    path = Path(nuclei)
    if path.suffix.lower() in RASTERS:
        return from_labels(read_label_file(path), shape=shape, where=str(path)), str(path)
    content = read_json(path)
    return read_outlines(content, shape=shape, tile_overlap=tile_overlap, where=str(path)), str(path)


def from_labels(labels: Any, *, shape: tuple[int, int], where: str) -> Outlined:
    """Outlines of a label image, which has to be of the size of the H&E."""
    image = as_labels(where, labels)
    if image.shape != shape:
        msg = (
            f"The label image '{where}' has {image.shape[0]} x {image.shape[1]} px, the H&E {shape[0]} x {shape[1]} "
            "(height x width): it must have a label for each px of the finest level."
        )
        raise ValueError(msg)
    found = measured(image)
    if not len(found):
        msg = f"The label image '{where}' is empty: it holds no nuclei, all labels are 0."
        raise ValueError(msg)
    polygons = outlines(found.labels)
    lost = int((shapely.area(polygons) < found.area).sum())
    return Outlined(
        polygons=polygons,
        types=np.full(len(found), UNTYPED, dtype=object),
        probability=np.full(len(found), np.nan),
        kind="label image",
        left_out={"smaller parts of labels that are in several": lost} if lost else {},
    )


def in_image(found: Outlined, shape: tuple[int, int], *, image_key: str) -> Outlined:
    """Without the nuclei whose centre lies outside the image; an error where those are many."""
    centres = shapely.get_coordinates(shapely.centroid(found.polygons))
    inside = ((centres >= 0) & (centres <= (shape[1], shape[0]))).all(axis=1)
    if inside.mean() < IN_IMAGE:
        low, high = centres.min(axis=0), centres.max(axis=0)
        msg = (
            f"{(~inside).sum()} of {len(inside)} nuclei lie outside {image_key!r} ({shape[1]} x {shape[0]} px): they "
            f"reach from ({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f}). Their coordinates must be px "
            "of the image's finest level, from its upper left corner; are they in um, or of another image?"
        )
        raise ValueError(msg)
    if inside.all():
        return found
    return Outlined(
        polygons=found.polygons[inside],
        types=found.types[inside],
        probability=found.probability[inside],
        kind=found.kind,
        left_out={**found.left_out, "nuclei outside the image": int((~inside).sum())},
    )


def n_overlapping(polygons: NDArray[Any]) -> int:
    """Pairs of outlines of which one covers more than half of the other."""
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    pairs = first < second
    a, b = polygons[first[pairs]], polygons[second[pairs]]
    shared = shapely.area(shapely.intersection(a, b))
    return int((shared > OVERLAPPING * np.minimum(shapely.area(a), shapely.area(b))).sum())


def say(found: Outlined, *, key_added: str) -> None:
    """What was taken, what was left out, and what looks wrong."""
    logger.info(
        "%d nuclei (%s) in sdata.shapes[%r] and sdata.tables[%r]",
        len(found.polygons),
        found.kind,
        key_added,
        table_key_of(key_added),
    )
    for what, n in found.left_out.items():
        logger.warning("left out: %d %s", n, what)
    doubled = n_overlapping(found.polygons)
    if doubled:
        logger.warning("%d pairs of outlines share more than half of the smaller: are nuclei there twice?", doubled)
