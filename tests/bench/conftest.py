import bench_sets
import pytest


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(tmp_path, monkeypatch):
    """Neither data nor weights that happen to lie here are part of a test."""
    monkeypatch.delenv("LEMON_SC_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="session")
def plain_sets(tmp_path_factory):
    """A data folder with small sets in the plain layout."""
    folder = tmp_path_factory.mktemp("plain")
    bench_sets.plain(folder)
    bench_sets.amibr(folder)
    return folder
