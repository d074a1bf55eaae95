import numpy as np
import pytest
import torch

from lemon_sc.crops.on_device import DeviceCutter
from lemon_sc.crops.stream import stream_crops
from lemon_sc.crops.uncut import Uncut, stream_uncut
from lemon_sc.io.image import ArrayLevel, Image, array_image

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
SCALES = [(0.3639, 0.3639), (0.2738, 0.2125), (0.25, 0.25), (0.2125, 0.22), (0.137, 0.137)]


def noise_image(height=420, width=510, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def centres(n=150, *, seed=1):
    """All over the image; the windows of some end at its border, the kernel's tails beyond."""
    return np.random.default_rng(seed).uniform([20, 20], [490, 400], (n, 2))


def on_device(image, xy, device="cpu", *, at_once=None, size_px=40, mpp=(0.3, 0.28), **options):
    """All crops as a device cuts them, batch by batch of the stream."""
    out = np.zeros((len(xy), size_px, size_px, 3), dtype=np.uint8)
    cutter = None
    for index, windows in stream_uncut(image, xy, mpp=mpp, size_px=size_px, **options):
        cutter = cutter or DeviceCutter(windows.cut, torch.device(device))
        cutter.at_once = at_once or cutter.at_once
        out[index] = cutter(windows).cpu().numpy()
    return out


def keys_cubic(t):
    t = np.abs(t)
    return np.select([t <= 1, t < 2], [1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2], 0.0)


def by_definition(pixels, xy, mpp, size=40):
    """Oracle: every crop px as the kernel-weighted mean of the whole image, in float64, one nucleus at a time."""
    pad = 60
    padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge").astype(np.float64)
    crops = []
    for centre in xy:
        weights = []
        for axis in (0, 1):
            scale = 0.25 / mpp[axis]
            at = centre[axis] + (np.arange(size) - (size - 1) / 2) * scale
            px = np.arange(padded.shape[1 - axis]) - pad + 0.5
            w = keys_cubic((px - at[:, None]) / max(scale, 1.0))
            weights.append(w / w.sum(axis=1, keepdims=True))
        crops.append(np.einsum("oy,ix,yxc->oic", weights[1], weights[0], padded, optimize=True))
    return np.clip(crops, 0, 255)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mpp", SCALES)
def test_crops_are_the_definition_up_to_rounding(device, mpp):
    pixels, xy = noise_image(), centres(40)
    crops = on_device(array_image(pixels), xy, device, mpp=mpp)
    assert np.abs(by_definition(pixels, xy, mpp) - crops).max() < 1.0  # 0.5 of rounding, the rest of 1/512 px on noise


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size_px", [40, 61])
@pytest.mark.parametrize("mpp", SCALES)
def test_crops_are_those_of_the_compiled_kernel_to_the_bit(device, mpp, size_px):
    """Of white noise, and of black and white px, which make the largest sums."""
    pixels = noise_image()
    pixels[:, 250:] = np.where(pixels[:, 250:] > 127, 255, 0)
    image, xy = Image([ArrayLevel(pixels, chunk_px=64)], [(1.0, 1.0)]), centres()
    crops = on_device(image, xy, device, mpp=mpp, size_px=size_px, block_px=100)
    for index, expected in stream_crops(image, xy, mpp=mpp, size_px=size_px):
        np.testing.assert_array_equal(crops[index], expected)


@pytest.mark.parametrize("device", DEVICES)
def test_extremes_stay_extremes(device):
    """Kernels overshoot at edges: levels are clipped, not wrapped."""
    pixels = np.zeros((200, 200, 3), dtype=np.uint8)
    pixels[:, 100:] = 255
    crop = on_device(array_image(pixels), np.array([[100.0, 100.0]]), device, mpp=(0.6, 0.6))[0]
    assert (crop[:, :10] == 0).all()
    assert (crop[:, -10:] == 255).all()
    assert (np.diff(crop[0, 15:25, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("setting", [{"block_px": 37}, {"block_px": 150, "workers": 3}, {"at_once": 1}, {"at_once": 7}])
def test_crops_do_not_depend_on_how_they_are_cut(device, setting):
    image, xy = Image([ArrayLevel(noise_image(), chunk_px=32)], [(1.0, 1.0)]), centres()
    np.testing.assert_array_equal(on_device(image, xy, device, **setting), on_device(image, xy, device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 13, 150])
def test_crops_do_not_depend_on_the_batch(device, size):
    """Batches that hold sheets of several widths, and parts of sheets."""
    image, xy = Image([ArrayLevel(noise_image(), chunk_px=64)], [(1.0, 1.0)]), centres()
    _, several = zip(*stream_uncut(image, xy, mpp=(0.3, 0.28), block_px=150), strict=True)
    windows = Uncut.joined(several)
    assert len({sheet.pixels.shape[1] for sheet in windows.sheets}) > 2
    cutter = DeviceCutter(windows.cut, torch.device(device))
    whole = cutter(windows).cpu().numpy()
    parts = [cutter(windows[a : a + size]).cpu().numpy() for a in range(0, len(windows), size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(np.concatenate([cutter(each).cpu().numpy() for each in several]), whole)
