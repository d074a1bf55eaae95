import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as sk_label
from skimage.segmentation import watershed as sk_watershed

from lemon_sc.seg.kernels import components, fill_holes, separable
from lemon_sc.seg.watershed import watershed


def blobs(seed, shape=(70, 55), share=0.55):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return smooth > np.quantile(smooth, 1 - share), rng


@pytest.mark.parametrize("seed", range(3))
def test_basins_are_those_of_scikit_image(seed):
    mask, rng = blobs(seed)
    relief = rng.normal(size=mask.shape).astype(np.float32)
    markers = np.zeros(mask.shape, np.int32)
    at = rng.permutation(np.flatnonzero(mask))[:25]
    markers.flat[at] = np.arange(1, 26)
    got = watershed(relief, markers, parts=components(mask.astype(np.int32), 1)[0])
    assert np.array_equal(got, sk_watershed(relief, markers, mask=mask))
    assert (got == 0).sum() > (~mask).sum()  # parts without a marker


def test_a_plateau_is_shared_between_its_markers():
    markers = np.zeros((1, 9), np.int32)
    markers[0, 0], markers[0, 8] = 1, 2
    got = watershed(np.zeros((1, 9), np.float32), markers, parts=np.ones((1, 9), np.int32))
    assert got.tolist() == [[1, 1, 1, 1, 1, 2, 2, 2, 2]]


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_those_of_scikit_image(seed):
    values = np.random.default_rng(seed).integers(0, 3, (40, 33)).astype(np.int32)
    want = sk_label(values, connectivity=1, background=0)
    got, n = components(values, 1)
    assert n == want.max()
    assert np.array_equal(got, want)
    area = np.bincount(want.ravel())
    large = np.where(area >= 5, np.arange(len(area)), 0)
    large[0] = 0
    got, n = components(values, 5)
    assert n == (large > 0).sum()
    assert np.array_equal(got > 0, large[want] > 0)


@pytest.mark.parametrize("shape", [(40, 30), (1, 30), (9, 4), (1, 1)])
def test_separable_filter_mirrors_the_edge(shape):
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape).astype(np.float32)
    down, across = rng.normal(size=(2, 7)).astype(np.float32)
    want = ndimage.correlate1d(image.astype(float), down.astype(float), axis=0, mode="mirror")
    want = ndimage.correlate1d(want, across.astype(float), axis=1, mode="mirror")
    assert np.allclose(separable(image, down, across), want, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_holes_are_those_of_scipy(seed):
    mask, _ = blobs(seed)
    got = mask.astype(np.uint8)
    fill_holes(got)
    assert got.sum() > mask.sum()
    assert np.array_equal(got > 0, ndimage.binary_fill_holes(mask))
