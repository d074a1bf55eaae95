"""Nuclei that other programs have outlined: which file is which, and what its coordinates mean.

What is read is in level-0 px of the image, with the upper left corner of the image at (0, 0).
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from lemon_sc._core.errors import bad_value, listing
from lemon_sc.geometry.outlines import repair
from lemon_sc.io.cell_json import read_cellvit, read_histoplus
from lemon_sc.io.geojson import is_geojson, read_geojson

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

UNTYPED = "nucleus"
"""Type of nuclei of which the file names none."""
RASTERS = {".npy", ".png", ".tif", ".tiff"}
"""Files that hold label images."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Outlined:
    """Nuclei of a file.

    Attributes
    ----------
    polygons
        Valid outlines in level-0 px, shapely polygons (n,).
    types
        Type of each, text (n,).
    probability
        How sure the program was, float64 (n,), NaN where it does not say.
    kind
        What the file is, in words.
    left_out
        How many entries were not taken, by reason.
    """

    polygons: NDArray[Any]
    types: NDArray[Any]
    probability: NDArray[np.float64]
    kind: str
    left_out: Mapping[str, int] = field(default_factory=dict)


def _check_file(path: Path) -> None:
    if not path.is_file():
        msg = f"There is no file '{path}'."
        raise FileNotFoundError(msg)


def read_json(path: Path) -> Any:
    """Content of a JSON file, gzipped or not.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    The content.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no JSON.
    """
    _check_file(path)
    raw = path.read_bytes()
    try:
        return json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        msg = f"'{path}' is no JSON, or was cut short ({error}). A snappy-compressed file has to be unpacked first."
        raise ValueError(msg) from error


def read_label_file(path: Path) -> NDArray[Any]:
    """A label image from a file.

    Parameters
    ----------
    path
        ``.npy``, ``.png``, ``.tif`` or ``.tiff``.

    Returns
    -------
    The array.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    _check_file(path)
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix.lower() == ".png":
        from skimage.io import imread

        return np.asarray(imread(path))
    import tifffile

    return np.asarray(tifffile.imread(path))


def read_outlines(content: Any, *, shape: tuple[int, int], tile_overlap: int, where: str) -> Outlined:
    """Nuclei of a JSON file.

    Parameters
    ----------
    content
        Of the file.
    shape
        (height, width) of the image at level 0.
    tile_overlap
        Px by which the tiles of a HistoPLUS run overlap on each side.
    where
        Name of the file, for messages.

    Returns
    -------
    The nuclei; outlines that cross themselves are replaced by their largest part.

    Raises
    ------
    ValueError
        If the file is of no known kind, or holds no outlines.
    """
    if isinstance(content, dict) and "cell_masks" in content:
        kind, entries = "HistoPLUS", read_histoplus(content, shape=shape, overlap=tile_overlap, where=where)
    elif isinstance(content, dict) and "cells" in content:
        kind, entries = "CellViT", read_cellvit(content, where=where)
    elif is_geojson(content):
        kind, entries = "GeoJSON", read_geojson(content)
    else:
        have = listing(content) if isinstance(content, dict) else type(content).__name__
        fix = "GeoJSON has 'type' and 'features', CellViT 'cells', HistoPLUS 'cell_masks'."
        raise bad_value("nuclei", must="be a file of a known kind", got=f"'{where}' with {have}", fix=fix)
    left_out = dict(entries.left_out)
    if not entries.polygons:
        why = f" ({', '.join(f'{n} {what}' for what, n in left_out.items())})" if left_out else ""
        msg = f"'{where}' ({kind}) holds no outlines of nuclei{why}."
        raise ValueError(msg)
    polygons, broken = repair(np.array(entries.polygons, dtype=object))
    good = shapely.area(polygons) > 0
    if not good.all():
        left_out["outlines without area"] = int((~good).sum())
    if broken.any():
        left_out["parts of outlines that cross themselves"] = int(broken.sum())
    types = np.array([UNTYPED if t is None else str(t) for t in entries.types], dtype=object)
    return Outlined(
        polygons=polygons[good],
        types=types[good],
        probability=np.array(entries.probability, dtype=np.float64)[good],
        kind=kind,
        left_out=left_out,
    )
