"""Embeddings that were made differently do not mix, and what depends on a changed step says that it is out of date."""

import logging

import anndata as ad
import numpy as np
import pytest

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
