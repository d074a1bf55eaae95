import numpy as np
import pytest
import shapely
from nucleus_fields import brute_quality, field, perfect_maps

from lemon_sc.seg.contours import outlines
from lemon_sc.seg.postprocess import nuclei
from lemon_sc.seg.stitch import border_distance, paste, stitch

TILE, MARGIN = 160, 32
CORE = TILE - 2 * MARGIN


def tiled(p, hv):
    """Nuclei of all tiles, first column and last partial tiles included, stitched into one label image."""
    height, width = p.shape
    found = []
    for y in range(-MARGIN, height, CORE):
        for x in range(-MARGIN, width, CORE):
            y0, y1, x0, x1 = max(y, 0), min(y + TILE, height), max(x, 0), min(x + TILE, width)
            window = (slice(y0, y1), slice(x0, x1))
            made = nuclei(p[window], hv[(slice(None), *window)])
            bounds = made.box + np.array([x0, y0, x0, y0])
            shapes = outlines(made.labels, origin=(x0, y0))
            found.append((made.labels, (x0, y0), shapes, border_distance(bounds, (x, y, x + TILE, y + TILE))))
    tile = np.repeat(np.arange(len(found)), [len(f[2]) for f in found])
    keep = stitch(np.concatenate([f[2] for f in found]), tile=tile, border=np.concatenate([f[3] for f in found]))
    ids = np.where(keep, keep.cumsum(), 0)
    canvas = np.zeros(p.shape, np.int32)
    for k, (labels, at, *_) in enumerate(found):
        paste(canvas, labels, at=at, ids=ids[tile == k])
    return canvas, keep, len(found)


@pytest.mark.parametrize("overlap", [False, True], ids=["apart", "touching"])
def test_a_field_across_seams_is_that_of_a_single_pass(overlap):
    """2 x 2 whole tiles and a last row and column of 28 px: nuclei on every seam, at the edges, and on the corners."""
    labels = field(size=220, pitch=37, overlap=overlap, radius=11.0)
    p, hv = perfect_maps(labels)
    whole = nuclei(p, hv).labels
    got, keep, n_tiles = tiled(p, hv)
    assert n_tiles == 9
    assert len(keep) > 1.5 * keep.sum()  # most nuclei were found more than once
    assert keep.sum() == whole.max() == labels.max()
    assert np.unique(got).tolist() == list(range(whole.max() + 1))
    assert brute_quality(whole, got)[0] > 0.99


def square(x, y, side=10.0):
    return shapely.box(x, y, x + side, y + side)


def test_a_chain_of_nuclei_that_touch_survives():
    """Found in turn by two tiles, each overlapping the next a little: one group, were sameness handed on."""
    chain = [square(9.0 * k, 0) for k in range(8)]
    assert stitch(chain, tile=np.arange(8) % 2, border=np.arange(8.0)).all()
    doubled = [*chain, *chain]
    keep = stitch(doubled, tile=np.repeat([0, 1], 8), border=np.r_[np.full(8, 3.0), np.full(8, 5.0)])
    assert keep.tolist() == [False] * 8 + [True] * 8


def test_what_is_left_out_leaves_nothing_out():
    """b is the same as a and as c, but a and c are not the same."""
    a, b, c = square(0, 0), square(5, 0), square(10, 0)
    assert stitch([a, b, c], tile=[0, 1, 2], border=[9, 5, 1]).tolist() == [True, False, True]
    assert stitch([a, b, c], tile=[0, 1, 2], border=[5, 9, 1]).tolist() == [False, True, False]


def test_nuclei_of_one_tile_never_compete_and_a_cut_one_loses():
    whole, piece = square(0, 0), shapely.box(0, 0, 4, 10)
    assert stitch([whole, whole], tile=[3, 3], border=[1, 1]).all()
    assert stitch([piece, whole], tile=[0, 1], border=[0, 20]).tolist() == [False, True]
    assert stitch([whole, square(0.5, 0, 9)], tile=[0, 1], border=[4, 4]).tolist() == [True, False]  # the larger
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])  # crosses itself; its halves are triangles
    assert stitch([whole, bow], tile=[0, 1], border=[4, 1]).tolist() == [True, False]


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rule_written_out(seed):
    rng = np.random.default_rng(seed)
    shapes = [square(x, y, s) for x, y, s in rng.uniform((0, 0, 5), (60, 60, 15), (80, 3))]
    tile, border = rng.integers(0, 4, 80), rng.uniform(0, 60, 80)
    kept = []
    for i in np.argsort(-border):
        rivals = [j for j in kept if tile[j] != tile[i]]
        shared = {j: shapes[i].intersection(shapes[j]).area for j in rivals}
        if not any(
            s / (shapes[i].area + shapes[j].area - s) >= 0.3 or s / min(shapes[i].area, shapes[j].area) >= 0.5
            for j, s in shared.items()
        ):
            kept.append(i)
    keep = stitch(shapes, tile=tile, border=border)
    assert np.flatnonzero(keep).tolist() == sorted(kept)
    assert 10 < keep.sum() < 80


def test_depth_in_a_tile():
    boxes = [[10, 20, 30, 40], [0, 20, 30, 40], [70, 5, 95, 9]]
    assert border_distance(boxes, (0, 0, 100, 100)).tolist() == [10, 0, 5]
    assert border_distance(boxes[:2], [[0, 0, 100, 100], [-64, -64, 720, 720]]).tolist() == [10, 64]


def test_pasting():
    canvas = np.zeros((4, 5), np.int32)
    canvas[1, 1] = 9
    paste(canvas, np.array([[1, 1, 2], [1, 1, 2]]), at=(-1, 1), ids=[7, 0])
    paste(canvas, np.array([[1, 1], [1, 1]]), at=(4, 3), ids=[5])
    assert canvas.tolist() == [[0] * 5, [7, 9, 0, 0, 0], [7, 0, 0, 0, 0], [0, 0, 0, 0, 5]]
    with pytest.raises(ValueError, match="an id for each of 2 labels"):
        paste(canvas, np.array([[2]]), at=(0, 0), ids=[1])


def test_bad_input():
    with pytest.raises(ValueError, match="one entry per nucleus"):
        stitch([square(0, 0)], tile=[0, 1], border=[1.0])
    with pytest.raises(ValueError, match="`iou` must be above 0"):
        stitch([square(0, 0)], tile=[0], border=[1.0], iou=0)
    assert stitch([], tile=[], border=[]).tolist() == []
