import numpy as np
import pytest

from lemon_sc.datasets._noise import TEXELS, Noise


@pytest.fixture(scope="module")
def noise():
    return Noise(np.random.default_rng(0), 256)


def test_lattice_is_standard_normal(noise):
    flat = noise.lattice.ravel()
    assert flat.mean() == pytest.approx(0, abs=1e-5)
    assert flat.std() == pytest.approx(1, abs=1e-5)
    assert np.mean(np.abs(flat) < 1.96) == pytest.approx(0.95, abs=0.01)


def test_values_depend_on_the_position_alone_and_repeat(noise):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 80, (2, 50))
    together = noise(x, y)
    period = 256 / TEXELS
    np.testing.assert_allclose([noise(x[i : i + 1], y[i : i + 1])[0] for i in range(50)], together, atol=1e-6)
    np.testing.assert_allclose(noise(x + period, y - period), together, atol=1e-2)


def test_correlation_length_is_about_one(noise):
    x, y = np.random.default_rng(2).uniform(0, 85, (2, 20000))
    near, far = (np.corrcoef(noise(x, y), noise(x + step, y))[0, 1] for step in (0.3, 3.0))
    assert near > 0.8
    assert abs(far) < 0.1
