"""Phantoms that the tests of this folder share; nothing may change them."""

import pytest

from lemon_sc.datasets import phantom


@pytest.fixture(scope="session")
def run():
    """A phantom in the newer format: text ids, several nuclei in some cells."""
    return phantom(n_cells=300, rng=1)


@pytest.fixture(scope="session")
def old_run():
    """A phantom in the older format: integer ids, at most one nucleus per cell."""
    return phantom(n_cells=150, rng=2, ids="int", flip=False, rotation=20.0)
