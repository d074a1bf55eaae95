"""Shared fixtures: the real data's home, and a scene whose answer is known in closed form."""

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in child processes, too: tests run side by side

import pytest
from real_data import there
from scenes import blob_scene, place

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests run in parallel processes; more threads in each would only fight for the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """The same numbers in every run, whichever tests ran before: torch begins with a seed of its own."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir():
    """Folder with the real data, or a skip that says what is missing."""
    path = Path(os.environ.get("LEMON_SC_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at LEMON_SC_DATA ({path})")
    return path


@pytest.fixture(scope="session")
def xenium_outs(data_dir):
    """The real Xenium folder."""
    return there(data_dir / "xenium_breast_mini" / "outs", "Xenium folder")


@pytest.fixture
def scene():
    """A small scene under a rotation, a flip and a shear."""
    return blob_scene(place(degrees=25.0, flip=True, shear=0.03), side=5, chunks=(3, 128, 128))
