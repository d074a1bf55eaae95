"""Nuclei from GeoJSON, as QuPath and CellViT export it: px of the full-resolution image from its upper left corner.

QuPath's cells hold the outline of the nucleus beside that of the cell, and measurements; CellViT holds all nuclei of a
type in one multipolygon.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape as as_shape

from lemon_sc.io.durable import disk, hidden

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SCORES = ("probability", "type_prob", "confidence", "Detection probability")
"""Names under which programs write how sure they were, the first that is there."""
REGION = "annotation"
"""QuPath's word for what a person drew; what a program found are detections, cells and tiles."""
FOUND = {"detection", "cell"}


@dataclass(eq=False)
class Entries:
    """Outlines (shapely polygons) with their type (None if the file names none) and score (NaN likewise).

    ``left_out`` counts what was not taken, by reason.
    """

    polygons: list[Any] = field(default_factory=list)
    types: list[Any] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, polygon: Any, kind: Any, score: Any) -> None:
        """Take one nucleus."""
        self.polygons.append(polygon)
        self.types.append(kind)
        self.probability.append(float("nan") if score is None else float(score))


def is_geojson(content: Any) -> bool:
    """Whether the content of a JSON file is GeoJSON: a collection, a feature, or a list of features.

    Parameters
    ----------
    content
        Of the file.

    Returns
    -------
    Whether it is.
    """
    if isinstance(content, list):
        return bool(content) and all(isinstance(c, dict) and c.get("type") == "Feature" for c in content[:10])
    return isinstance(content, dict) and content.get("type") in {"FeatureCollection", "Feature"}


def _features(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [content] if content["type"] == "Feature" else list(content.get("features", []))


def _type(properties: dict[str, Any]) -> Any:
    found = properties.get("classification")
    return found.get("name") if isinstance(found, dict) else found


def _score(properties: dict[str, Any]) -> Any:
    """A measurement is an entry of a dict, or of a list of names and values in older files."""
    measured = properties.get("measurements") or {}
    if isinstance(measured, list):
        measured = {m.get("name"): m.get("value") for m in measured}
    both = {**measured, **properties}
    return next((both[name] for name in SCORES if isinstance(both.get(name), int | float)), None)


def _polygons(geometry: dict[str, Any] | None) -> Iterator[Any]:
    """The polygons of a geometry; a multipolygon holds several nuclei, as a nucleus is in one piece."""
    if not geometry or geometry.get("type") not in {"Polygon", "MultiPolygon"}:
        return
    yield from shapely.get_parts(as_shape(geometry))


def read_geojson(content: Any) -> Entries:
    """Nuclei of a GeoJSON file.

    Parameters
    ----------
    content
        Of the file.

    Returns
    -------
    The nuclei. Where the file holds detections, annotations, which are regions then, are left out.
    """
    entries, features = Entries(), _features(content)
    kinds = {(f.get("properties") or {}).get("objectType") for f in features}
    only_found = bool(kinds & FOUND)
    for feature in features:
        properties = feature.get("properties") or {}
        if only_found and properties.get("objectType") not in FOUND:
            entries.left_out["annotations beside detections"] += 1
            continue
        try:
            polygons = list(_polygons(feature.get("nucleusGeometry") or feature.get("geometry")))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, ShapelyError):
            entries.left_out["damaged outlines"] += 1
            continue
        if not polygons:
            entries.left_out["points, lines or empty geometries"] += 1
        for polygon in polygons:
            entries.add(polygon, _type(properties), _score(properties))
    return entries


def write_geojson(
    path: Path, polygons: NDArray[Any], *, types: NDArray[Any], probability: NDArray[np.floating]
) -> None:
    """Write nuclei as detections that QuPath reads.

    Parameters
    ----------
    path
        File to write; it appears when it is whole.
    polygons
        Outlines in px of the full-resolution image, (n,).
    types, probability
        Of each, (n,); a score that is NaN is not written.
    """
    part = hidden(path, "part")
    with disk(path):
        with part.open("w", encoding="utf-8") as file:
            file.write('{"type":"FeatureCollection","features":[')
            for k, (polygon, kind, score) in enumerate(zip(polygons, types, probability, strict=True)):
                properties: dict[str, Any] = {"objectType": "detection", "classification": {"name": str(kind)}}
                if np.isfinite(score):
                    properties["measurements"] = {"probability": round(float(score), 4)}
                rings = [ring.coords for ring in (polygon.exterior, *polygon.interiors)]
                rounded = [[[round(x, 2), round(y, 2)] for x, y in ring] for ring in rings]
                geometry = {"type": "Polygon", "coordinates": rounded}
                feature = {"type": "Feature", "geometry": geometry, "properties": properties}
                file.write(("," if k else "") + "\n" + json.dumps(feature, separators=(",", ":")))
            file.write("\n]}\n")
        part.replace(path)
