import numpy as np
import pytest
from nucleus_fields import brute_quality, field, perfect_maps
from scipy import ndimage
from skimage.segmentation import watershed as sk_watershed

from lemon_sc.seg.postprocess import _sobel, nuclei, sizes

PLUS = ndimage.generate_binary_structure(2, 1)
ELLIPSE = np.array([[0, 0, 1, 0, 0], [1] * 5, [1] * 5, [1] * 5, [0, 0, 1, 0, 0]], bool)
OPENING = {0.25: ELLIPSE, 0.5: PLUS}  # published: the wide one at both


def without_small(mask, m):
    labels, n = ndimage.label(mask, PLUS)
    area = ndimage.sum_labels(mask, labels, np.arange(1, n + 1))
    return labels * np.isin(labels, np.flatnonzero(area >= m) + 1)


def written_out(p, hv, *, m, q, ellipse):
    """The published chain step by step, with scipy's and scikit-image's functions in double precision."""

    def scaled(x):
        return (x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else np.zeros_like(x)

    b = without_small(p >= 0.5, m) > 0
    smooth, slope = (np.poly1d([1, 1]) ** k for k in (q - 1, q - 2))
    slope = (slope * np.poly1d([1, -1])).coeffs[::-1]  # rising along the axis
    h, v = (scaled(x.astype(float)) for x in hv)

    def sobel(x, axis):
        across = ndimage.correlate1d(x, smooth.coeffs, axis=1 - axis, mode="mirror")
        return 1 - scaled(ndimage.correlate1d(across, slope, axis=axis, mode="mirror"))

    o = np.maximum(sobel(h, 1), sobel(v, 0)) - (1 - b)
    o = np.clip(o, 0, None)
    d = (1 - o) * b
    for axis in (0, 1):
        d = ndimage.correlate1d(d, [0.25, 0.5, 0.25], axis=axis, mode="mirror")
    core = ndimage.binary_fill_holes(np.clip(b * 1.0 - (o >= 0.4), 0, None) > 0)
    core = ndimage.binary_dilation(ndimage.binary_erosion(core, ellipse, border_value=1), ellipse)
    return sk_watershed(-d, without_small(core, m), mask=b)


@pytest.mark.parametrize(("overlap", "least"), [(False, 0.98), (True, 0.95)], ids=["apart", "touching"])
def test_perfect_maps_give_the_nuclei_back(overlap, least):
    labels = field(overlap=overlap)
    p, hv = perfect_maps(labels)
    got = nuclei(p, hv)
    assert len(got) == labels.max()
    assert brute_quality(labels, got.labels)[0] > least
    noisy = hv + np.random.default_rng(0).normal(0, 0.05, hv.shape)
    assert brute_quality(labels, nuclei(p, noisy).labels)[0] > 0.95
    assert brute_quality(labels, nuclei(p, hv[::-1]).labels)[0] < 0.2  # y first: markers, and cells with them, vanish


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_is_the_published_chain(mpp):
    labels = field(overlap=True, radius=12 * 0.25 / mpp, pitch=40 if mpp == 0.25 else 20, seed=1)
    p, hv = perfect_maps(labels)
    rng = np.random.default_rng(1)
    p = np.clip(p + rng.normal(0, 0.3, p.shape), 0, 1)  # holes, specks and ragged borders
    hv = hv + rng.normal(0, 0.1, hv.shape)
    px = sizes(mpp)
    want = written_out(p, hv, m=px.min_area_px, q=px.kernel_px, ellipse=OPENING[mpp])
    got = nuclei(p, hv, mpp=mpp).labels
    assert want.max() > 50
    assert ((want > 0) != (got > 0)).mean() < 0.005
    pq, *_ = brute_quality(want, got)
    assert pq > 0.99


def test_small_nuclei_keep_their_markers_at_half_the_resolution():
    """Nuclei of 3 um, such as lymphocytes cut off-centre: the published opening takes nearly all of them."""
    labels = field(overlap=False, radius=3, pitch=14, seed=2)
    p, hv = perfect_maps(labels)
    hv = hv + np.random.default_rng(0).normal(0, 0.1, hv.shape)
    px = sizes(0.5)
    published = written_out(p, hv, m=px.min_area_px, q=px.kernel_px, ellipse=ELLIPSE)
    assert brute_quality(labels, published)[0] < 0.5
    assert brute_quality(labels, nuclei(p, hv, mpp=0.5).labels)[0] > 0.95


def test_sizes_go_with_the_resolution():
    assert [(s.min_area_px, s.kernel_px) for s in map(sizes, (0.25, 0.5))] == [(10, 21), (5, 11)]
    assert all(sizes(mpp).kernel_px % 2 for mpp in np.linspace(0.1, 2, 50))
    with pytest.raises(ValueError, match="`mpp` must be a positive number"):
        sizes(0)


def test_kernels_are_those_of_opencv():
    smooth, slope = _sobel(5)
    assert np.allclose(smooth * 16, [1, 4, 6, 4, 1])
    assert np.allclose(slope * 8, [-1, -2, 0, 2, 1])


def test_an_empty_tile_has_no_nuclei_however_noisy_its_maps():
    hv = np.random.default_rng(0).normal(size=(2, 64, 64))
    got = nuclei(np.full((64, 64), 0.4), hv, np.zeros((64, 64), np.uint8))
    assert len(got) == 0
    assert not got.labels.any()
    assert got.xy.shape == (0, 2)


def test_specks_are_no_nuclei():
    p = np.zeros((64, 64))
    p[5:8, 5:8] = 1  # 9 px
    assert len(nuclei(p, np.zeros((2, 64, 64)))) == 0


def one_nucleus():
    labels = np.zeros((60, 60), np.int32)
    labels[20:40, 10:41] = 1
    return (labels, *perfect_maps(labels))


def test_geometry_of_a_nucleus():
    """20 rows from 20, 31 columns from 10: the middle of the square pixels, not of their indices."""
    _, p, hv = one_nucleus()
    got = nuclei(p * 0.75, hv)
    assert got.xy.tolist() == [[25.5, 30.0]]
    assert got.area.tolist() == [620]
    assert got.box.tolist() == [[10, 20, 41, 40]]
    assert got.type.tolist() == [0]
    assert got.probability.tolist() == [0.75]


def test_type_is_that_of_most_pixels_and_never_background_if_it_can_be_helped():
    labels, p, hv = one_nucleus()
    types = np.zeros(labels.shape, np.uint8)
    types[20:25, 10:41] = 3  # 155 of 620 px
    types[25:26, 10:41] = 1
    got = nuclei(p, hv, types)
    assert got.type.tolist() == [3]
    assert got.probability == pytest.approx([155 / 620])
    probability = np.moveaxis(np.eye(5)[types] * 0.6 + 0.08, -1, 0)
    same = nuclei(p, hv, probability)
    assert (same.type.tolist(), same.probability.tolist()) == (got.type.tolist(), got.probability.tolist())
    half = nuclei(p.astype(np.float16), hv.astype(np.float16), probability.astype(np.float16))
    assert half.type.tolist() == [3]


def test_what_is_background_throughout_is_dropped_unless_asked_for():
    labels = field(size=120, overlap=False)
    p, hv = perfect_maps(labels)
    types = np.where(labels > 4, 2, 0)
    got = nuclei(p, hv, types)
    assert len(got) == labels.max() - 4
    assert np.unique(got.labels).tolist() == list(range(len(got) + 1))
    for k in range(len(got)):
        rows, columns = np.nonzero(got.labels == k + 1)
        assert got.xy[k] == pytest.approx([columns.mean() + 0.5, rows.mean() + 0.5])
    kept = nuclei(p, hv, types, keep_untyped=True)
    assert len(kept) == labels.max()
    assert sorted(kept.type) == [0] * 4 + [2] * (len(kept) - 4)


@pytest.mark.parametrize(
    ("p", "hv", "types", "text"),
    [
        (np.ones(4), np.ones((2, 4)), None, "`p` must be"),
        (np.ones((4, 4)), np.ones((4, 4, 2)), None, r"`hv` must be \(2, H, W\)"),
        (np.ones((8, 8)), np.full((2, 8, 8), np.nan), None, "`hv` must be finite"),
        (np.ones((4, 4)), np.ones((2, 4, 4)), np.ones((4, 4)), "`types` must be"),
        (np.ones((4, 4)), np.ones((2, 4, 4)), np.full((4, 4), 300), "from 0 to 255"),
    ],
)
def test_maps_that_do_not_fit(p, hv, types, text):
    with pytest.raises(ValueError, match=text):
        nuclei(p, hv, types)
