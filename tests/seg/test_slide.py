"""Whole slides: what is planted comes out once, whatever the tiles, batches and threads."""

import numpy as np
import pytest
import shapely
from coded_slides import CodeFinder, CodeSegmenter, coded, field
from skimage.morphology import dilation, erosion

from lemon_sc.io.image import array_image
from lemon_sc.metrics import panoptic_quality
from lemon_sc.seg.card import SegCard
from lemon_sc.seg.finders import NetworkFinder
from lemon_sc.seg.image import rasterise
from lemon_sc.seg.postprocess import nuclei
from lemon_sc.seg.slide import segment_slide
from lemon_sc.seg.targets import hv_maps

LABELS = field((430, 610), n=160)
IMAGE = coded(LABELS)
TILES = {"tile_px": 192, "overlap_px": 40}


def run(image=IMAGE, finder=None, **options):
    options = {"mpp": 0.25, "min_tissue": 0.0, **TILES, **options}
    return segment_slide(array_image(image), finder or CodeFinder(), **options)


def test_each_nucleus_is_found_once_seams_and_borders_included():
    found, report = run()
    assert report.n_tiles == 4 * 6
    assert report.n_doubled > 50
    assert len(found) == LABELS.max()
    assert sorted(shapely.area(found.polygons)) == sorted(np.bincount(LABELS.ravel())[1:])
    assert panoptic_quality(LABELS, rasterise(found.polygons, LABELS.shape)).pq == 1.0
    at_left = np.flatnonzero(np.isin(np.arange(1, LABELS.max() + 1), LABELS[:, 0])) + 1
    assert len(at_left) >= 3, "the field has nuclei in column 0"
    assert (shapely.bounds(found.polygons)[:, 0] == 0).sum() == len(at_left)


def test_neither_batches_nor_threads_decide():
    first, _ = run(batch_size=1, workers=1)
    for options in ({"batch_size": 5, "workers": 3}, {"batch_size": 24, "workers": 2}):
        other, _ = run(**options)
        assert (shapely.equals_exact(first.polygons, other.polygons)).all()
        assert np.array_equal(first.tile, other.tile)
        assert np.array_equal(first.xy, other.xy)


def test_tiles_that_disagree_do_not_double_nuclei():
    """Each tile sees nuclei a px larger or smaller, as a network does that sees other surroundings."""
    rng = np.random.default_rng(0)

    def tamper(labels):
        return (dilation if rng.random() < 0.5 else erosion)(labels, np.ones((3, 3)))

    found, _ = run(finder=CodeFinder(tamper=tamper), workers=1)
    assert len(found) == LABELS.max()
    assert panoptic_quality(LABELS, rasterise(found.polygons, LABELS.shape)).dq == 1.0


@pytest.mark.parametrize("touching", [False, True])
def test_the_watershed_on_tiles_equals_that_of_the_whole(touching):
    labels = field((430, 610), n=160, seed=1, touching=touching)
    types = np.random.default_rng(0).integers(1, 3, labels.max())
    image = coded(labels, types=types)
    card = SegCard(name="code", encoder="vit", classes=("background", "round", "oval"), size_px=64)
    found, _ = run(image, NetworkFinder(segmenter=CodeSegmenter(card)))
    whole = nuclei((labels > 0).astype(np.float32), hv_maps(labels), mpp=0.25)
    assert abs(len(found) - len(whole)) <= 1
    stitched = rasterise(found.polygons, labels.shape)
    assert panoptic_quality(whole.labels, stitched).pq > 0.99
    assert panoptic_quality(labels, stitched).pq > (0.85 if touching else 0.95)
    truth = labels[tuple(np.floor(found.xy).astype(int).T[::-1])]
    there = truth > 0
    assert there.mean() > 0.99
    assert (found.type[there] == types[truth[there] - 1]).mean() > 0.99
    assert found.probability.min() > 0.9


def test_coordinates_are_px_of_the_finest_level():
    """Read at a coarser level, and resampled: centres stay where the nuclei are."""
    wide = np.kron(coded(field((300, 300), n=40)), np.ones((2, 2, 1), dtype=np.uint8))
    image = array_image(wide, wide[::2, ::2])
    found, report = segment_slide(image, CodeFinder(), mpp=0.125, min_tissue=0.0, **TILES)
    assert report.mpp == 0.25
    labels = field((300, 300), n=40)
    y, x = np.nonzero(labels)
    n = np.bincount(labels[y, x])[1:]
    truth = np.column_stack([np.bincount(labels[y, x], v + 0.5)[1:] / n for v in (x, y)]) * 2
    order = np.lexsort(truth.T)
    assert found.xy[np.lexsort(found.xy.T)] == pytest.approx(truth[order])
    assert shapely.area(found.polygons).sum() == pytest.approx(4 * n.sum())


def test_an_image_smaller_than_a_tile_is_one_tile():
    finder = CodeFinder()
    found, report = run(IMAGE[:150, :170], finder, tile_px=None, overlap_px=64)
    assert report.n_tiles == finder.seen == 1
    assert report.tile_px == 304
    assert len(found) == len(np.unique(LABELS[:150, :170])) - 1


def test_glass_is_not_looked_at():
    image = np.full((400, 1200, 3), 245, dtype=np.uint8)
    image[:, :500] = 150
    finder = CodeFinder(tamper=np.zeros_like, classes=("nucleus",) * 256)
    _, report = run(image, finder, min_tissue=0.05)
    assert report.n_empty > 10
    assert finder.seen == report.n_tiles == 4 * 11 - report.n_empty


def test_no_tissue_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"No tissue: 0.00% .* Pass `min_tissue=0` to look at every tile"):
        run(np.full((300, 300, 3), 244, dtype=np.uint8), min_tissue=0.01)


def test_no_nuclei_is_an_empty_result():
    found, report = run(np.full((300, 300, 3), 255, dtype=np.uint8))
    assert len(found) == 0
    assert report.n_doubled == 0


def test_types_without_a_name():
    image = coded(LABELS, types=np.full(LABELS.max(), 7))
    with pytest.raises(ValueError, match=r"`classes` must name every type that 'code' finds, .* found code 7"):
        run(image, CodeFinder(classes=("background", "a")))


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_tissue_that_is_none(share):
    with pytest.raises(ValueError, match="`min_tissue` must be a share between 0 and 1"):
        run(min_tissue=share)


def test_an_error_of_a_thread_comes_through():
    class Broken(CodeFinder):
        def find(self, tile, seen, *, mpp):
            raise RuntimeError("broken finder")

    with pytest.raises(RuntimeError, match="broken finder"):
        run(finder=Broken(), workers=2)
