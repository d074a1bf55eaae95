"""Nuclei from the JSON files of CellViT and HistoPLUS.

Their outlines run through the centres of border px, counted from 0; here the centre of px 0 lies at 0.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from lemon_sc._core.errors import missing_key
from lemon_sc.io.geojson import Entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

HALF_PX = 0.5
CORNERS = 3
"""Fewer points are no outline."""


def _add(
    entries: Entries,
    points: Any,
    kind: Any,
    score: Any,
    *,
    origin: NDArray[np.float64] | float = 0.0,
    scale: float = 1.0,
) -> None:
    """Add a nucleus whose outline runs through `points`, px of a tile that begins at `origin`, or count it as none."""
    corners = np.asarray(points if points is not None else [], dtype=np.float64)
    if corners.ndim == 2 and corners.shape[1] == 2 and len(corners) >= CORNERS and np.isfinite(corners).all():
        entries.add(shapely.Polygon((corners + HALF_PX + origin) * scale), kind, score)
    else:
        entries.left_out["outlines of fewer than 3 points"] += 1


def read_cellvit(content: Mapping[str, Any], *, where: str) -> Entries:
    """Nuclei of CellViT's ``cells.json``, in level-0 px.

    Parameters
    ----------
    content
        Of the file: ``cells``, each with ``contour``, ``type`` and ``type_prob``, and ``type_map``.
    where
        Name of the file, for messages.

    Returns
    -------
    The nuclei.

    Raises
    ------
    MissingKeyError
        If the cells have no outlines, as in ``cell_detection.json``.
    """
    entries, names = Entries(), {str(code): name for code, name in (content.get("type_map") or {}).items()}
    for cell in content["cells"]:
        if "contour" not in cell:
            fix = "Files of detections hold centres only: pass the `cells.json` of the same run."
            raise missing_key("contour", where=f"cells of '{where}'", have=cell, fix=fix)
        code = cell.get("type")
        kind = None if code is None else names.get(str(code), str(code))
        _add(entries, cell["contour"], kind, cell.get("type_prob"))
    return entries


def read_histoplus(content: Mapping[str, Any], *, shape: tuple[int, int], overlap: int, where: str) -> Entries:
    """Nuclei of HistoPLUS, brought from px of their tiles to level-0 px.

    A tile is named by its column and row (``x``, ``y``) in the Deep Zoom pyramid of the slide, at a ``level`` whose
    last is level 0 and each other half of the next. Tiles overlap by `overlap` px on each side; those of the first row
    and column begin at the border.

    Parameters
    ----------
    content
        Of the file: ``cell_masks``, one entry per tile with its ``masks``.
    shape
        (height, width) of the image at level 0.
    overlap
        Px of the tiles.
    where
        Name of the file, for messages.

    Returns
    -------
    The nuclei.

    Raises
    ------
    MissingKeyError
        If a tile does not say where it is.
    ValueError
        If a tile is no larger than its overlaps, or finer than the image.
    """
    entries = Entries()
    last = int(np.ceil(np.log2(max(*shape, 1))))
    tiles = list(content["cell_masks"])
    for tile in tiles:
        for name in ("x", "y", "level", "width", "height"):
            if name not in tile:
                raise missing_key(name, where=f"tiles of '{where}'", have=tile, fix="Is the file whole?")
    side = max((max(tile["width"], tile["height"]) for tile in tiles), default=0)  # those at the border are smaller
    if tiles and side <= 2 * overlap:
        msg = (
            f"The tiles of '{where}' are {side} px wide, no more than twice the overlap of {overlap} px: pass "
            "`tile_overlap=`, as that run had it."
        )
        raise ValueError(msg)
    for tile in tiles:
        if tile["level"] > last:
            msg = (
                f"A tile of '{where}' is at level {tile['level']}, but the image has only {last}: is it of this image?"
            )
            raise ValueError(msg)
        at = np.array([tile["x"], tile["y"]], dtype=np.float64)
        origin = at * (side - 2 * overlap) - overlap * (at > 0)
        scale = 2.0 ** (last - int(tile["level"]))
        for mask in tile.get("masks", []):
            said = mask.get("cell_type"), mask.get("confidence")
            _add(entries, mask.get("coordinates"), *said, origin=origin, scale=scale)
    return entries
