"""A window of the H&E and the nuclei in it: which level to read, which outlines to draw, in image px."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from skimage.measure import find_contours, regionprops

from lemon_sc._core.errors import bad_value
from lemon_sc.geometry.affine import transform
from lemon_sc.io.elements import levels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lemon_sc.geometry.affine import Affine
    from lemon_sc.io.elements import Scene
    from lemon_sc.io.image import Image

Box = tuple[float, float, float, float]

SHOWN_PX = 1200
"""The coarsest pyramid level is read at which the window is still about this wide."""

MAX_PX = 8192
"""Widest window that is read in one piece."""

MAX_NUCLEI = 50_000
DEFAULT_UM = 250.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Outlines:
    """Outlines in a window.

    Attributes
    ----------
    parts
        Vertices in image px, one float64 (k, 2) per closed ring, or (1, 2) for a point.
    nucleus
        Nucleus of each part, int64 (n_parts,): its position in the element, or its value in a label image.
    """

    parts: list[NDArray[np.float64]]
    nucleus: NDArray[np.int64]


def check_box(box: Sequence[float], shape: tuple[int, int]) -> Box:
    """`box` (x0, y0, x1, y1) cut to an image of `shape` (h, w), or an error if nothing of it lies inside."""
    height, width = shape
    fix = f"The image is {width} x {height} px."
    if len(box) != 4 or not np.isfinite(box).all() or not (box[0] < box[2] and box[1] < box[3]):
        raise bad_value("box", must="be (x0, y0, x1, y1) in image px with x0 < x1 and y0 < y1", got=box, fix=fix)
    x0, y0, x1, y1 = (float(v) for v in box)
    cut = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        raise bad_value("box", must="overlap the image", got=box, fix=fix)
    return cut


def default_box(scene: Scene) -> Box:
    """A window of 250 um around the nucleus nearest to the median of those inside the image, or the whole image."""
    height, width = scene.image.shape
    half = np.minimum(DEFAULT_UM / np.array(scene.mpp), [width, height]) / 2
    xy = transform(scene.to_pixel, centres(scene))
    xy = xy[((xy > 0) & (xy < [width, height])).all(axis=1)]
    middle = np.median(xy, axis=0) if len(xy) else np.array([width, height]) / 2
    if len(xy):
        middle = xy[np.argmin(np.square(xy - middle).sum(axis=1))]
    x, y = np.clip(middle, half, [width, height] - half)
    return float(x - half[0]), float(y - half[1]), float(x + half[0]), float(y + half[1])


def centres(scene: Scene) -> NDArray[np.float64]:
    """About where the nuclei are, in their own coordinates (n, 2); none for a label image, which is not read whole."""
    if scene.kind == "labels":
        return np.zeros((0, 2))
    if scene.kind == "points":
        return scene.nuclei[["x", "y"]].compute().to_numpy(dtype=np.float64)
    bounds = shapely.bounds(scene.nuclei.geometry.to_numpy())
    xy = (bounds[:, :2] + bounds[:, 2:]) / 2
    return np.asarray(xy[np.isfinite(xy).all(axis=1)], dtype=np.float64)


def read_window(image: Image, box: Box) -> tuple[NDArray[np.uint8], Box]:
    """Pixels that cover `box`, from the coarsest level that shows it well, and the box they cover exactly."""
    long_side = max(box[2] - box[0], box[3] - box[1])
    fine = [k for k, d in enumerate(image.downsamples) if long_side / max(d) >= SHOWN_PX]
    level = fine[-1] if fine else 0
    dx, dy = image.downsamples[level]
    height, width = image.levels[level].shape
    x0, y0 = int(box[0] // dx), int(box[1] // dy)
    x1, y1 = min(int(np.ceil(box[2] / dx)), width), min(int(np.ceil(box[3] / dy)), height)
    if max(x1 - x0, y1 - y0) > MAX_PX:
        fix = "Pass a smaller `box`, or store the image with a pyramid."
        raise bad_value("box", must=f"be at most {MAX_PX} px wide at the level that is read", got=box, fix=fix)
    pixels = image.levels[level].read(y0, y1, x0, x1)
    return pixels, (x0 * dx, y0 * dy, x1 * dx, y1 * dy)


def box_in(affine: Affine, box: Box) -> Box:
    """The upright box that holds `box` in the coordinates from which `affine` leads to image px."""
    corners = np.array([[x, y] for x in box[::2] for y in box[1::2]])
    own = transform(np.linalg.inv(affine).astype(np.float64), corners)
    (x0, y0), (x1, y1) = own.min(axis=0), own.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def rings(geometry: Any) -> list[NDArray[np.float64]]:
    """Outer rings of a polygon or multipolygon."""
    polygons = [p for p in shapely.get_parts(geometry) if shapely.get_type_id(p) == 3]
    return [shapely.get_coordinates(shapely.get_exterior_ring(p)) for p in polygons]


def shape_outlines(shapes: Any, own_box: Box, *, circles: bool) -> Outlines:
    """Outlines of the polygons or circles whose bounds meet a box, found through the spatial index."""
    near = np.sort(shapes.sindex.query(shapely.box(*own_box)))
    if circles:  # the index knows centres only
        reach = float(shapes["radius"].max() if len(shapes) else 0.0)
        x0, y0, x1, y1 = own_box
        near = np.sort(shapes.sindex.query(shapely.box(x0 - reach, y0 - reach, x1 + reach, y1 + reach)))
    check_count(len(near))
    geometries = shapes.geometry.to_numpy()[near]
    if circles:
        geometries = shapely.buffer(geometries, shapes["radius"].to_numpy()[near])
    found = [(ring, i) for i, geometry in zip(near, geometries, strict=True) for ring in rings(geometry)]
    return Outlines(parts=[r for r, _ in found], nucleus=np.array([i for _, i in found], dtype=np.int64))


def label_outlines(labels: Any, own_box: Box) -> Outlines:
    """Outlines of the labels in a box of a label image, of which only that box is read."""
    array = levels_of(labels, "image")[0].data
    height, width = array.shape
    x0, y0 = max(int(own_box[0]), 0), max(int(own_box[1]), 0)
    x1, y1 = min(int(np.ceil(own_box[2])), width), min(int(np.ceil(own_box[3])), height)
    if x1 <= x0 or y1 <= y0:
        return Outlines(parts=[], nucleus=np.zeros(0, dtype=np.int64))
    block = np.asarray(array[y0:y1, x0:x1])
    props = regionprops(block)
    check_count(len(props))
    parts, nucleus = [], []
    for p in props:
        for ring in find_contours(np.pad(p.image, 1).astype(float), 0.5):
            # ring is (row, col) of the padded box, with pixel centres at whole numbers
            parts.append(ring[:, ::-1] - 0.5 + [p.bbox[1] + x0, p.bbox[0] + y0])
            nucleus.append(p.label)
    return Outlines(parts=parts, nucleus=np.array(nucleus, dtype=np.int64))


def point_outlines(points: Any, own_box: Box) -> Outlines:
    """Points in a box, each a part of one vertex."""
    xy = points[["x", "y"]].compute().to_numpy(dtype=np.float64)
    inside = np.flatnonzero(((xy >= own_box[:2]) & (xy <= own_box[2:])).all(axis=1))
    check_count(len(inside))
    return Outlines(parts=list(xy[inside, None]), nucleus=inside.astype(np.int64))


def check_count(n: int) -> None:
    """Raise where a window holds more nuclei than can be seen."""
    if n > MAX_NUCLEI:
        msg = f"The window holds {n:,} nuclei, more than the {MAX_NUCLEI:,} that are drawn. Pass a smaller `box`."
        raise ValueError(msg)


def window_outlines(scene: Scene, box: Box) -> Outlines:
    """Outlines of the nuclei in a box of image px, in image px. Nuclei elsewhere are not touched."""
    own = box_in(scene.to_pixel, box)
    if scene.kind == "labels":
        found = label_outlines(scene.nuclei, own)
    elif scene.kind == "points":
        found = point_outlines(scene.nuclei, own)
    else:
        found = shape_outlines(scene.nuclei, own, circles=scene.kind == "circles")
    parts = [transform(scene.to_pixel, ring) for ring in found.parts]
    seen = np.array([(p.max(0) >= box[:2]).all() and (p.min(0) <= box[2:]).all() for p in parts], dtype=bool)
    return Outlines(parts=[p for p, s in zip(parts, seen, strict=True) if s], nucleus=found.nucleus[seen])
