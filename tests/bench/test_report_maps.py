from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import lemon_sc as lm
from lemon_sc.bench import report_maps
from lemon_sc.io.image import array_image

N, SIDE = 60, 60


@pytest.fixture
def labelled():
    """Red and blue nuclei on a lattice, the last without a whole window; each colour expresses a gene of its own."""
    pixels = np.full((8 * SIDE, 8 * SIDE, 3), 200, np.uint8)
    rng = np.random.default_rng(0)
    red = np.arange(N) % 2 == 0
    col, row = np.arange(N) % 8, np.arange(N) // 8
    for k in range(N):
        patch = pixels[row[k] * SIDE : (row[k] + 1) * SIDE, col[k] * SIDE : (col[k] + 1) * SIDE]
        patch[:] = [180, 40, 60] if red[k] else [60, 40, 180]
        patch += rng.integers(0, 20, patch.shape, dtype=np.uint8)
    nuclei = pd.DataFrame({"image": "a", "x": col * SIDE + SIDE / 2, "y": row * SIDE + SIDE / 2, "slide": "s"})
    nuclei["label"] = np.where(red, "red", "blue")
    nuclei.loc[N - 1, "x"] = 3.0
    counts = np.stack([np.where(red, 20, 0), np.where(red, 0, 20), np.ones(N)], axis=1)
    return lm.bench.Labelled(
        nuclei=nuclei,
        open=lambda _: array_image(pixels),
        mpp={"a": (0.25, 0.25)},
        expression=sparse.csr_matrix(counts),
        genes=("EPCAM", "CD3E", "ACTB"),
    )


def mean_color(crops):
    return crops.mean(axis=(1, 2), dtype=np.float32)


@pytest.fixture
def adata(labelled):
    card = lm.models.ModelCard(name="mean_color", dim=3)
    return report_maps.mapped(labelled, lm.models.as_encoder(mean_color, card), window_px=40)


def test_nuclei_keep_their_crop_embedding_label_and_expression(adata, labelled):
    assert list(adata.obs_names) == [f"n{k}" for k in range(N - 1)]  # the last has no whole window
    red = labelled.nuclei["label"][: N - 1] == "red"
    assert (adata.obs["label"] == "red").to_numpy().tolist() == red.tolist()
    crops = adata.obsm["nuclei"]
    assert ((crops[:, 20, 20, 0] > crops[:, 20, 20, 2]) == red).all()
    np.testing.assert_allclose(adata.obsm["X_lemon"], mean_color(crops))
    assert (np.asarray(adata[:, "EPCAM"].X.todense()).ravel() == np.where(red, 20, 0)).all()


def test_what_looks_alike_lies_together(adata):
    xy, red = adata.obsm["X_tsne"], (adata.obs["label"] == "red").to_numpy()
    away = np.linalg.norm(xy[:, None] - xy[None], axis=2) + np.diag(np.full(len(xy), np.inf))
    assert (red[away.argmin(axis=1)] == red).all()


def test_a_map_is_the_same_each_time_and_small_sets_have_one():
    z = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    first = report_maps.tsne(z)
    assert first.shape == (6, 2)
    np.testing.assert_array_equal(first, report_maps.tsne(z))


def test_markers_are_those_that_are_expressed_and_smooth_over_the_map(adata):
    assert report_maps.with_moran(adata) == ["EPCAM", "CD3E"]
    moran = adata.uns["moranI"]["I"]
    assert moran["EPCAM"] > 0.9
    np.testing.assert_allclose(adata.layers["lognorm"].expm1().sum(axis=1), 1e4)


def test_pictures_of_data_that_are_there(labelled, monkeypatch, tmp_path, caplog):
    def only_the_run(name):
        made = lm.bench.task(name)
        return replace(made, adapter=lambda folder: labelled) if name == "xenium_markers" else made

    monkeypatch.setattr(report_maps, "task", only_the_run)
    found = {picture.name: picture.caption for picture in report_maps.pictures(tmp_path, model="histogram")}
    plt.close("all")
    assert list(found) == ["map_xenium", "markers_xenium", "moran_xenium"]
    assert all("CC BY 4.0" in caption for caption in found.values())
    assert "The 59 usable nuclei" in found["map_xenium"]
    assert "No map of amibr_all" in caplog.text
