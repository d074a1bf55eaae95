import numpy as np
import pytest
from coded_slides import NUCLEUS, STROMA, field, stained

from lemon_sc.metrics import panoptic_quality
from lemon_sc.seg.classical import segment_haematoxylin


def test_planted_nuclei_are_outlined():
    labels = field((300, 300), n=40, radius=(11, 15))
    found = segment_haematoxylin(stained(labels), mpp=0.25)
    quality = panoptic_quality(labels, found.labels)
    assert quality.pq > 0.8
    assert quality.dq > 0.97
    assert found.type.max() == 0
    assert found.probability.min() > 0.3


def test_two_that_touch_are_two():
    y, x = np.mgrid[:120, :120]
    labels = np.zeros((120, 120), dtype=np.int32)
    labels[(y - 60) ** 2 + (x - 43) ** 2 < 17**2] = 1
    labels[((y - 60) ** 2 + (x - 77) ** 2 < 17**2) & (labels == 0)] = 2
    assert len(segment_haematoxylin(stained(labels), mpp=0.25)) == 2


def test_what_is_found_does_not_depend_on_the_tile():
    image = stained(field((400, 400), n=60))
    whole = segment_haematoxylin(image, mpp=0.25).labels
    part = segment_haematoxylin(np.ascontiguousarray(image[100:, 100:]), mpp=0.25).labels
    inner, other = whole[200:350, 200:350], part[100:250, 100:250]
    assert np.array_equal(inner > 0, other > 0)
    assert panoptic_quality(inner, other).pq == 1.0


@pytest.mark.parametrize("colour", [(255, 255, 255), STROMA, (0, 0, 0), NUCLEUS])
def test_an_even_image_holds_no_nuclei(colour):
    assert len(segment_haematoxylin(np.full((80, 80, 3), colour, dtype=np.uint8), mpp=0.25)) == 0


def test_other_images():
    with pytest.raises(ValueError, match=r"`pixels` must be uint8 of shape \(h, w, 3\), got 'float64 \(5, 5, 3\)'"):
        segment_haematoxylin(np.zeros((5, 5, 3)), mpp=0.25)
