"""Results of one verb in ``obsm`` do not take the place of another's."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import lemon_sc as lm
from lemon_sc.models import ModelCard
from lemon_sc.tl._slides import lean

MEAN = (lambda crops: crops.mean(axis=(1, 2)), ModelCard(name="mean", dim=3))


@pytest.fixture(scope="module")
def made():
    """Spots with pooled nuclei as ``X_lemon``, and patches that wait to be embedded."""
    sdata = lm.datasets.phantom(n_cells=200, spots=20.0)
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata, model=MEAN)
    lm.tl.pool_nuclei(sdata)
    lm.pp.extract_patches(sdata, table_key="spots_table", size_um=28.0)
    return sdata


@pytest.fixture
def pooled(made):
    """The same, to be written to."""
    tables = {name: table.copy() for name, table in made.tables.items()}
    return sd.SpatialData(images=dict(made.images), shapes=dict(made.shapes), tables=tables, attrs=made.attrs)


@pytest.mark.parametrize("name", ["X_lemon", "X_lemon_sd"])
def test_pooled_nuclei_are_not_overwritten_by_an_embedding(pooled, name):
    table = pooled["spots_table"]
    before = {key: np.asarray(value).copy() for key, value in table.obsm.items()}
    words = table.obs["X_lemon_encoder"].copy()
    with pytest.raises(
        ValueError, match=rf"`key_added` must not .*'{name}' belongs to `uns\[\"lemon_sc\"\]\[\"pool\"\]"
    ):
        lm.tl.embed(pooled, model=MEAN, table_key="spots_table", key_added=name)
    with pytest.raises(ExceptionGroup, match="slide0.*give the new result another name"):
        lm.tl.embed([pooled], model=MEAN, table_key="spots_table", key_added=name)
    with pytest.raises(ValueError, match="give the new result another name"):
        lean(pooled, "spots_table", key_added=name)  # what a cluster is sent
    assert table.obsm.keys() == before.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(table.obsm[key], value)
    assert table.obs["X_lemon_encoder"].equals(words)


def test_another_name_keeps_both_and_each_replaces_its_own(pooled):
    lm.tl.embed(pooled, model=MEAN, table_key="spots_table", key_added="X_patch")
    lm.tl.embed(pooled, model=MEAN, table_key="spots_table", key_added="X_patch")
    lm.tl.pool_nuclei(pooled)
    records = pooled["spots_table"].uns["lemon_sc"]
    assert set(records["embed"]) == {"X_patch"}
    assert set(records["pool"]) == {"X_lemon"}


def test_what_was_deleted_leaves_its_name_free(pooled):
    table = pooled["spots_table"]
    del table.obsm["X_lemon"], table.obsm["X_lemon_sd"]
    lm.tl.embed(pooled, model=MEAN, table_key="spots_table")
    assert table.obsm["X_lemon"].shape == (table.n_obs, 3)


def test_stores_on_disk_keep_theirs(tmp_path):
    table = ad.AnnData(np.ones((2, 1), np.float32), obsm={"X_lemon": np.ones((2, 3))})
    table.uns["lemon_sc"] = {"pool": {"X_lemon": {"id": "0"}}}
    sd.SpatialData(tables={"table": table}).write(tmp_path / "s.zarr")
    with pytest.raises(ExceptionGroup, match="give the new result another name"):
        lm.tl.embed([tmp_path / "s.zarr"], model=MEAN)


def test_predictions_do_not_take_the_place_of_embeddings():
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(60)]
    adata = ad.AnnData(
        rng.poisson(3, (60, 2)).astype(np.float32), obs=pd.DataFrame({"slide": list("abc") * 20}, index=names)
    )
    adata.obsm["X_lemon"] = rng.normal(size=(60, 4)).astype(np.float32)
    adata.obsm["share"] = pd.DataFrame(rng.random((60, 2)), index=names, columns=["T", "B"])
    adata.obsm["X_tiny"] = adata.obsm["X_lemon"].copy()
    adata.uns["lemon_sc"] = {"embed": {"X_lemon": {}, "X_tiny": {}}}
    with pytest.raises(ValueError, match="`key_added` must not .*'X_tiny' belongs to"):
        lm.tl.decompose(adata, groups="slide", truth="share", key_added="X_tiny")
    with pytest.raises(ValueError, match="`predictions` must not .*'X_tiny' belongs to"):
        lm.tl.probe(adata, groups="slide", predictions="X_tiny")
    np.testing.assert_array_equal(adata.obsm["X_tiny"], adata.obsm["X_lemon"])


def test_arrays_of_others_are_replaced_with_a_word(pooled, caplog):
    table = pooled["table"]
    table.obsm["X_pca"] = np.ones((table.n_obs, 2))
    with caplog.at_level(logging.WARNING, "lemon_sc"):
        lm.tl.embed(pooled, model=MEAN, key_added="X_pca")
        assert "adata.obsm['X_pca'] held something that `lm.tl.embed` had not made" in caplog.text
        caplog.clear()
        del table.uns["lemon_sc"]["embed"]  # as after `anndata.concat`
        lm.tl.embed(pooled, model=MEAN, key_added="X_pca")
        assert "had not made" not in caplog.text
