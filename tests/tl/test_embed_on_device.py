"""Crops that the encoder's device cuts: nothing about a table may tell."""

import dask.array as da
import numpy as np
import pytest
import torch
from scenes import blob_scene, place

import lemon_sc as lm
from lemon_sc.crops.on_device import DeviceCutter
from lemon_sc.models import ModelCard

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


def tiny_vit(input_px=40, mpp=0.25):
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = VisionTransformer(
            img_size=input_px, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool="token"
        )
    return module.eval(), ModelCard(name="tiny", dim=32, input_px=input_px, mpp=mpp)


@pytest.fixture
def scene():
    """Nuclei at the border, blank ones, and blurred ones."""
    sdata, xy = blob_scene(place(degrees=20), side=6, chunks=(3, 100, 90))
    image = sdata["he_image"]
    pixels = image.compute().to_numpy().copy()
    for k, (x, y) in enumerate(xy[:6].astype(int)):
        there = pixels[:, y - 28 : y + 28, x - 28 : x + 28]
        there[:] = 250 if k % 2 else there.mean(axis=(1, 2), keepdims=True) - 60
    width = int(np.sort(xy[:, 0])[-3]) + 5
    sdata.images["he_image"] = image.copy(data=da.from_array(pixels, chunks=(3, 100, 90))).isel(x=slice(0, width))
    lm.pp.extract_nuclei(sdata)
    return sdata


def embedded(sdata, monkeypatch, *, cuts, **options):
    """What the table holds after an embedding."""
    table, batches, cut = sdata["table"], [], DeviceCutter.__call__

    def note(cutter, windows):
        batches.append(len(windows))
        return cut(cutter, windows)

    qc = table.obs["nucleus_qc"].copy()
    with monkeypatch.context() as patch:
        patch.setattr("lemon_sc.tl._embed_table.cuts_crops", lambda *_: cuts)
        patch.setattr(DeviceCutter, "__call__", note)
        lm.tl.embed(sdata, dtype="fp32", **{"model": tiny_vit(), **options})
    assert bool(batches) == cuts
    found = table.obsm["X_lemon"].copy(), table.obs["nucleus_qc"].tolist()
    table.obs["nucleus_qc"] = qc  # as it was
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mask", [None, "nucleus", "ring"])
@pytest.mark.parametrize("kept", [False, True])
def test_where_crops_are_cut_changes_nothing(scene, monkeypatch, tmp_path, device, mask, kept):
    expected, verdicts = embedded(scene, monkeypatch, cuts=False, mask=mask, device="cpu")
    store = tmp_path / "rows.zarr" if kept else None
    rows, found = embedded(scene, monkeypatch, cuts=True, mask=mask, device=device, batch_size=7, store=store)
    assert found == verdicts
    assert {"ok", "border", "blank"} <= set(found)
    np.testing.assert_allclose(rows, expected, atol=2e-5 if device == "cpu" else 2e-3)
    assert np.isnan(rows).any(axis=1).sum() == sum(verdict != "ok" for verdict in found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [(56, 0.25), (24, 0.25), (40, 0.5)])
def test_windows_that_are_judged_by_other_crops(scene, monkeypatch, device, window):
    """Wider ones by their centre; smaller ones, and those of another scale, by crops cut for that."""
    model = tiny_vit(*window)
    expected, verdicts = embedded(scene, monkeypatch, cuts=False, model=model, device="cpu")
    rows, found = embedded(scene, monkeypatch, cuts=True, model=model, device=device)
    assert found == verdicts
    assert "blank" in found
    np.testing.assert_allclose(rows, expected, atol=2e-5 if device == "cpu" else 2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_cuts_by_itself_and_records_it(scene):
    lm.tl.embed(scene, model=tiny_vit(), device="cuda", key_added="gpu")
    lm.tl.embed(scene, model=tiny_vit(), device="cpu", dtype="fp32", key_added="cpu")
    table = scene["table"]
    ok = (table.obs["nucleus_qc"] == "ok").to_numpy()
    a, b = table.obsm["gpu"][ok], table.obsm["cpu"][ok]
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999
    assert table.uns["lemon_sc"]["embed"]["gpu"]["device"].startswith("cuda:0")
