import numpy as np
import pytest
import shapely

from lemon_sc.crops.mask import apply_mask, outline_masks


def test_a_pixel_is_in_if_its_centre_is():
    rng = np.random.default_rng(0)
    polygons, xy = [], rng.uniform(100, 200, (20, 2))
    for c in xy:
        angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radius = rng.uniform(6, 18, 12)
        polygons.append(shapely.Polygon(c + np.column_stack([np.cos(angle), np.sin(angle)]) * radius[:, None]))
    scale = (0.9, 1.2)
    masks = outline_masks(np.array(polygons, dtype=object), xy, scale=scale, size_px=40)
    at = np.arange(40) + 0.5 - 20
    for polygon, c, mask in zip(polygons, xy, masks, strict=True):
        x, y = np.meshgrid(c[0] + at * scale[0], c[1] + at * scale[1])
        np.testing.assert_array_equal(mask, shapely.contains_xy(polygon, x, y))


def centres(size=40):
    at = np.arange(size) + 0.5
    return np.meshgrid(at, at)


def in_frame(*polygons, size=40):
    """Masks of polygons given in crop px."""
    middle = np.full((len(polygons), 2), size / 2)
    return outline_masks(np.array(polygons, dtype=object), middle, scale=(1.0, 1.0), size_px=size)


def test_holes_and_parts_and_what_lies_outside():
    holed = shapely.Polygon([(2.2, 2.1), (3, 30.7), (31.3, 29), (28, 1)], [[(8, 8), (8.4, 13), (13, 12.6), (12, 8)]])
    parts = shapely.MultiPolygon([holed, shapely.box(32.2, 32.7, 38.4, 60), shapely.box(-9, -9, 1.6, 1.2)])
    polygons = [holed, parts, shapely.box(-50, -50, 90, 90), shapely.box(50, 3, 60, 9), shapely.box(3, -20, 9, -4)]
    x, y = centres()
    for polygon, mask in zip(polygons, in_frame(*polygons), strict=True):
        np.testing.assert_array_equal(mask, shapely.contains_xy(polygon, x, y))


def test_every_pixel_belongs_to_one_of_two_outlines_that_share_a_border():
    """Even where the border and its vertices run through pixel centres."""
    border = [(20.5, 0.0), (20.5, 10.5), (12.5, 10.5), (17.5, 15.5), (30.5, 28.5), (30.5, 40.0)]
    left = shapely.Polygon([(0, 0), *border, (0, 40)])
    right = shapely.Polygon([(40, 0), *border, (40, 40)])
    np.testing.assert_array_equal(in_frame(left, right).sum(axis=0), 1)


def test_an_empty_outline_masks_nothing():
    empty = np.array([shapely.Polygon()], dtype=object)
    assert not outline_masks(empty, np.zeros((1, 2)), scale=(1, 1), size_px=8).any()


@pytest.mark.parametrize("mask", ["nucleus", "ring"])
def test_what_is_masked_becomes_glass(mask):
    crops = np.random.default_rng(0).integers(0, 200, (2, 8, 8, 3), dtype=np.uint8)
    inside = np.zeros((2, 8, 8), dtype=bool)
    inside[:, 2:5, 3:7] = True
    out = apply_mask(crops, inside, mask)
    keep = inside if mask == "nucleus" else ~inside
    np.testing.assert_array_equal(out[keep], crops[keep])
    assert (out[~keep] == 255).all()
