"""Pairs: what goes together, from arrays and from tables."""

import dataclasses

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from seal_units import tiny_encoder, tiny_recipe, units

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.train import Pairs, pairs_of, seal
from lemon_sc.train.seal_data import prepare_pairs


def test_patients_are_held_out_and_no_unit_is_lost():
    data = units(20, slide=[f"s{k % 4}" for k in range(20)], patient=[f"p{k % 4 // 2}" for k in range(20)])
    rest, held = data.hold_out("p1")
    assert set(rest.slide) == {"s0", "s1"}
    assert set(held.slide) == {"s2", "s3"}
    assert len(rest) + len(held) == 20
    np.testing.assert_array_equal(held.crops, data.crops[[k for k in range(20) if k % 4 > 1]])
    np.testing.assert_array_equal(held.counts.toarray(), data.counts.toarray()[[k for k in range(20) if k % 4 > 1]])
    assert len(data.hold_out(["s0", "s1"], by="slide")[1]) == 10
    with pytest.raises(ValueError, match=r"be among the patients, \['p0', 'p1'\], got \['p2'\]"):
        data.hold_out("p2")
    with pytest.raises(ValueError, match=r"leave some of the patients, \['a'\].*needs units of another patient"):
        units().hold_out("a")


def test_the_control_shuffles_within_slides():
    data = units(40)
    made = data.shuffled(rng=1)
    assert np.array_equal(made.crops, data.crops)
    before, after = data.counts.toarray(), made.counts.toarray()
    assert (before != after).any(axis=1).mean() > 0.8
    for slide in set(data.slide):
        at = data.slide == slide
        np.testing.assert_array_equal(np.sort(before[at], axis=0), np.sort(after[at], axis=0))


def test_units_of_the_control_get_another_unit_whole():
    """Ten units of three crops on each of two slides; counts name the unit that they are of."""
    unit = np.repeat(np.random.default_rng(0).permutation(20), 3)
    genes, slide = list("ABCDEFGHIJKLMNOPQRST"), np.where(unit < 10, "a", "b")
    data = units(60, unit=unit, slide=slide, counts=np.eye(20)[unit], genes=genes)
    for rng in range(5):
        giver = data.shuffled(rng=rng).counts.toarray().argmax(axis=1)
        given = {(int(u), int(g)) for u, g in zip(unit, giver, strict=True)}
        assert len(given) == 20, "all crops of a unit alike"
        assert sorted(g for _, g in given) == list(range(20)), "all counts are used once"
        assert all(u != g and (u < 10) == (g < 10) for u, g in given), "of another unit of the slide"
    for alone in (units(slide=["alone"] + ["b"] * 23), units(unit=np.zeros(24), slide="alone")):
        with pytest.raises(ValueError, match="two units or more on every slide.*got \"one on 'alone'\".*`take`"):
            alone.shuffled()


def test_the_record_knows_every_part():
    data = units(20, xy_um=np.arange(40.0).reshape(20, 2), touching_um=1.0)
    same = data.record()["sha256"]
    assert units(20, xy_um=np.arange(40.0).reshape(20, 2), touching_um=1.0).record()["sha256"] == same
    other = {
        "crops": data.crops[::-1], "counts": data.counts * 2, "slide": data.slide[::-1], "patient": "b",
        "xy_um": np.zeros((20, 2)), "touching_um": 2.0, "genes": data.genes[::-1], "unit": np.zeros(20),
    }  # fmt: skip
    for name, value in other.items():
        assert dataclasses.replace(data, **{name: value}).record()["sha256"] != same, name


BAD = {
    "crops without channels": (
        {"crops": np.zeros((24, 8, 8), np.uint8)},
        r"`crops` must have the shape \(n, S, S, 3\)",
    ),
    "too few counts": ({"counts": np.ones((3, 15))}, "`counts` must have a row per crop, 24, got 3"),
    "NaN": ({"counts": np.full((24, 15), np.nan)}, "values of `counts` are not finite"),
    "negative": ({"counts": np.full((24, 15), -1)}, "are negative"),
    "normalised": ({"counts": np.full((24, 15), 0.3)}, "no whole numbers"),
    "too few slides": ({"slide": ["a"]}, r"`slide` must hold one value per crop, \(24,\), got \(1,\)"),
    "a patient missing": ({"patient": [None] + ["a"] * 23}, "`patient` must be known for all crops, got '1 missing'"),
    "places without a rule": ({"xy_um": np.zeros((24, 2))}, "`xy_um` and `touching_um` go together"),
    "a lattice of triangles": ({"array": np.zeros((24, 2)), "lattice": "triangular"}, "`lattice` must be one of"),
    "half a row": ({"array": np.full((24, 2), 0.5), "lattice": "square"}, "hold whole numbers, row and column"),
    "nowhere": ({"xy_um": np.full((24, 2), np.nan), "touching_um": 1.0}, "`xy_um` must be finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_go_together(case):
    changes, match = BAD[case]
    with pytest.raises(ValueError, match=match):
        units(**changes)


def test_a_unit_lies_on_one_slide_and_has_counts():
    with pytest.raises(ValueError, match="Some unit of 'a' has crops on several slides"):
        prepare_pairs([units(unit=np.zeros(24))], n_genes=5, smoothed=True)
    with pytest.raises(ValueError, match="No unit of 'a' has counts of its 15 genes"):
        prepare_pairs([units(counts=np.zeros((24, 15)))], n_genes=5, smoothed=True)


def test_crops_of_another_pixel_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have crops of 0.25 um per px, as 'tiny' expects, got 0.5"):
        seal(tiny_recipe(), data=units(mpp=0.5), model=tiny_encoder(), out=tmp_path, device="cpu")


@pytest.fixture(scope="module")
def sdata():
    made = lm.datasets.phantom(n_cells=60)
    lm.pp.extract_nuclei(made, store="memory")
    return made


def test_pairs_of_a_table(sdata):
    adata = sdata["table"]
    ok = (adata.obs["nucleus_qc"] == "ok").to_numpy()
    made = pairs_of(sdata, licence="CC0-1.0")
    assert isinstance(made, Pairs)
    assert len(made) == ok.sum() < adata.n_obs
    np.testing.assert_array_equal(made.crops, adata.obsm["nuclei"][ok])
    genes = [g for g in adata.var_names if "Control" not in g and "Codeword" not in g and not g.startswith("BLANK")]
    assert set(made.genes) == {g.upper() for g in genes}
    at = made.genes.index("EPCAM")
    np.testing.assert_array_equal(made.counts.toarray()[:, at], adata[ok, "EPCAM"].X.toarray().ravel())
    assert (made.mpp, made.touching_um) == (0.25, 0.25 * made.crops.shape[1])
    xy = adata.obsm["nucleus_xy"][ok]
    np.testing.assert_allclose(np.linalg.norm(made.xy_um[0] - made.xy_um[5]) / np.linalg.norm(xy[0] - xy[5]),
                               adata.uns["lemon_sc"]["nuclei"]["mpp"][0], rtol=1e-3)  # fmt: skip
    np.testing.assert_array_equal(pairs_of(adata).crops, made.crops)


def test_crops_that_show_nothing_are_no_pairs():
    """Half of the image, or all of it, is white, which only its pixels tell."""
    made = lm.datasets.phantom(n_cells=60)
    lm.pp.extract_nuclei(made)
    image, table = made["he_image"]["scale0"]["image"], made["table"]
    pixels = image.data
    half = pixels.shape[2] // 2
    white = da.full_like(pixels, 255)
    image.data = da.concatenate([pixels[:, :, :half], white[:, :, half:]], axis=2)
    before, column = (table.obs["nucleus_qc"] == "ok").to_numpy(), table.obs["nucleus_qc"].copy()
    found = pairs_of(made)
    pd.testing.assert_series_equal(table.obs["nucleus_qc"], column)
    lm.tl.embed(made, model="morphometry")
    ok = (table.obs["nucleus_qc"] == "ok").to_numpy()
    assert 0 < len(found) == ok.sum() < before.sum()
    assert found.crops.min(axis=(1, 2, 3)).max() < 255
    np.testing.assert_allclose(found.xy_um, table.obsm["nucleus_xy"][ok] * table.uns["lemon_sc"]["nuclei"]["mpp"])
    np.testing.assert_array_equal(found.counts.sum(axis=1), pairs_of(made).counts.sum(axis=1))
    table.obs["nucleus_qc"] = column
    image.data = white
    with pytest.raises(ValueError, match=r"`data` must have rows with a usable crop, got \{.*'blank': \d+"):
        pairs_of(made)
    table.obs["nucleus_qc"] = "blank"
    with pytest.raises(ValueError, match=r"rows with a usable crop, got \{'blank': 60\}"):
        pairs_of(made)


def test_what_a_table_lacks(sdata):
    with pytest.raises(MissingKeyError, match="'slides' not found in `adata.obs`"):
        pairs_of(sdata, slide="slides")
    with pytest.raises(MissingKeyError, match="'raw' not found in `adata.layers`"):
        pairs_of(sdata, layer="raw")
    with pytest.raises(MissingKeyError, match="'array_row' not found in `adata.obs`"):
        pairs_of(sdata, lattice="hexagonal")
    with pytest.raises(MissingKeyError, match="extract_nuclei"):
        pairs_of(AnnData(np.ones((3, 2))))
