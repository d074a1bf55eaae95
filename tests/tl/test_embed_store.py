"""Embeddings that are kept as they come: the same numbers, and an interrupted run goes on where it stopped."""

import numpy as np
import pytest
import zarr

import lemon_sc as lm
from lemon_sc.models import ModelCard

CARD = ModelCard(name="mean-rgb", dim=3)


class Counting:
    """An encoder that counts its crops, and fails after a number of them."""

    def __init__(self, fail_after=np.inf):
        self.n, self.fail_after = 0, fail_after

    def __call__(self, crops):
        self.n += len(crops)
        if self.n > self.fail_after:
            msg = "the power went out"
            raise RuntimeError(msg)
        return crops.mean(axis=(1, 2)) / 255


@pytest.fixture
def shards_of_four(monkeypatch):
    monkeypatch.setattr("lemon_sc.io.shards.writing.__wrapped__.__kwdefaults__", {"shard": 4})


@pytest.fixture
def sdata(scene):
    sdata, _ = scene
    lm.pp.extract_nuclei(sdata)
    return sdata


def embed(sdata, counting, **options):
    lm.tl.embed(sdata, model=(counting, CARD), batch_size=2, **options)
    return sdata["table"].obsm["X_lemon"]


@pytest.mark.parametrize("source", [None, "memory", "store"])
def test_the_numbers_are_those_without_a_store(sdata, tmp_path, source):
    lm.pp.extract_nuclei(sdata, store=tmp_path / "crops.zarr" if source == "store" else source)
    expected = embed(sdata, Counting())
    np.testing.assert_array_equal(embed(sdata, Counting(), store=tmp_path / "z.zarr"), expected)


def test_a_second_run_computes_nothing(sdata, tmp_path):
    first = embed(sdata, Counting(), store=tmp_path / "z.zarr")
    again = Counting()
    np.testing.assert_array_equal(embed(sdata, again, store=tmp_path / "z.zarr"), first)
    assert again.n == 0


def test_an_interrupted_run_goes_on(sdata, tmp_path, shards_of_four):
    expected = embed(sdata, Counting())
    del sdata["table"].obsm["X_lemon"]
    with pytest.raises(RuntimeError, match="the power went out"):
        embed(sdata, Counting(fail_after=14), store=tmp_path / "z.zarr")
    assert "X_lemon" not in sdata["table"].obsm
    rest = Counting()
    np.testing.assert_array_equal(embed(sdata, rest, store=tmp_path / "z.zarr"), expected)
    assert rest.n <= len(expected) - 8
    assert [p.name for p in tmp_path.iterdir()] == ["z.zarr"]


def test_verdicts_found_before_the_interruption_are_kept(sdata, tmp_path, shards_of_four):
    """A nucleus that is blank is found by the pixels, which the second run does not read again."""
    order = np.argsort(sdata["table"].obsm["nucleus_xy"][:, 1])
    x, y = sdata["table"].obsm["nucleus_xy"][order[0]].astype(int)
    image = sdata["he_image"].copy(deep=True).load()
    image[:, max(y - 40, 0) : y + 40, max(x - 40, 0) : x + 40] = 245
    sdata.images["he_image"] = image.chunk()
    name = sdata["table"].obs_names[order[0]]
    with pytest.raises(RuntimeError, match="the power went out"):
        embed(sdata, Counting(fail_after=14), store=tmp_path / "z.zarr")
    assert sdata["table"].obs.loc[name, "nucleus_qc"] == "ok"
    embed(sdata, Counting(), store=tmp_path / "z.zarr")
    assert sdata["table"].obs.loc[name, "nucleus_qc"] == "blank"
    assert np.isnan(sdata["table"][name].obsm["X_lemon"]).all()


def test_another_model_or_another_image_is_another_content(sdata, tmp_path):
    embed(sdata, Counting(), store=tmp_path / "z.zarr")
    other = Counting()
    lm.tl.embed(sdata, model=(other, ModelCard(name="other", dim=3)), store=tmp_path / "z.zarr")
    assert other.n > 0
    sdata.images["he_image"] = sdata["he_image"].clip(max=200)
    again = Counting()
    lm.tl.embed(sdata, model=(again, ModelCard(name="other", dim=3)), store=tmp_path / "z.zarr")
    assert again.n > 0


def test_something_else_at_the_path_is_left_alone(sdata, tmp_path):
    zarr.open_group(tmp_path / "z.zarr", mode="w").attrs["mine"] = True
    with pytest.raises(ValueError, match="is not a store of embeddings"):
        embed(sdata, Counting(), store=tmp_path / "z.zarr")
    assert zarr.open_group(tmp_path / "z.zarr", mode="r").attrs["mine"]


def test_masks_follow_the_outlines_they_were_made_of(tmp_path):
    sdata = lm.datasets.phantom(n_cells=60)
    shapes = sdata["nucleus_boundaries"]
    lm.pp.extract_nuclei(sdata)
    small = embed(sdata, Counting(), mask="nucleus", store=tmp_path / "z.zarr").copy()
    shapes["geometry"] = shapes.geometry.scale(1.4, 1.4)
    lm.pp.extract_nuclei(sdata)
    large = embed(sdata, Counting(), mask="nucleus", store=tmp_path / "z.zarr")
    assert np.nanmedian(large - small) < 0, "more of the crop is nucleus, less is white"


def test_a_change_anywhere_in_the_image_is_another_content(tmp_path):
    from lemon_sc._objects.stores import image_digest
    from lemon_sc.io.image import array_image

    pixels = np.random.default_rng(0).integers(0, 256, (900, 1100, 3), dtype=np.uint8)
    before = image_digest(array_image(pixels))
    assert image_digest(array_image(pixels.copy())) == before
    for part in (np.s_[:225], np.s_[-225:], np.s_[:, :275], np.s_[:, -275:]):
        other = pixels.copy()
        other[part] = 240
        assert image_digest(array_image(other)) != before


def test_a_function_has_no_digest_and_says_so(sdata, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        embed(sdata, Counting(), store=tmp_path / "z.zarr")
    assert "knows its rows by that name alone" in caplog.text
