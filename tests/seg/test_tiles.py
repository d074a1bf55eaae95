import numpy as np
import pytest

from lemon_sc.io.image import array_image
from lemon_sc.seg.tiles import check_tile, plan_grid, read_tiles, working_mpp

rng = np.random.default_rng(0)


def grid_of(height, width, *, tile=96, overlap=16, mpp=0.25, wanted=0.25):
    image = array_image(rng.integers(0, 250, (height, width, 3), dtype=np.uint8))
    return image, plan_grid(image, mpp=(mpp, mpp), wanted=wanted, tile_px=tile, overlap_px=overlap)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (128, 191), (200, 333)])
def test_every_px_is_one_tiles_own(size):
    _, grid = grid_of(*size)
    owner = np.zeros(size, dtype=int)
    for x0, y0, x1, y1 in grid.boxes.astype(int):
        owner[y0:y1, x0:x1] += 1
    assert (owner == 1).all()
    assert (grid.origins[0] == -16).all()
    assert np.array_equal(np.stack([grid.origin(k) for k in range(len(grid.origins))]), grid.origins)


@pytest.mark.parametrize("workers", [1, 3])
def test_tiles_are_slices_of_the_image_with_white_around(workers):
    image, grid = grid_of(150, 230)
    padded = np.pad(image.levels[0].array, ((16, 200), (16, 200), (0, 0)), constant_values=255)
    across, down = grid.n
    assert (across, down) == (4, 3)
    tiles = dict(read_tiles(image, grid, np.arange(across * down), workers=workers))
    assert sorted(tiles) == list(range(12))
    for number, tile in tiles.items():
        row, col = divmod(number, across)
        assert np.array_equal(tile, padded[row * 64 : row * 64 + 96, col * 64 : col * 64 + 96])


def test_only_the_tiles_that_are_asked_for_are_read():
    image, grid = grid_of(150, 230)
    assert [number for number, _ in read_tiles(image, grid, np.array([5, 2]), workers=1)] in ([5, 2], [2, 5])


def test_a_resampled_tile_shows_what_lies_there():
    """On a ramp, the value is the place: a px at (i + 0.5) * scale."""
    x = np.arange(400) + 0.5
    ramp = np.broadcast_to((x / 2)[None, :, None], (300, 400, 3))
    image = array_image(np.rint(ramp).astype(np.uint8))
    grid = plan_grid(image, mpp=(0.4, 0.4), wanted=0.25, tile_px=96, overlap_px=16)
    assert grid.scale == pytest.approx((0.625, 0.625))
    assert grid.size == pytest.approx((640, 480))
    across, _ = grid.n
    tiles = dict(read_tiles(image, grid, np.array([across + 1]), workers=1))
    places = (np.arange(96) + 0.5 + 64 - 16) * 0.625 / 2
    assert np.abs(tiles[across + 1][48, :, 0] - places).max() <= 1.0


def test_a_level_within_a_fifth_is_read_as_it_is():
    assert working_mpp((0.2738, 0.2738), [(1.0, 1.0)], wanted=0.25) == 0.2738
    assert working_mpp((0.3639, 0.3639), [(1.0, 1.0)], wanted=0.25) == 0.25
    assert working_mpp((0.12, 0.12), [(1.0, 1.0), (2.0, 2.0)], wanted=0.25) == 0.24
    assert working_mpp((0.5, 0.5), [(1.0, 1.0), (4.0, 4.0)], wanted=0.25) == 0.25


@pytest.mark.parametrize("mpp", [2.5, 0.001, 25.0])
def test_a_pixel_size_at_which_no_nucleus_can_be_seen(mpp):
    image = array_image(np.zeros((50, 50, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"`mpp` must lie between 0.02 and 1.0 um per px .* Scans at 40x have about"):
        plan_grid(image, mpp=(mpp, mpp), wanted=0.25)


def test_a_tile_smaller_than_the_network_was_trained_on():
    with pytest.raises(
        ValueError, match=r"`tile_px` must be an int >= 256, got 128\. The network was trained on 256 px"
    ):
        check_tile(128, 16, least=256)
    with pytest.raises(ValueError, match=r"`tile_px` must be an int >= 257, got 256.* beside 64 px overlap"):
        check_tile(256, 64, least=256)
    with pytest.raises(ValueError, match="`overlap_px` must be >= 0, got -1"):
        check_tile(256, -1, least=256)
    check_tile(257, 64, least=256)
    check_tile(256, 63, least=256)
