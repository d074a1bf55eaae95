import numpy as np
import pytest
import shapely
from coded_slides import CodeFinder, coded, field

from lemon_sc.metrics import panoptic_quality
from lemon_sc.seg import segment_image
from lemon_sc.seg.image import rasterise

LABELS = field((220, 330), n=50)


def test_labels_are_those_of_the_image():
    found = segment_image(coded(LABELS), mpp=0.25, model=CodeFinder())
    assert found.dtype == np.int32
    assert sorted(np.unique(found)) == list(range(LABELS.max() + 1))
    assert panoptic_quality(LABELS, found).pq == 1.0


def test_nothing_is_labels_of_nothing():
    assert not segment_image(np.full((60, 70, 3), 255, dtype=np.uint8), mpp=0.25, model="haematoxylin").any()


def test_a_px_belongs_to_the_outline_that_holds_its_centre():
    square = shapely.box(2, 1, 5, 4)
    triangle = shapely.Polygon([(6.0, 6.0), (10.0, 6.0), (6.0, 10.0)])
    labels = rasterise(np.array([square, triangle, shapely.box(2, 1, 4, 3)], dtype=object), (12, 12))
    y, x = np.mgrid[:12, :12] + 0.5
    assert np.array_equal(labels == 1, shapely.contains_xy(square, x, y))
    strictly = shapely.contains_xy(triangle, x, y)
    assert (labels[strictly] == 2).all()
    assert labels.max() == 2, "the third lies wholly in the first"


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((5, 5, 4), dtype=np.uint8), r"uint8 \(5, 5, 4\)'. Drop the alpha"),
        (np.zeros((5, 5, 3)), r"float64 \(5, 5, 3\)'. Values from 0 to 1"),
        (np.zeros((0, 5, 3), dtype=np.uint8), r"uint8 \(0, 5, 3\)'\.?$"),
        ("image.png", "str"),
    ],
)
def test_what_is_no_image(image, got):
    with pytest.raises(ValueError, match=r"`image` must be uint8 RGB of shape \(h, w, 3\), got .*" + got):
        segment_image(image, mpp=0.25, model="haematoxylin")


def test_models_that_are_none():
    image = np.full((60, 70, 3), 255, dtype=np.uint8)
    with pytest.raises(FileNotFoundError, match=r"no_such.*haematoxylin.*cellpose.*instanseg.*stardist"):
        segment_image(image, mpp=0.25, model="no_such")
    with pytest.raises(TypeError, match="`model` must be None, a name, a path or a segmenter, got int"):
        segment_image(image, mpp=0.25, model=3)
    with pytest.raises(ValueError, match="`mpp` must be one or two finite numbers"):
        segment_image(image, mpp=-1, model="haematoxylin")
