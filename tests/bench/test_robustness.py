"""Nuclei in the stains of other slides: nothing moves towards one's own, and something towards others'."""

import numpy as np
import pandas as pd
import pytest

import lemon_sc as lm
from lemon_sc.bench import robustness as module
from lemon_sc.bench.kinds import Labelled
from lemon_sc.bench.robustness import robustness, stains_of
from lemon_sc.bench.rows import as_table
from lemon_sc.crops.stain import StainEstimate
from lemon_sc.io.image import array_image

VECTORS = {
    "s0": np.array([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]]),
    "s1": np.array([[0.55, 0.20], [0.73, 0.85], [0.40, 0.49]]),
}


def stained(vectors, seed, n=240):
    """An image by Beer and Lambert, blocks of 20 px with gamma-distributed amounts."""
    amounts = np.random.default_rng(seed).gamma(1.2, 0.5, (2, n // 5, n // 5)).repeat(5, axis=1).repeat(5, axis=2)
    unit = vectors / np.linalg.norm(vectors, axis=0)
    return np.rint(240 * np.exp(-np.einsum("ck,kyx->yxc", unit, amounts))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def labelled():
    images = {name: stained(vectors, k) for k, (name, vectors) in enumerate(VECTORS.items())}
    rng = np.random.default_rng(0)
    xy = rng.integers(20, 220, (160, 2)).astype(float)
    table = pd.DataFrame({"image": ["s0", "s1"] * 80, "x": xy[:, 0], "y": xy[:, 1], "slide": ["s0", "s1"] * 80})
    table["label"] = [
        "NMF" if images[row.image][int(row.y), int(row.x)].sum() > 380 else "AMF" for row in table.itertuples()
    ]
    return Labelled(nuclei=table, open=lambda name: array_image(images[name]), mpp=dict.fromkeys(images, (0.25, 0.25)))


def middle(crops):
    return crops[:, 15:25:2, 15:25:2].reshape(len(crops), -1).astype(np.float32)


def test_stains_of_slides_are_found(labelled):
    found = stains_of(labelled, labelled.nuclei)
    for slide, vectors in VECTORS.items():
        unit = vectors / np.linalg.norm(vectors, axis=0)
        angle = np.degrees(np.arccos((found[slide].vectors * unit).sum(axis=0)))
        assert (angle < 3).all()


def test_own_stains_change_nothing_and_others_do(labelled, monkeypatch):
    only = labelled.nuclei[labelled.nuclei["slide"] == "s0"]
    own = stains_of(labelled, only)["s0"]
    other = StainEstimate(vectors=VECTORS["s1"] / np.linalg.norm(VECTORS["s1"], axis=0), strength=own.strength * 2)
    monkeypatch.setattr(module, "REFERENCES", {"own": own, "other": other})
    monkeypatch.setattr(module, "K", 10)
    encoder = lm.models.as_encoder(middle, lm.models.ModelCard(name="middle", dim=75))
    task = lm.bench.task("stain_robustness_midog25")
    made = robustness(task, labelled, only, {"middle": encoder}, seed=0, cache=None, device="cpu")
    at = as_table(made).set_index(["protocol", "fold", "metric"])["value"]
    assert at["stain", "own", "rmse"] < 0.05 < 0.3 < at["stain", "other", "rmse"]
    assert at["stain", "own", "cosine"] > 0.995 > at["stain", "other", "cosine"]
    assert at["stain", "own", "knn_overlap"] > 0.95 > at["stain", "other", "knn_overlap"]
    assert at["stain", "own", "knn_overlap_chance"] == pytest.approx(10 / (len(only) - 1))
    before, same, shifted = (at["stain_probe", k, "balanced_accuracy"] for k in ("original", "own", "other"))
    assert before > 0.75
    assert same == pytest.approx(before, abs=0.03)
    assert shifted < before - 0.1


def test_glass_has_no_stains(labelled):
    white = array_image(np.full((240, 240, 3), 245, np.uint8))
    blank = Labelled(nuclei=labelled.nuclei, open=lambda name: white, mpp=labelled.mpp)
    encoder = lm.models.as_encoder(middle, lm.models.ModelCard(name="middle", dim=75))
    task = lm.bench.task("stain_robustness_midog25")
    with pytest.raises(ValueError, match="The stains of none of 2 slides can be told"):
        next(robustness(task, blank, blank.nuclei, {"m": encoder}, seed=0, cache=None, device="cpu"))
