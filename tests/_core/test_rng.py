import numpy as np
import pytest

from lemon_sc._core.rng import as_generator, spawn


def test_a_seed_gives_its_stream_and_zero_is_a_seed():
    np.testing.assert_array_equal(as_generator(0).random(3), np.random.default_rng(0).random(3))
    assert as_generator(0).random() != as_generator(1).random()
    own = np.random.default_rng(5)
    assert as_generator(own) is own


def test_spawned_streams_differ_and_repeat():
    first, second = (g.random(4) for g in spawn(7, 2))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, spawn(7, 2)[0].random(4))


@pytest.mark.parametrize("rng", [-1, 1.5, "0", None, True])
def test_what_is_no_seed(rng):
    with pytest.raises(ValueError, match="`rng` must be an int >= 0 or a numpy Generator"):
        as_generator(rng)
