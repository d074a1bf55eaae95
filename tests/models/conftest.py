import pytest


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path, monkeypatch):
    """Weights that happen to lie on this machine are no part of a test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
