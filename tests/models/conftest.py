import numpy as np
import pytest
from skimage.draw import ellipse as draw_ellipse


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path, monkeypatch):
    """Weights that happen to lie on this machine are no part of a test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def masks():
    """Ellipses of many sizes and directions."""
    rng = np.random.default_rng(0)
    stack = np.zeros((40, 40, 40), bool)
    for mask in stack:
        centre, radii = rng.uniform(14, 26, 2), rng.uniform(3, 12, 2)
        rows, columns = draw_ellipse(*centre, *radii, shape=mask.shape, rotation=rng.uniform(0, np.pi))
        mask[rows, columns] = True
    return stack
