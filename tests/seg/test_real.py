"""On real H&E: bounds below what was measured, see the page on segmentation."""

import numpy as np
import pytest
import shapely
import spatialdata_io
from real_data import there
from skimage.io import imread

import lemon_sc as lm
from lemon_sc.io.elements import resolve
from lemon_sc.metrics import detection, match_centroids, panoptic_quality
from lemon_sc.seg import segment_image

F1_XENIUM = {"haematoxylin": 0.7, None: 0.77, "small_vit": 0.81}
PQ_TNBC = 0.3


@pytest.fixture(scope="module")
def tnbc(data_dir):
    return there(data_dir / "nuclei" / "tnbc", "TNBC images")


def pixel_centres(scene):
    xy = shapely.get_coordinates(shapely.centroid(scene.nuclei.geometry.to_numpy()))
    return xy @ scene.to_pixel[:2, :2].T + scene.to_pixel[:2, 2]


@pytest.mark.parametrize("model", F1_XENIUM)
def test_nuclei_of_the_h_and_e_are_those_of_the_xenium_run(xenium_outs, model):
    sdata = spatialdata_io.xenium(xenium_outs, transcripts=False, cells_as_circles=False)
    if "he_image" not in sdata.images:
        alignment = xenium_outs / "he_imagealignment.csv"
        lm.pp.add_image(sdata, xenium_outs / "he_image.ome.tif", alignment=alignment)
    lm.pp.segment_nuclei(sdata, model=model)
    vendor, found = (resolve(sdata, shapes_key=key) for key in ("nucleus_boundaries", "he_nuclei"))
    assert found.mpp == pytest.approx(vendor.mpp, rel=1e-3)
    truth, places = pixel_centres(vendor), pixel_centres(found)
    hull = shapely.convex_hull(shapely.multipoints(truth))
    places = places[shapely.contains_xy(shapely.buffer(hull, 10), *places.T)]
    scores = detection(match_centroids(truth, places, radius=3 / vendor.mpp[0]))
    assert scores.f1 > F1_XENIUM[model]


@pytest.mark.parametrize("number", [3, 23])
def test_nuclei_of_breast_cancers(tnbc, number):
    mask = sorted((tnbc / "masks").glob("*.png"))[number]
    image = imread(next((tnbc / "images").glob(f"{mask.stem}.*")))[..., :3]
    labels = segment_image(np.ascontiguousarray(image), mpp=0.25, model="haematoxylin")
    assert panoptic_quality(imread(mask).astype(np.int32), labels).pq > PQ_TNBC
