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
