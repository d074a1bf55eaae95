import numpy as np
import pytest
import shapely
from scenes import lopsided
from skimage.measure import regionprops

from lemon_sc.geometry.outlines import label_centres, outline_centres


def test_centroid_is_weighted_by_area_not_by_vertices():
    polygon = lopsided((10.0, 20.0))
    vertices = shapely.get_coordinates(polygon)[:-1]
    assert np.hypot(*(vertices.mean(axis=0) - [10, 20])) > 0.3, "the test needs a lopsided outline"
    centres = outline_centres([polygon])
    np.testing.assert_allclose(centres.xy, [[10, 20]], atol=1e-9)
    assert centres.area == pytest.approx([polygon.area])


def test_the_closing_vertex_does_not_count_twice():
    square = shapely.Polygon([(0, 0), (2, 0), (2, 2), (0, 2), (0, 0)])
    np.testing.assert_allclose(outline_centres([square]).xy, [[1, 1]])


def test_an_outline_that_crosses_itself_keeps_its_largest_part():
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 1)])  # crosses itself: a large and a small triangle
    centres = outline_centres([bow, shapely.box(0, 0, 1, 1)])
    parts = shapely.get_parts(shapely.make_valid(bow))
    largest = parts[np.argmax(shapely.area(parts))]
    np.testing.assert_allclose(centres.xy[0], shapely.get_coordinates(largest.centroid)[0])
    assert centres.repaired.tolist() == [True, False]


def test_nothing_to_speak_of_is_nan():
    flat = shapely.Polygon([(0, 0), (1, 1), (2, 2)])
    centres = outline_centres([shapely.Polygon(), None, flat, shapely.box(0, 0, 1, 1)])
    assert np.isnan(centres.xy[:3]).all()
    assert np.isnan(centres.area[:3]).all()
    np.testing.assert_allclose(centres.xy[3], [0.5, 0.5])


def test_circles_have_the_area_of_their_radius():
    centres = outline_centres([shapely.Point(3, 4), shapely.Point(5, 6)], radius=np.array([1.0, 2.0]))
    np.testing.assert_allclose(centres.area, [np.pi, 4 * np.pi])
    np.testing.assert_allclose(centres.xy, [[3, 4], [5, 6]])
    assert np.isnan(outline_centres([shapely.Point(3, 4)]).area).all()


@pytest.mark.parametrize("block", [64, 7])
def test_labels_agree_with_regionprops_whatever_the_blocks(block):
    labels = np.zeros((40, 50), dtype=np.int32)
    labels[3:9, 4:20] = 7
    labels[10:30, 25:27] = 2
    labels[30:39, 5:6] = 900
    blocks = [(y, x, labels[y : y + block, x : x + block]) for y in range(0, 40, block) for x in range(0, 50, block)]
    values, centres = label_centres(blocks)
    props = regionprops(labels)
    assert values.tolist() == [p.label for p in props]
    # regionprops puts pixel centres on integers
    np.testing.assert_allclose(centres.xy, [np.array(p.centroid)[::-1] + 0.5 for p in props])
    np.testing.assert_allclose(centres.area, [p.area for p in props])


def test_an_empty_label_image_has_no_centres():
    values, centres = label_centres([(0, 0, np.zeros((4, 4), dtype=int))])
    assert len(values) == len(centres.xy) == 0
