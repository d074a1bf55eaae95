"""From the pixels of an image to rows, crops cut on the device, with the network that is meant for them."""

import numpy as np
import pytest
import torch

from lemon_sc.crops.stream import stream_crops
from lemon_sc.crops.uncut import stream_uncut
from lemon_sc.embed import embed_batches
from lemon_sc.io.image import ArrayLevel, Image
from lemon_sc.models import ModelCard, as_encoder
from lemon_sc.models.vit import vit_s8_40

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
MPP, SIDE, NEIGHBOURS = (0.2738, 0.2738), 8, 5


@pytest.fixture(scope="module")
def tissue():
    """An image of nuclei of three stains in a jittered grid, their centres, and which stain each has."""
    rng = np.random.default_rng(0)
    at = (np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2) + 0.75) * 50
    xy = at + rng.uniform(-4, 4, at.shape)
    stain = rng.integers(0, 3, len(xy))
    colours = np.array([[70, 30, 120], [150, 90, 60], [40, 110, 110]])
    y, x = np.mgrid[: (SIDE + 1) * 50, : (SIDE + 1) * 50] + 0.5
    image = rng.normal([215, 170, 200], 10, (*x.shape, 3))
    for (cx, cy), kind in zip(xy, stain, strict=True):
        rx, ry = rng.uniform(8, 14, 2)
        there = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        image[there] = rng.normal(colours[kind], 12, (there.sum(), 3))
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return Image([ArrayLevel(pixels, chunk_px=128)], [(1.0, 1.0)]), xy, stain


@pytest.fixture(scope="module")
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = vit_s8_40().eval()
    stats = {"mean": (0.75, 0.6, 0.72), "std": (0.2, 0.2, 0.17)}
    return as_encoder(module, ModelCard(name="vit", dim=384, input_px=40, **stats))


@pytest.fixture(scope="module")
def exact(tissue, encoder):
    """timm's own forward pass in float32 of crops that the compiled kernel cut."""
    image, xy, _ = tissue
    z = np.zeros((len(xy), 384), np.float32)
    for index, crops in stream_crops(image, xy, mpp=MPP):
        z[index] = encoder.encode(crops)
    return z


def rows(tissue, encoder, device, **options):
    image, xy, _ = tissue
    windows = stream_uncut(image, xy, mpp=MPP, block_px=128)
    return embed_batches(windows, encoder, n=len(xy), device=device, progress=False, **options)


def nearest(z):
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -2)
    return np.argsort(-near, axis=1)[:, :NEIGHBOURS]


@pytest.mark.parametrize("device", DEVICES)
def test_float32_is_timms(tissue, encoder, exact, device):
    np.testing.assert_allclose(rows(tissue, encoder, device, dtype="fp32"), exact, atol=2e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_points_the_same_way(tissue, encoder, exact, device):
    z = rows(tissue, encoder, device, dtype="bf16")
    cosine = (z * exact).sum(axis=1) / np.linalg.norm(z, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(z, exact)


@pytest.mark.parametrize("device", DEVICES)
def test_neighbours_stay(tissue, encoder, exact, device):
    """The planted stains are found, and as well as in float32; the order within a stain is a matter of rounding."""
    stain = tissue[2]
    found = nearest(rows(tissue, encoder, device, dtype="bf16"))
    purity = (stain[found] == stain[:, None]).mean()
    assert purity > 0.95
    assert abs(purity - (stain[nearest(exact)] == stain[:, None]).mean()) < 0.02
    same = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, nearest(exact), strict=True)]) / NEIGHBOURS
    assert same > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("batch_size", [4, 16])
def test_a_gpu_gives_the_same_with_and_without_a_graph(tissue, encoder, exact, monkeypatch, batch_size):
    """Small batches, so that both lanes record and replay."""
    monkeypatch.setattr("lemon_sc.embed.graphs.STEADY", 2)
    replayed = rows(tissue, encoder, "cuda", dtype="bf16", batch_size=batch_size)
    monkeypatch.setattr("lemon_sc.embed.graphs.STEADY", 10**9)
    eager = rows(tissue, encoder, "cuda", dtype="bf16", batch_size=batch_size)
    np.testing.assert_allclose(replayed, eager, atol=0.05)
    np.testing.assert_allclose(replayed, exact, atol=0.2)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_several_gpus_share_the_work(tissue, encoder, exact):
    every = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    z = rows(tissue, encoder, every, dtype="fp32", batch_size=4)
    np.testing.assert_allclose(z, exact, atol=2e-4)
