"""Distance maps against a loop over nuclei, and against what flips and turns do to them."""

import numpy as np
import pytest

from lemon_sc.seg.targets import hv_maps, make_targets


def looped(labels, min_px=30):
    """One nucleus after the other, as the definition reads."""
    out = np.zeros((2, *labels.shape))
    for label in np.unique(labels)[1:]:
        rows, columns = np.nonzero(labels == label)
        if len(rows) < min_px:
            continue
        for channel, at in ((0, columns), (1, rows)):
            offset = at - int(np.floor(at.mean() + 0.5))
            for r, c, d in zip(rows, columns, offset.astype(float), strict=True):
                if d < 0:
                    d /= -offset.min()
                elif d > 0:
                    d /= offset.max()
                out[channel, r, c] = d
    return out


def blobs(seed=0, side=64, n=14):
    rng = np.random.default_rng(seed)
    at = np.indices((side, side))
    labels = np.zeros((side, side), np.int32)
    for k in range(n):
        centre, radii = rng.uniform(0, side, 2), rng.uniform(2, 9, 2)
        inside = (((at - centre[:, None, None]) / radii[:, None, None]) ** 2).sum(0) < 1
        labels[inside] = 3 * k + 1
    return labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_maps_equal_a_loop(seed, dtype):
    labels = blobs(seed).astype(dtype)
    found = hv_maps(labels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, looped(labels), atol=1e-6)
    small = [n for n in np.unique(labels)[1:] if (labels == n).sum() < 30]
    assert small, "some blobs are cut off, so that the limit is seen"
    assert not found[:, np.isin(labels, small)].any()


def test_a_square_in_closed_form():
    labels = np.zeros((9, 12), int)
    labels[1:8, 2:9] = 5
    x, y = hv_maps(labels)
    np.testing.assert_allclose(x[4, 2:9], [-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1], atol=1e-6)
    np.testing.assert_array_equal(x, np.where(labels, x[4], 0))
    np.testing.assert_allclose(y[1:8, 4], x[4, 2:9], atol=1e-6)


def test_channels_and_signs_under_flips_and_turns():
    """A disc of odd width has its centre on a pixel, so its map is that of the flipped disc with the sign turned."""
    at = np.indices((21, 21)) - 10
    labels = ((at**2).sum(0) < 60).astype(int)
    x, y = hv_maps(labels)
    np.testing.assert_allclose(hv_maps(labels[:, ::-1])[0], -x[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(hv_maps(labels.T)[0], y.T, atol=1e-6)
    assert (x[:, 11:][labels[:, 11:] > 0] > 0).all()
    assert (y[11:][labels[11:] > 0] > 0).all()


def test_targets_of_a_tile():
    labels = blobs(1)
    types = np.arange(labels.max() + 1) % 4
    found = make_targets(labels, types=types)
    np.testing.assert_array_equal(found.nuclei, labels != 0)
    assert found.types[labels == 4].tolist() == [0] * (labels == 4).sum()  # 4 % 4
    assert set(found.types[labels == 7]) == {3}
    assert not found.types[labels == 0].any()
    assert make_targets(labels).types is None


def test_nothing_to_learn_from():
    found = make_targets(np.zeros((8, 8), np.uint8), types=np.zeros(1))
    assert not found.hv.any()
    assert not found.nuclei.any()


@pytest.mark.parametrize("labels", [np.zeros((3, 4, 1), int), np.zeros((3, 3)), np.full((3, 3), -1)])
def test_no_instance_map(labels):
    with pytest.raises(ValueError, match="`labels` must be an instance map"):
        hv_maps(labels)


def test_ids_without_a_class():
    with pytest.raises(ValueError, match="`types` must name a class for each id up to 3"):
        make_targets(np.full((4, 4), 3), types=np.zeros(3))
