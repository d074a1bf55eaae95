import numpy as np
import pytest

from lemon_sc.train.masking import batch_masks, block_mask, draw_block


@pytest.mark.parametrize("count", range(26))
def test_the_count_is_exact(count):
    rng = np.random.default_rng(count)
    assert {int(block_mask(count, rng=rng).sum()) for _ in range(50)} == {count}


def test_counts_of_a_batch_are_2_to_12_on_half_of_the_images():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        masks = batch_masks(64, rng=rng)
        assert masks.shape == (64, 25)
        assert masks.dtype == bool
        counts = np.sort(masks.sum(1))
        assert (counts[:32] == 0).all()
        # one ratio from each of 32 equal slices of 0.1 to 0.5: the i-th smallest count is bounded by its slice
        edges = np.linspace(0.1, 0.5, 33) * 25
        assert (counts[32:] >= np.floor(edges[:-1])).all()
        assert (counts[32:] <= np.floor(edges[1:])).all()
        seen |= set(counts[32:].tolist())
    assert seen == set(range(2, 13))


def test_which_images_are_masked_is_random():
    rng = np.random.default_rng(0)
    share = np.mean([batch_masks(8, rng=rng).any(1) for _ in range(500)], axis=0)
    assert np.abs(share - 0.5).max() < 0.12  # 5 standard errors


def test_blocks_keep_the_rules():
    rng = np.random.default_rng(0)
    sizes = {draw_block(25, rng=rng) for _ in range(5000)} - {(0, 0)}
    assert sizes == {(1, 4), (4, 1), (2, 2), (2, 3), (3, 2), (2, 4), (4, 2), (3, 3)}
    # of what is left below 4, the area is aimed at; rounding may add one patch, for overlap with what is masked
    assert {draw_block(2, rng=rng) for _ in range(500)} - {(0, 0)} == {(1, 2), (2, 1), (1, 3), (3, 1)}


def test_four_patches_are_mostly_one_rectangle():
    """Four scattered patches would form a 2 x 2 or 1 x 4 rectangle in 36 of 12,650 cases."""
    rng = np.random.default_rng(0)
    full = 0
    for _ in range(300):
        rows, columns = np.nonzero(block_mask(4, rng=rng))
        full += (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == 4
    assert full > 280


def test_a_generator_decides():
    first, again, other = (batch_masks(16, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_no_images_and_none_masked():
    rng = np.random.default_rng(0)
    assert batch_masks(0, rng=rng).shape == (0, 25)
    assert not batch_masks(9, rng=rng, masked_share=0).any()


@pytest.mark.parametrize(
    ("options", "name"), [({"masked_share": 1.5}, "masked_share"), ({"ratio": (0.5, 0.1)}, "ratio")]
)
def test_shares_that_cannot_be(options, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        batch_masks(4, rng=np.random.default_rng(0), **options)


def test_more_patches_than_there_are():
    with pytest.raises(ValueError, match="`count` must be from 0 to 25, the patches there are, got 26"):
        block_mask(26, rng=np.random.default_rng(0))
