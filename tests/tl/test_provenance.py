"""Embeddings that were made differently do not mix, and what depends on a changed step says that it is out of date."""

import json
import logging

import anndata as ad
import numpy as np
import pytest
import spatialdata as sd
import torch

import lemon_sc as lm
from lemon_sc.models import ModelCard


def colours(crops):
    return crops.reshape(len(crops), -1, 3).mean(axis=1) / 255


RGB = (colours, ModelCard(name="mean-rgb", dim=3))
BGR = (lambda crops: colours(crops)[:, ::-1], ModelCard(name="mean-bgr", dim=3))


def slide(sdata, name, model=RGB):
    """The table of a scene as one slide of a cohort, embedded."""
    lm.tl.embed(sdata, model=model)
    table = sdata["table"].copy()
    table.obs["slide"] = name
    table.obs_names = [f"{name}-{i}" for i in range(table.n_obs)]
    return table


@pytest.fixture
def sdata(scene):
    sdata, _ = scene
    rng = np.random.default_rng(0)
    sdata["table"].X = rng.poisson(3.0, sdata["table"].shape).astype(np.float32)
    lm.pp.extract_nuclei(sdata)
    return sdata


VERBS = {
    "probe": lambda cohort: lm.tl.probe(cohort, groups="slide"),
    "morans_i": lambda cohort: lm.tl.morans_i(cohort),
    "nuclei": lambda cohort: lm.pl.nuclei(cohort, dim=0),
}


@pytest.mark.parametrize("verb", VERBS)
def test_slides_of_different_models_do_not_mix(sdata, verb):
    cohort = ad.concat([slide(sdata, "a", RGB), slide(sdata, "b", BGR)])
    n = cohort.n_obs // 2
    with pytest.raises(ValueError, match=rf"cannot be compared .*{n} cells: mean-[rb].*{n} cells: mean-"):
        VERBS[verb](cohort)
    assert not cohort.uns


@pytest.mark.parametrize("mask", ["nucleus", "ring"])
def test_slides_cut_differently_do_not_mix(sdata, mask):
    plain = slide(sdata, "a")
    lm.pp.extract_nuclei(sdata, mask=mask)
    cohort = ad.concat([plain, slide(sdata, "b")])
    with pytest.raises(ValueError, match=f"mean-rgb, 40 px at 0.25 um; .*mask {mask}"):
        lm.tl.probe(cohort, groups="slide")


def test_slides_of_one_model_mix(sdata):
    cohort = ad.concat([slide(sdata, "a"), slide(sdata, "b")])
    lm.tl.morans_i(cohort)
    assert cohort.uns["moranI"]["I"].notna().any()


def test_rows_of_one_model_may_be_selected_from_a_mixed_cohort(sdata):
    cohort = ad.concat([slide(sdata, "a", RGB), slide(sdata, "b", BGR)])
    one = cohort[cohort.obs["slide"] == "b"].copy()
    lm.tl.morans_i(one)
    assert one.uns["moranI"]["I"].notna().any()


def test_words_are_missing_where_there_is_no_embedding(sdata):
    sdata["table"].obs.loc[sdata["table"].obs_names[:2], "nucleus_qc"] = "no_nucleus"
    lm.tl.embed(sdata, model=RGB)
    words = sdata["table"].obs["X_lemon_encoder"]
    assert words[:2].isna().all()
    assert set(words[2:]) == {"mean-rgb, 40 px at 0.25 um"}


def test_what_hangs_on_an_extraction_is_out_of_date_after_another_one(sdata, caplog):
    table = sdata["table"]
    lm.tl.embed(sdata, model=RGB)
    lm.tl.morans_i(table)
    with caplog.at_level(logging.WARNING):
        lm.pp.extract_nuclei(sdata, mask="nucleus")
    assert "mask: '' -> 'nucleus'" in caplog.text
    for verb in VERBS.values():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            if verb is not VERBS["probe"]:
                verb(sdata if verb is VERBS["nuclei"] else table)
                assert "is out of date" in caplog.text


def test_plots_say_that_their_results_are_out_of_date(sdata, caplog):
    table = sdata["table"]
    lm.tl.embed(sdata, model=RGB)
    lm.tl.morans_i(table)
    lm.tl.embed(sdata, model=BGR)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        lm.pl.morans_i(table)
    assert "model: 'mean-rgb' -> 'mean-bgr'" in caplog.text


def test_the_same_extraction_again_leaves_all_in_place(sdata, caplog):
    lm.tl.embed(sdata, model=RGB)
    with caplog.at_level(logging.WARNING):
        lm.pp.extract_nuclei(sdata)
        lm.tl.morans_i(sdata["table"])
    assert "out of date" not in caplog.text


def test_all_of_it_survives_a_file(sdata, tmp_path, caplog):
    lm.tl.embed(sdata, model=RGB)
    lm.pp.extract_nuclei(sdata, mask="nucleus")
    sdata["table"].write_h5ad(tmp_path / "a.h5ad")
    table = ad.read_h5ad(tmp_path / "a.h5ad")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        lm.tl.morans_i(table)
    assert "mask: '' -> 'nucleus'" in caplog.text


def test_networks_of_one_name_and_other_weights_do_not_mix(sdata):
    card = ModelCard(name="net", dim=3)
    nets = [torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3)) for _ in "ab"]
    cohort = ad.concat([slide(sdata, name, (net, card)) for name, net in zip("ab", nets, strict=True)])
    with pytest.raises(ValueError, match="cannot be compared"):
        lm.tl.probe(cohort, groups="slide")
    again = ad.concat([slide(sdata, name, (nets[0], card)) for name in "ab"])
    lm.tl.morans_i(again)
    assert again.uns["moranI"]["I"].notna().any()


def test_training_on_is_another_embedding(sdata):
    net, card = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4800, 3)), ModelCard(name="net", dim=3)
    lm.tl.embed(sdata, model=(net, card))
    lm.tl.morans_i(sdata["table"])
    torch.nn.init.normal_(net[1].weight)
    lm.tl.embed(sdata, model=(net, card))
    assert "weights_sha256" in sdata["table"].uns["lemon_sc"]["moranI"]["moranI"]["stale"]


@pytest.mark.parametrize("what", ["outlines", "image"])
def test_other_nuclei_or_another_image_under_the_same_name_are_other_content(sdata, what):
    lm.tl.embed(sdata, model=RGB)
    if what == "outlines":
        nuclei = sdata["nucleus_boundaries"]
        nuclei["geometry"] = nuclei.geometry.translate(0.3, 0.2)
    else:
        sdata.images["he_image"] = (sdata["he_image"] // 2).assign_attrs(sdata["he_image"].attrs)
    lm.pp.extract_nuclei(sdata)
    assert "content" in sdata["table"].uns["lemon_sc"]["embed"]["X_lemon"]["stale"]


@pytest.mark.parametrize("uns_merge", ["first", "same", "unique"])
def test_the_record_of_one_slide_does_not_stand_for_another(sdata, uns_merge):
    lm.pp.extract_nuclei(sdata, store="memory")
    one = sdata["table"].copy()
    lm.pp.extract_nuclei(sdata, store="memory", mask="nucleus")
    cohort = ad.concat([one, sdata["table"]], uns_merge=uns_merge, index_unique="-")
    with pytest.raises(ValueError, match="several extractions"):
        lm.tl.embed(cohort, model=RGB)


@pytest.mark.parametrize("uns_merge", [None, "first", "same"])
def test_crops_of_different_slides_do_not_overlap(sdata, uns_merge):
    """Slides whose nuclei lie at the same px, in images of their own."""
    one = slide(sdata, "a")
    sdata.images["he_image"] = (sdata["he_image"] // 2).assign_attrs(sdata["he_image"].attrs)
    lm.pp.extract_nuclei(sdata)
    cohort = ad.concat([one, slide(sdata, "b")], uns_merge=uns_merge)
    lm.tl.probe(cohort, groups="slide")
    assert cohort.uns["lemon_sc"]["probe"]["probe"]["n_overlapping"] == 0


def test_what_was_seen_in_the_pixels_holds_after_the_same_extraction(sdata):
    table = sdata["table"]
    lm.tl.embed(sdata, model=RGB)
    table.obs.loc[table.obs_names[:3], "nucleus_qc"] = "pen"
    lm.pp.extract_nuclei(sdata)
    assert (table.obs["nucleus_qc"][:3] == "pen").all()
    lm.pp.extract_nuclei(sdata, multiple="mean")
    assert (table.obs["nucleus_qc"][:3] != "pen").all()


def run_every_step(sdata):
    """Extraction, embedding, probe, both Moran's I on a scene."""
    table = sdata["table"]
    table.obs["slide"] = np.resize(["a", "b", "c"], table.n_obs)
    lm.tl.embed(sdata, model=RGB)
    lm.tl.probe(table, groups="slide")
    lm.tl.morans_i(table)
    lm.tl.local_morans_i(table, gene=table.var_names[0], key_added="local")


def test_records_are_json_and_come_through_files(sdata, tmp_path):
    run_every_step(sdata)
    steps = lm.tl.provenance(sdata)
    assert {step["step"] for step in steps} >= {"nuclei", "embed", "probe", "moranI", "local_moranI"}
    assert json.loads(json.dumps(steps, allow_nan=False)) == steps
    sdata["table"].write_h5ad(tmp_path / "table.h5ad")
    assert lm.tl.provenance(ad.read_h5ad(tmp_path / "table.h5ad")) == steps
    sdata.write(tmp_path / "scene.zarr")
    assert lm.tl.provenance(sd.read_zarr(tmp_path / "scene.zarr")) == steps


def test_records_stand_after_what_they_were_made_from(sdata):
    run_every_step(sdata)
    home = sdata["table"].uns["lemon_sc"]
    sdata["table"].uns["lemon_sc"] = {name: home[name] for name in sorted(home, reverse=True)}
    seen = {""}
    for step in lm.tl.provenance(sdata):
        assert step["made_from"] in seen
        seen.add(step["id"])
    assert {"version", "mpp", "affine", "image_key"} <= set(
        next(s for s in lm.tl.provenance(sdata) if s["step"] == "nuclei")
    )


def test_a_record_tells_other_results_apart_and_says_what_is_stale(sdata):
    run_every_step(sdata)
    before = {step["step"]: step for step in lm.tl.provenance(sdata)}
    table = sdata["table"].uns["lemon_sc"]["probe"]["probe"]["scores"]
    table.iloc[0, table.columns.get_loc("pcc")] += 0.25
    lm.pp.extract_nuclei(sdata, mask="nucleus")
    after = {step["step"]: step for step in lm.tl.provenance(sdata)}
    assert "mask" in after["embed"]["stale"]
    assert "stale" not in before["embed"]
    assert after["probe"]["scores"]["sha256"] != before["probe"]["scores"]["sha256"]


def test_provenance_of_nothing_and_of_what_is_no_table():
    assert lm.tl.provenance(ad.AnnData(np.zeros((2, 2), np.float32))) == []
    with pytest.raises(TypeError, match="must be an AnnData or a SpatialData"):
        lm.tl.provenance({})
