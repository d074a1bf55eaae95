"""Outlines of chosen nuclei in image px."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from spatialdata import to_polygons

from lemon_sc._core.errors import listing
from lemon_sc.geometry.affine import transform
from lemon_sc.geometry.outlines import repair
from lemon_sc.io.ids import as_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lemon_sc.io.elements import Scene


def outlines_in_pixels(scene: Scene, nucleus_id: NDArray[Any]) -> NDArray[Any]:
    """Polygons of some nuclei in level-0 image px, in the order asked for.

    Raises
    ------
    ValueError
        If the nuclei are plain centroids, which have no outline, or an id is not there.
    """
    if scene.kind == "points":
        msg = "Plain centroids have no outline to draw or to mask by. Use polygons, circles or a label image."
        raise ValueError(msg)
    frame = to_polygons(scene.nuclei) if scene.kind == "labels" else scene.nuclei
    ids = as_text(frame["label"] if scene.kind == "labels" else frame.index)
    geometry = frame.geometry.to_numpy()
    if scene.kind == "circles":
        geometry = shapely.buffer(geometry, frame["radius"].to_numpy())
    at = {key: i for i, key in enumerate(ids)}
    if len(at) < len(ids):
        msg = f"{len(ids) - len(at)} nuclei share an id with another, so their outlines cannot be told apart."
        raise ValueError(msg)
    absent = [key for key in nucleus_id if key not in at]
    if absent:
        msg = f"{len(absent)} nuclei are no longer there ({listing(absent, most=3)}). Run `lm.pp.extract_nuclei` again."
        raise ValueError(msg)
    chosen, _ = repair(geometry[[at[key] for key in nucleus_id]])
    moved: NDArray[Any] = shapely.transform(chosen, lambda xy: transform(scene.to_pixel, xy))
    return np.asarray(moved, dtype=object)
