import numpy as np
import pytest

import lemon_sc as lm
from lemon_sc.crops.stain import REFERENCE, estimate_stains
from lemon_sc.crops.stain_references import REFERENCES
from lemon_sc.crops.store import open_store

RGB = (lambda crops: crops.mean(axis=(1, 2)) / 255, lm.models.ModelCard(name="mean-rgb", dim=3))


def sections(stains=("tnbc", "brecahad"), n_cells=120):
    """Sections of one tissue in different stains, crops in memory."""
    made = []
    for stain in stains:
        sdata = lm.datasets.phantom(n_cells=n_cells, stain=stain)
        lm.pp.extract_nuclei(sdata, store="memory")
        made.append(sdata)
    return made


@pytest.fixture(scope="module")
def stained():
    return sections()


@pytest.fixture
def two(stained):
    """Their tables, as copies: the images are not changed."""
    return [sdata["table"].copy() for sdata in stained]


def crops_of(adata):
    return adata.obsm["nuclei"][(adata.obs["nucleus_qc"] == "ok").to_numpy()]


def colour(adata):
    return crops_of(adata).reshape(-1, 3).mean(axis=0)


@pytest.mark.parametrize(("method", "left"), [("macenko", 1 / 3), ("randstainna", 0.75)])
def test_the_same_tissue_in_two_stains_becomes_alike(two, method, left):
    """Pixel by pixel: both sections show the same nuclei. Which pixels count as tissue differs with the stain."""
    before = np.abs(crops_of(two[0]).astype(float) - crops_of(two[1])).mean()
    for adata in two:
        lm.pp.normalize_stain(adata, method=method)
    after = np.abs(crops_of(two[0]).astype(float) - crops_of(two[1])).mean()
    assert after < before * left
    assert two[0].uns["lemon_sc"]["nuclei"]["stain"] == f"{method} to published"


def test_crops_take_the_stain_of_the_reference(two):
    lm.pp.normalize_stain(two[0], reference="xenium")
    shown = estimate_stains(crops_of(two[0]))
    cosine = (shown.vectors * REFERENCES["xenium"].vectors).sum(axis=0)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 8
    made = two[1].uns["lemon_sc"]["nuclei"]
    assert "stain" not in made
    fit = two[0].uns["lemon_sc"]["nuclei"]["stain_fit"]
    assert (fit["fitted_on"], fit["n_crops"]) == ("crops", len(crops_of(two[0])))
    np.testing.assert_array_equal(fit["reference"]["vectors"], REFERENCES["xenium"].vectors)


def test_another_slide_can_be_the_reference(two):
    distance = np.abs(colour(two[0]) - colour(two[1])).max()
    lm.pp.normalize_stain(two[0], reference=two[1])
    assert np.abs(colour(two[0]) - colour(two[1])).max() < distance / 3
    assert two[0].uns["lemon_sc"]["nuclei"]["stain"].startswith("macenko to slide ")


def test_few_crops_are_fitted_on_tissue_where_there_is_an_image(stained, caplog):
    sdata = stained[0]
    before = sdata["table"].copy()
    try:
        lm.pp.normalize_stain(sdata)
        fit = sdata["table"].uns["lemon_sc"]["nuclei"]["stain_fit"]
        assert (fit["fitted_on"], fit["n_crops"]) == ("tissue", 0)
        assert "The stain was estimated" not in caplog.text
    finally:
        sdata["table"] = before
    lm.pp.normalize_stain(before.copy())
    assert "The stain was estimated on" in caplog.text


def test_embeddings_before_and_after_do_not_mix(two, caplog):
    lm.tl.embed(two[0])
    words = two[0].obs["X_lemon_encoder"].dropna().unique().tolist()
    with caplog.at_level("WARNING", logger="lemon_sc"):
        lm.pp.normalize_stain(two[0])
    assert "out of date" in caplog.text
    before = two[0].obsm["X_lemon"].copy()
    lm.tl.embed(two[0])
    again = two[0].obs["X_lemon_encoder"].dropna().unique().tolist()
    assert again == [f"{words[0]}, stain macenko to published"]
    assert not np.allclose(before, two[0].obsm["X_lemon"], equal_nan=True)


def test_the_image_never_stands_in_for_normalised_crops(stained):
    sdata = stained[0]
    before = sdata["table"].copy()
    try:
        lm.pp.normalize_stain(sdata)
        with pytest.raises(ValueError, match=r"stain-normalised \(macenko to published\), 40 px at 0.25"):
            lm.tl.embed(sdata, model=(RGB[0], lm.models.ModelCard(name="wide", dim=3, input_px=60)))
    finally:
        sdata["table"] = before


def test_a_store_is_written_anew_with_the_same_crops_as_in_memory(stained, two, tmp_path):
    sdata = stained[0]
    before = sdata["table"].copy()
    try:
        lm.pp.extract_nuclei(sdata, store=tmp_path / "a.zarr")
        table = sdata["table"].copy()
    finally:
        sdata["table"] = before
    with pytest.raises(ValueError, match="`store` must be the path of a new store"):
        lm.pp.normalize_stain(table)
    with pytest.raises(ValueError, match="`store` must be the path of a new store"):
        lm.pp.normalize_stain(table, store=tmp_path / "a.zarr")
    lm.pp.normalize_stain(table, store=tmp_path / "b.zarr")
    lm.pp.normalize_stain(two[0])
    for adata in (table, two[0]):
        lm.tl.embed(adata, model=RGB)
    np.testing.assert_allclose(table.obsm["X_lemon"], two[0].obsm["X_lemon"], atol=1e-3)  # fitted in another order
    assert open_store(tmp_path / "a.zarr").attrs["id"] != open_store(tmp_path / "b.zarr").attrs["id"]
    assert table.uns["lemon_sc"]["embed"]["X_lemon"]["crops_from"] == "store"


def test_errors(two):
    with pytest.raises(ValueError, match="`method` must be one of"):
        lm.pp.normalize_stain(two[0], method="reinhard")
    with pytest.raises(ValueError, match="`reference` must be one of .*'published'.* Did you mean 'tcga'"):
        lm.pp.normalize_stain(two[0], reference="tgca")
    with pytest.raises(ValueError, match="`reference` must be None, the name of a reference, an AnnData"):
        lm.pp.normalize_stain(two[0], reference=REFERENCE)
    with pytest.raises(ValueError, match="`store` must be None for crops in memory"):
        lm.pp.normalize_stain(two[0], store="x.zarr")
    blank = two[0].copy()
    blank.obsm["nuclei"][:] = 240
    with pytest.raises(ValueError, match=r"No stain could be estimated \(macenko\) from the crops of this slide"):
        lm.pp.normalize_stain(blank)
    assert (blank.obsm["nuclei"] == 240).all()
    lm.pp.normalize_stain(two[0])
    with pytest.raises(ValueError, match=r"normalised before \(macenko to published\)"):
        lm.pp.normalize_stain(two[0])
    del two[1].obsm["nuclei"]
    with pytest.raises(ValueError, match="The table holds no crops, only where the nuclei lie"):
        lm.pp.normalize_stain(two[1])


def test_the_slide_is_harder_to_tell_afterwards(two):
    """The same tissue in two stains: all that tells the slides apart is the stain."""

    def identity():
        crops = [crops_of(adata) for adata in two]
        slide = np.repeat([0, 1], [len(c) for c in crops])
        return lm.metrics.group_identity(np.concatenate([RGB[0](c) for c in crops]), slide)

    before = identity()
    for adata in two:
        lm.pp.normalize_stain(adata)
    assert before.chance == 0.5
    assert before.balanced_accuracy > 0.9
    assert identity().balanced_accuracy < before.balanced_accuracy - 0.1
