import numpy as np
import pytest
from scenes import XENIUM_PX, place

from lemon_sc.geometry.affine import check_affine, invert, pixel_size, scaling, transform


@pytest.mark.parametrize("degrees", [-120.0, -3.5, 0.0, 45.0, 180.0])
@pytest.mark.parametrize("flip", [False, True])
def test_pixel_size_finds_what_was_composed(degrees, flip):
    size = pixel_size(scaling(XENIUM_PX, XENIUM_PX) @ place(0.3639, degrees, flip=flip))
    assert size.mpp == pytest.approx((0.3639, 0.3639), rel=1e-12)
    assert size.mirrored is flip
    assert size.anisotropy == pytest.approx(1)
    facing = (degrees + 180 * flip + 180) % 360 - 180  # a flipped x axis points the other way
    assert np.exp(1j * np.deg2rad(size.rotation_deg)) == pytest.approx(np.exp(1j * np.deg2rad(facing)))


def test_axes_of_different_pixel_size_are_told_apart():
    t = np.deg2rad(30)
    rotation = np.array([[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]])
    size = pixel_size(rotation @ scaling(0.25, 0.5))
    assert size.mpp == pytest.approx((0.25, 0.5))
    assert size.anisotropy == pytest.approx(2)


def test_the_published_breast_alignment():
    """10x's own matrix of the breast section; 0.3639 um/px is what HEST lists for that slide (NCBI785)."""
    matrix = [[1.712501059, 0.008345081016, -3.681030902], [0.008345081016, -1.712501059, 761.3564742], [0, 0, 1]]
    size = pixel_size(scaling(XENIUM_PX, XENIUM_PX) @ check_affine(matrix))
    assert size.mpp == pytest.approx((0.3639, 0.3639), abs=5e-5)
    assert size.mirrored


def test_transform_agrees_with_homogeneous_coordinates():
    matrix, xy = place(0.3, 17, shear=0.1), np.random.default_rng(0).standard_normal((7, 2)) * 100
    homogeneous = np.array([matrix @ [x, y, 1] for x, y in xy])
    np.testing.assert_allclose(transform(matrix, xy), homogeneous[:, :2])
    np.testing.assert_allclose(transform(invert(matrix), transform(matrix, xy)), xy)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(2), "finite 3 x 3"),
        ([[1, 0, np.nan], [0, 1, 0], [0, 0, 1]], "finite 3 x 3"),
        ([[1, 0, 0], [0, 1, 0], [0.1, 0, 1]], "last row"),
        ([[1, 2, 0], [2, 4, 0], [0, 0, 1]], "invertible"),
    ],
)
def test_what_is_not_an_affine_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        check_affine(matrix)
