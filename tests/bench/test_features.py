"""Crops in parts, and embeddings that are kept by the digest of what they were made from."""

import numpy as np
import pandas as pd
import pytest

import lemon_sc as lm
from lemon_sc.bench import features as module
from lemon_sc.bench.features import drawn, features, parts
from lemon_sc.bench.kinds import Labelled
from lemon_sc.io.image import array_image


class Counting:
    """Mean colour, with a count of the crops that were embedded."""

    def __init__(self):
        self.n = 0

    def __call__(self, crops):
        self.n += len(crops)
        return crops.mean(axis=(1, 2)).astype(np.float32)


def encoder(function, sha256="a" * 64, **fields):
    card = lm.models.ModelCard(name="mean", dim=3, sha256=sha256, **fields)
    return lm.models.as_encoder(function, card)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (120, 150, 3), dtype=np.uint8) for name in ("a", "b", "c")}


@pytest.fixture
def labelled(images):
    """Nuclei of three images, in mixed order, every fifth too near to the border."""
    rng = np.random.default_rng(1)
    xy = rng.integers(20, [130, 100], (90, 2), endpoint=True).astype(float)
    xy[::5, 0] = 8.0
    table = pd.DataFrame({"image": rng.choice(["c", "a", "b"], 90), "x": xy[:, 0], "y": xy[:, 1], "slide": "s"})
    return Labelled(nuclei=table, open=lambda name: array_image(images[name]), mpp=dict.fromkeys("abc", (0.25, 0.25)))


@pytest.mark.parametrize("part_rows", [7, 40, 4096])
def test_every_whole_window_is_embedded_in_its_own_row(labelled, images, monkeypatch, part_rows):
    monkeypatch.setattr(module, "PART_ROWS", part_rows)
    made = features(labelled, labelled.nuclei, {"m": encoder(Counting())}, window_px=40)["m"]
    table = labelled.nuclei[labelled.nuclei["x"] >= 20]
    assert made.rows.tolist() == table.index.tolist()
    for z, row in zip(made.z, table.itertuples(), strict=True):
        cut = images[row.image][int(row.y) - 20 : int(row.y) + 20, int(row.x) - 20 : int(row.x) + 20]
        np.testing.assert_allclose(z, cut.mean(axis=(0, 1)), rtol=1e-5)
    sizes = [len(rows) for rows, _ in parts(labelled, labelled.nuclei, size_px=40, window_px=40)]
    assert max(sizes) <= part_rows
    assert set(sizes[:-1]) <= {part_rows}


def test_what_is_kept_is_not_made_again(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 16)
    first, second = Counting(), Counting()
    options = {"window_px": 40, "cache": tmp_path}
    one = features(labelled, labelled.nuclei, {"m": encoder(first)}, **options)["m"]
    two = features(labelled, labelled.nuclei, {"m": encoder(second)}, **options)["m"]
    np.testing.assert_array_equal(one.z, two.z)
    assert (first.n, second.n) == (72, 0)
    features(labelled, labelled.nuclei, {"m": encoder(second, sha256="b" * 64)}, **options)
    assert second.n == 72


def test_an_interrupted_run_goes_on_and_damaged_files_are_made_again(labelled, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "PART_ROWS", 16)
    full = Counting()
    whole = features(labelled, labelled.nuclei, {"m": encoder(full)}, window_px=40, cache=tmp_path)["m"]
    kept = sorted(tmp_path.rglob("*.npy"))
    assert len(kept) == 5
    kept[0].unlink()
    kept[1].write_bytes(kept[1].read_bytes()[:50])
    again = Counting()
    made = features(labelled, labelled.nuclei, {"m": encoder(again)}, window_px=40, cache=tmp_path)["m"]
    np.testing.assert_array_equal(made.z, whole.z)
    assert again.n <= 32
    assert "is damaged" in caplog.text
    assert not list(tmp_path.rglob("*.part"))


def test_a_change_of_the_crops_is_part_of_what_is_kept(labelled, tmp_path):
    options = {"window_px": 40, "cache": tmp_path, "change": lambda rows, crops: 255 - crops}
    plain = features(labelled, labelled.nuclei, {"m": encoder(Counting())}, window_px=40, cache=tmp_path)["m"]
    made = features(labelled, labelled.nuclei, {"m": encoder(Counting())}, **options)["m"]
    np.testing.assert_allclose(made.z, 255 - plain.z, rtol=1e-5)


def test_encoders_of_different_crops_get_the_same_nuclei(labelled):
    both = {"small": encoder(Counting(), input_px=20), "fine": encoder(Counting(), mpp=0.125)}
    made = features(labelled, labelled.nuclei, both, window_px=40)
    assert made["small"].rows.tolist() == made["fine"].rows.tolist()


def test_a_crop_larger_than_the_window_is_refused(labelled):
    large = {"m": encoder(Counting(), input_px=128)}
    with pytest.raises(ValueError, match="takes crops of 128 px at 0.25 um/px, more than the 40 px"):
        features(labelled, labelled.nuclei, large, window_px=40)


def test_no_whole_window_is_an_error(labelled):
    with pytest.raises(ValueError, match="None of 90 nuclei has a window of 200 px"):
        features(labelled, labelled.nuclei, {"m": encoder(Counting())}, window_px=200)


def test_draws_are_even_and_the_same_each_time():
    table = pd.DataFrame({"slide": ["a"] * 50 + ["b"] * 5})
    assert drawn(table, None) is table
    assert len(drawn(table, 20)) == 20
    by = drawn(table, 20, by="slide")
    assert by["slide"].value_counts().to_dict() == {"a": 20, "b": 5}
    assert by.index.equals(drawn(table, 20, by="slide").index)
    assert not by.index.equals(drawn(table, 20, by="slide", seed=1).index)
    spots = drawn(table.assign(item=np.arange(55) // 5), 3, by="slide")
    assert spots["item"].value_counts().eq(5).all()
    assert spots.groupby("slide")["item"].nunique().to_dict() == {"a": 3, "b": 1}
