import anndata as ad
import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.crops.stain import estimate_stains, normalize_stains
from lemon_sc.crops.stain_references import REFERENCES
from lemon_sc.pp._filter_nuclei import with_table

RGB = (lambda crops: crops.mean(axis=(1, 2)) / 255, lm.models.ModelCard(name="mean-rgb", dim=3))


def grey_shape(crops):
    """Where the darkest part lies: what no stain changes."""
    grey = crops.mean(axis=3)
    dark = (grey < np.median(grey, axis=(1, 2), keepdims=True)).astype(np.float64)
    return (
        np.stack([dark.mean(axis=axis).argmax(axis=1) for axis in (1, 2)], axis=1)
        + 0.1 * dark[:, 18:22, 18:22].mean(axis=(1, 2))[:, None]
    )


SHAPE = (grey_shape, lm.models.ModelCard(name="shape", dim=2))


@pytest.fixture(scope="module")
def section():
    sdata = lm.datasets.phantom(n_cells=160)
    lm.pp.extract_nuclei(sdata, store="memory")
    lm.tl.embed(sdata, model=RGB, key_added="rgb")
    lm.tl.embed(sdata, model=SHAPE, key_added="shape")
    return sdata


@pytest.fixture
def adata(section):
    return section["table"].copy()


def stored(adata, key="stain_robustness"):
    return adata.uns["lemon_sc"]["stain_robustness"][key]


def test_own_stains_move_little_and_other_stains_move_colour_much(adata, tmp_path):
    lm.tl.stain_robustness(adata, use_rep="rgb", model=RGB)
    made = stored(adata)
    table = made["references"]
    assert list(table.index) == [*REFERENCES, "own"]
    assert table.loc["own", "rmse"] < 0.35
    assert table.drop(index="own")["rmse"].min() > 2 * table.loc["own", "rmse"]
    assert table.loc["own", "cosine"] > 0.95
    assert made["rmse"] == pytest.approx(table["rmse"].iloc[:-1].mean())
    n = int((adata.obs["nucleus_qc"] == "ok").sum())
    assert (made["n_cells"], made["k"], made["chance"]) == (n, n // 10, (n // 10) / (n - 1))
    assert "score" not in made
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = stored(ad.read_h5ad(tmp_path / "a.h5ad"))
    np.testing.assert_allclose(again["references"]["rmse"], table["rmse"])


def test_an_embedding_of_shape_moves_less_than_one_of_colour(adata):
    for name, model in {"rgb": RGB, "shape": SHAPE}.items():
        lm.tl.stain_robustness(adata, use_rep=name, model=model, references=["tnbc", "xenium"], key_added=name)
    assert stored(adata, "shape")["rmse"] < stored(adata, "rgb")["rmse"] / 2
    assert stored(adata, "shape")["cosine"] > stored(adata, "rgb")["cosine"]


def test_numbers_are_those_of_the_crops_by_hand(adata):
    ok = (adata.obs["nucleus_qc"] == "ok").to_numpy()
    crops = adata.obsm["nuclei"][ok]
    shown = normalize_stains(crops, estimate_stains(crops), reference=REFERENCES["tcga"])
    scaler = StandardScaler().fit(adata.obsm["rgb"][ok])
    a, b = scaler.transform(adata.obsm["rgb"][ok]), scaler.transform(RGB[0](shown))
    lm.tl.stain_robustness(adata, use_rep="rgb", model=RGB, references=["tcga"])
    assert stored(adata)["references"].loc["tcga", "rmse"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), rel=1e-4)
    assert (stored(adata)["fitted_on"], stored(adata)["n_crops_fitted"]) == ("crops", ok.sum())


def test_an_image_gives_the_same_crops_and_its_tissue_the_stains(section, adata):
    table = adata.copy()
    del table.obsm["nuclei"]
    sdata = with_table(section, table, "table")
    lm.tl.stain_robustness(sdata, use_rep="rgb", model=RGB, references=["tcga"], n_cells=60)
    made = stored(sdata["table"])
    assert (made["fitted_on"], made["n_cells"]) == ("tissue", 60)
    assert made["references"].loc["own", "rmse"] < 0.35


@pytest.mark.parametrize(("target", "metric"), [("truth_type", "balanced_accuracy"), (["EPCAM", "CD3E"], "pcc")])
def test_probe_under_shift(adata, target, metric):
    lm.tl.stain_robustness(adata, use_rep="rgb", model=RGB, references=["tnbc"], target=target)
    made = stored(adata)
    assert made["score_metric"] == metric
    assert made["references"].loc["own", "score"] == pytest.approx(made["score_original"], abs=0.2)
    assert made["score"] == made["references"].loc["tnbc", "score"]
    assert np.isfinite(made["score"])
    if metric == "balanced_accuracy":  # a correlation may survive a shift of all colours, a boundary does not
        assert made["score"] < made["score_original"] - 0.1


def test_slides_of_ones_own_are_references(adata):
    other = adata.copy()
    lm.tl.stain_robustness(adata, use_rep="rgb", model=RGB, references={"itself": other})
    table = stored(adata)["references"]
    assert table.loc["itself"].tolist() == table.loc["own"].tolist()


def test_the_model_of_the_record_is_loaded_and_others_are_refused(adata):
    lm.tl.embed(adata, model="morphometry")
    lm.tl.stain_robustness(adata, references=["tcga"], n_cells=40)
    assert stored(adata)["model"] == "morphometry"
    with pytest.raises(ValueError, match="The model 'mean-rgb' of the embedding cannot be loaded by its name"):
        lm.tl.stain_robustness(adata, use_rep="rgb")
    with pytest.raises(ValueError, match="not the one that made the embedding .*model 'mean-rgb', not 'shape'"):
        lm.tl.stain_robustness(adata, use_rep="rgb", model=SHAPE)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"references": "tnbc"}, "`references` must be a list of names, or a dict of slides"),
        ({"references": ["tbnc"]}, "`reference` must be one of .*Did you mean 'tnbc'"),
        ({"references": {"own": None}}, "`references` must not hold the name 'own'"),
        ({"n_cells": 5}, "`n_cells` must be an int >= 20, got 5"),
    ],
)
def test_errors(adata, options, match):
    with pytest.raises(ValueError, match=match):
        lm.tl.stain_robustness(adata, use_rep="rgb", model=RGB, **options)
    with pytest.raises(MissingKeyError, match=r"Run `lm.tl.embed` first\."):
        lm.tl.stain_robustness(adata, use_rep="X_none")
