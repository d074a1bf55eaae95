import numpy as np
import shapely

from lemon_sc.datasets._rasters import dapi_image, label_image

TRIANGLE = np.array([[3.2, 4.1], [30.7, 9.3], [12.4, 27.8], [3.2, 4.1]])


def test_a_pixel_is_labelled_when_its_centre_lies_in_the_polygon():
    image = label_image([TRIANGLE], np.array([7]), 40)
    y, x = np.mgrid[:40, :40] + 0.5
    expected = shapely.contains_xy(shapely.Polygon(TRIANGLE), x, y)
    np.testing.assert_array_equal(image, np.where(expected, 7, 0))


def test_first_polygon_keeps_shared_ground():
    image = label_image([TRIANGLE, TRIANGLE + 5], np.array([1, 2]), 40)
    assert (image == 1).sum() == (label_image([TRIANGLE], np.array([1]), 40) == 1).sum()
    assert (image == 2).any()


def test_dapi_is_bright_where_the_chromatin_is_dense():
    labels = np.zeros((60, 60), np.uint32)
    labels[5:25, 5:25], labels[35:55, 35:55] = 4, 9
    image = dapi_image(np.random.default_rng(0), labels, np.array([4, 9]), np.array([1.0, 2.0]))
    assert image.dtype == np.uint16
    pale, dark, ground = image[10:20, 10:20].mean(), image[40:50, 40:50].mean(), image[5:15, 40:50].mean()
    np.testing.assert_allclose((dark - ground) / (pale - ground), 2, rtol=0.03)
