import numpy as np
import pytest
import shapely
from nucleus_fields import field
from scipy import ndimage

from lemon_sc.geometry.outlines import label_centres
from lemon_sc.seg.contours import outlines


def rasterised(polygons, shape):
    """Labels of the pixels whose centres lie inside."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    out = np.zeros(shape, np.int32)
    for k, polygon in enumerate(polygons, start=1):
        out[shapely.contains_xy(polygon, columns.ravel(), rows.ravel()).reshape(shape)] = k
    return out


def test_outlines_enclose_their_pixels_and_no_others():
    labels = field(size=130, overlap=True)
    made = outlines(labels)
    assert shapely.is_valid(made).all()
    assert np.array_equal(rasterised(made, labels.shape), labels)
    assert shapely.area(made).tolist() == np.bincount(labels.ravel())[1:].tolist()
    centre = label_centres([(0, 0, labels)])[1].xy
    assert np.allclose(shapely.get_coordinates(shapely.centroid(made)), centre)


@pytest.mark.parametrize("seed", range(4))
def test_ragged_labels_with_holes_and_several_parts(seed):
    """The largest part, its holes filled; diagonal pixels are apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (14, 12)) * (rng.random((14, 12)) < 0.8)
    made = outlines(labels)
    assert shapely.is_valid(made).all()
    for k, polygon in enumerate(made, start=1):
        parts, n = ndimage.label(labels == k)
        area = ndimage.sum_labels(labels == k, parts, np.arange(1, n + 1))
        whole = [ndimage.binary_fill_holes(parts == j, np.ones((3, 3))) for j in np.flatnonzero(area == area.max()) + 1]
        got = rasterised([polygon], labels.shape) > 0
        filled = [ndimage.binary_fill_holes(w) for w in whole]
        assert any((got >= a).all() and (got <= b).all() for a, b in zip(whole, filled, strict=True))


def test_origin_and_missing_labels():
    labels = np.zeros((6, 6), int)
    labels[1:3, 2:5], labels[4, 4] = 1, 3
    made = outlines(labels, origin=(100.5, 200))
    assert [p.bounds for p in made[[0, 2]]] == [(102.5, 201, 105.5, 203), (104.5, 204, 105.5, 205)]
    assert made[1].is_empty
    assert len(outlines(np.zeros((3, 3), int))) == 0


def test_simplified_outlines_have_fewer_corners_and_stay_near():
    labels = field(size=130)
    exact, simple = outlines(labels), outlines(labels, simplify_px=0.75)
    assert shapely.get_num_coordinates(simple).sum() < 0.7 * shapely.get_num_coordinates(exact).sum()
    assert shapely.hausdorff_distance(exact, simple).max() < 1.5


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.ones((3, 3)), "label image"),
        (np.ones((3, 3), bool), "number its nuclei.*skimage.measure.label"),
        (np.full((3, 3), -1), "no negative label"),
        (np.full((3, 3), 2**40), "relabel_sequential"),
    ],
)
def test_what_is_no_label_image(labels, text):
    with pytest.raises(ValueError, match=text):
        outlines(labels)
