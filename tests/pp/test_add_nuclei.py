"""Files of other programs, written here as those programs write them."""

import gzip
import json
import logging

import numpy as np
import pytest
import shapely
import spatialdata as sd
import tifffile
from coded_slides import field
from spatialdata.models import Image2DModel

import lemon_sc as lm
from lemon_sc.io.geojson import write_geojson

LABELS = field((260, 340), n=50, radius=(9, 14))
MPP = 0.25
XY = np.array([[60.0, 50.0], [200.0, 120.0], [300.0, 200.0], [120.0, 220.0]])
RADIUS = 12.0


def slide():
    pixels = np.full((260, 340, 3), 200, dtype=np.uint8)
    return sd.SpatialData(images={"he_image": Image2DModel.parse(pixels, dims=("y", "x", "c"))})


def ring(x, y, r=RADIUS, shift=0.0):
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.column_stack([x + r * np.cos(t), y + r * np.sin(t)]) + shift


def closed(corners):
    return [*corners.tolist(), corners[0].tolist()]


def added(nuclei, **options):
    sdata = slide()
    lm.pp.add_nuclei(sdata, nuclei, **{"mpp": MPP, **options})
    return sdata


def check(sdata, *, types, probability=None):
    """The nuclei lie at `XY`, with these types, in the order of the file."""
    table = sdata["he_nuclei_table"]
    assert shapely.get_coordinates(sdata["he_nuclei"].geometry.centroid) == pytest.approx(XY * MPP, abs=1e-6)
    assert sdata["he_nuclei"].area.to_numpy() == pytest.approx(np.pi * (RADIUS * MPP) ** 2, rel=0.01)
    assert list(table.obs["nucleus_type"]) == types
    if probability is None:
        assert table.obs["nucleus_probability"].isna().all()
    else:
        assert table.obs["nucleus_probability"].to_numpy() == pytest.approx(probability)
    lm.pp.extract_nuclei(sdata, shapes_key="he_nuclei", table_key="he_nuclei_table")
    assert table.obsm["nucleus_xy"] == pytest.approx(XY, abs=1e-6)


def save(path, content):
    path.write_text(json.dumps(content))
    return path


def feature(geometry, **rest):
    properties = {"objectType": "detection", "classification": {"name": "Tumor", "color": [200, 0, 0]}, **rest}
    return {"type": "Feature", "id": "PathDetectionObject", "geometry": geometry, "properties": properties}


def polygon(corners):
    return {"type": "Polygon", "coordinates": [closed(corners)]}


@pytest.mark.parametrize("wrapped", [True, False])
def test_qupath_detections_and_cells(tmp_path, wrapped, caplog):
    cells = []
    for (x, y), kind in zip(XY, ["detection", "cell", "cell", "detection"], strict=True):
        measured = [{"name": "Detection probability", "value": 0.75}] if kind == "cell" else {"probability": 0.75}
        one = feature(polygon(ring(x, y)), objectType=kind, measurements=measured)
        if kind == "cell":
            one = {**one, "geometry": polygon(ring(x, y, 3 * RADIUS)), "nucleusGeometry": polygon(ring(x, y))}
        cells.append(one)
    region = feature(polygon(ring(150, 120, 100)), objectType="annotation")
    point = feature({"type": "Point", "coordinates": [5, 5]})
    content = [region, *cells, point]
    path = tmp_path / "nuclei.geojson.gz"
    path.write_bytes(
        gzip.compress(json.dumps({"type": "FeatureCollection", "features": content} if wrapped else content).encode())
    )
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        sdata = added(path)
    check(sdata, types=["Tumor"] * 4, probability=[0.75] * 4)
    assert "left out: 1 annotations beside detections" in caplog.text
    assert "left out: 1 points, lines or empty geometries" in caplog.text


def test_cellvit_geojson_holds_one_multipolygon_per_type(tmp_path):
    first = {"type": "MultiPolygon", "coordinates": [[closed(ring(*xy))] for xy in XY[:3]]}
    second = {"type": "MultiPolygon", "coordinates": [[closed(ring(*XY[3]))]]}
    features = [
        feature(first, objectType="annotation", classification={"name": "Neoplastic"}),
        feature(second, objectType="annotation", classification={"name": "Dead"}),
    ]
    check(added(save(tmp_path / "cells.geojson", features)), types=["Neoplastic"] * 3 + ["Dead"])


def test_what_we_write_we_read(tmp_path):
    polygons = np.array([shapely.Polygon(ring(*xy)) for xy in XY], dtype=object)
    path = tmp_path / "out.geojson"
    write_geojson(
        path, polygons, types=np.array(list("abca"), dtype=object), probability=np.array([0.5, 1, np.nan, 0.25])
    )
    sdata = added(path)
    assert list(sdata["he_nuclei_table"].obs["nucleus_type"]) == list("abca")
    assert sdata["he_nuclei_table"].obs["nucleus_probability"].to_numpy() == pytest.approx(
        [0.5, 1, np.nan, 0.25], nan_ok=True
    )
    assert shapely.get_coordinates(sdata["he_nuclei"].geometry.centroid) == pytest.approx(XY * MPP, abs=0.01)


def test_cellvit_json(tmp_path):
    cells = [
        {"centroid": [x - 0.5, y - 0.5], "contour": ring(x, y, shift=-0.5).tolist(), "type": k, "type_prob": 0.9}
        for (x, y), k in zip(XY, [1, 2, 2, 9], strict=True)
    ]
    cells.append({"centroid": [3, 3], "contour": [[1, 1], [2, 2]], "type": 1, "type_prob": 0.2})
    content = {"wsi_metadata": {}, "type_map": {"1": "Neoplastic", "2": "Inflammatory"}, "cells": cells}
    sdata = added(save(tmp_path / "cells.json", content))
    check(sdata, types=["Neoplastic", "Inflammatory", "Inflammatory", "9"], probability=[0.9] * 4)
    del cells[0]["contour"]
    with pytest.raises(KeyError, match=r"'contour' not found .* hold centres only: pass the `cells.json`"):
        added(save(tmp_path / "cell_detection.json", content))


def test_histoplus_json(tmp_path):
    """340 x 260 px need 2^9; level 8 is half the size. Tiles of 100 px with overlaps of 10 step by 80."""
    tiles = {}
    for (x, y), kind in zip(XY, ["Cancer cell", "Lymphocyte", "Fibroblast", "Lymphocyte"], strict=True):
        at = int(x / 2 // 80), int(y / 2 // 80)
        origin = np.array([at[0] * 80 - 10 * (at[0] > 0), at[1] * 80 - 10 * (at[1] > 0)])
        corners = ring(x, y) / 2 - origin - 0.5
        mask = {"cell_id": 1, "cell_type": kind, "confidence": 0.8, "coordinates": corners.tolist(), "centroid": [0, 0]}
        tiles.setdefault(at, []).append(mask)
    assert len(tiles) > 2
    masks = [{"x": c, "y": r, "level": 8, "width": 100, "height": 100, "masks": m} for (c, r), m in tiles.items()]
    content = {"model_name": "histoplus", "inference_mpp": 0.5, "cell_masks": masks}
    sdata = added(save(tmp_path / "slide.json", content), tile_overlap=10)
    found = shapely.get_coordinates(sdata["he_nuclei"].geometry.centroid) / MPP
    order, wanted = np.lexsort(np.round(found, 3).T), np.lexsort(XY.T)
    assert found[order] == pytest.approx(XY[wanted], abs=1e-6)
    assert set(sdata["he_nuclei_table"].obs["nucleus_type"]) == {"Cancer cell", "Lymphocyte", "Fibroblast"}
    with pytest.raises(ValueError, match="no more than twice the overlap of 64 px: pass `tile_overlap=`"):
        added(tmp_path / "slide.json")
    masks[0]["level"] = 12
    with pytest.raises(ValueError, match="is at level 12, but the image has only 9"):
        added(save(tmp_path / "slide.json", content), tile_overlap=10)


@pytest.mark.parametrize("how", ["array", "npy", "tif"])
def test_label_images(tmp_path, how):
    labels = np.where(LABELS > 0, LABELS * 7, 0).astype(np.uint16)  # numbers with gaps
    given = labels
    if how == "npy":
        given = tmp_path / "labels.npy"
        np.save(given, labels)
    elif how == "tif":
        given = tmp_path / "labels.tif"
        tifffile.imwrite(given, labels)
    sdata = added(given)
    assert sorted(sdata["he_nuclei"].area / MPP**2) == pytest.approx(sorted(np.bincount(LABELS.ravel())[1:]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((260, 340), dtype=int), "is empty: it holds no nuclei"),
        (LABELS[:100], r"has 100 x 340 px, the H&E 260 x 340"),
        (LABELS > 0, r"must number its nuclei, got 'a mask of True and False'"),
        (LABELS / 2, "must be a label image"),
    ],
)
def test_label_images_that_are_none(labels, message):
    with pytest.raises(ValueError, match=message):
        added(labels)


def test_other_coordinates_and_other_files(tmp_path):
    far = [feature(polygon(ring(x + 5000, y))) for x, y in XY]
    with pytest.raises(ValueError, match="4 of 4 nuclei lie outside 'he_image'"):
        added(save(tmp_path / "far.geojson", far))
    tiny = [feature(polygon(ring(x / 50, y / 50, RADIUS / 50))) for x, y in XY]
    with pytest.raises(ValueError, match="median diameter of"):
        added(save(tmp_path / "tiny.geojson", tiny))
    with pytest.raises(ValueError, match="must be a file of a known kind"):
        added(save(tmp_path / "other.json", {"nuclei": []}))
    with pytest.raises(ValueError, match="holds no outlines of nuclei"):
        added(save(tmp_path / "none.geojson", {"type": "FeatureCollection", "features": []}))
    (tmp_path / "cut.json").write_text('{"cells": [')
    with pytest.raises(ValueError, match="is no JSON, or was cut short"):
        added(tmp_path / "cut.json")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        added(tmp_path / "absent.json")


def test_outlines_that_overlap_are_kept_and_counted(tmp_path, caplog):
    both = [feature(polygon(ring(*xy))) for xy in XY] + [feature(polygon(ring(XY[0, 0] + 3, XY[0, 1])))]
    with caplog.at_level(logging.WARNING, logger="lemon_sc"):
        sdata = added(save(tmp_path / "twice.geojson", both))
    assert len(sdata["he_nuclei"]) == 5
    assert "1 pairs of outlines share more than half of the smaller" in caplog.text


def test_an_outline_that_crosses_itself_is_mended(tmp_path):
    bow = np.array([[60, 50], [90, 80], [90, 50], [60, 76]], dtype=float)
    sdata = added(
        save(tmp_path / "bow.geojson", [feature(polygon(bow)), *[feature(polygon(ring(*xy))) for xy in XY[1:]]])
    )
    assert sdata["he_nuclei"].is_valid.all()
    assert len(sdata["he_nuclei"]) == 4
