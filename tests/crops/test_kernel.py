"""The compiled kernel against the same sums in plain numpy: exact, whatever the processor."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lemon_sc.crops.border import Border
from lemon_sc.crops.plan import grouped, numbers
from lemon_sc.crops.resample import resampler
from lemon_sc.crops.stream import plan_blocks
from lemon_sc.crops.tables import COLUMN_BITS, WEIGHT_BITS, axis_table, cubic
from lemon_sc.geometry.windows import PHASES, plan_windows
from lemon_sc.io.image import ArrayLevel, Image

SCALES = [0.6, 1.0, 1.1765, 1.5, 2.4]


def fixed_point_crop(pixels, start, phase, cut):
    """Both passes as sums of whole numbers, px by px."""
    x0, y0 = start
    taps = np.arange(cut.y.weight.shape[2])
    size = cut.size_px
    height, width = pixels.shape[:2]
    lines = np.zeros((size, width, 3), np.int64)
    for o in range(size):
        rows = np.minimum(y0 + cut.y.first[phase[1], o] + taps, height - 1)  # beyond the window weights are 0
        weight = cut.y.weight[phase[1], o].astype(np.int64)
        lines[o] = np.tensordot(weight, pixels[rows].astype(np.int64), axes=1)
    drop = WEIGHT_BITS - COLUMN_BITS
    lines = (lines + (1 << (drop - 1))) >> drop
    out = np.zeros((size, size, 3), np.int64)
    for i in range(size):
        cols = np.minimum(x0 + cut.x.first[phase[0], i] + taps, width - 1)
        out[:, i] = np.tensordot(cut.x.weight[phase[0], i].astype(np.int64), lines[:, cols], axes=(0, 1))
    last = WEIGHT_BITS + COLUMN_BITS
    return np.clip((out + (1 << (last - 1))) >> last, 0, 255)


def planned(scale, size_px, n=25):
    pixels = np.random.default_rng(0).integers(0, 256, (260, 270, 3), dtype=np.uint8)
    low = (size_px / 2 + 3) * scale + 4
    xy = np.random.default_rng(1).uniform(low, 260 - low, (n, 2))
    geometry = {"mpp": (0.25 / scale,) * 2, "downsamples": [(1.0, 1.0)], "size_px": size_px, "target_mpp": 0.25}
    windows = plan_windows(**geometry)
    return pixels, windows, *windows.place(xy)


@pytest.mark.parametrize("size_px", [8, 13, 40])
@pytest.mark.parametrize("scale", SCALES)
def test_the_kernel_is_the_plain_sums_to_the_bit(scale, size_px):
    """Sides that are no multiple of what is made at once, too."""
    pixels, windows, start, phase = planned(scale, size_px)
    cut = resampler(windows)
    for crop, *where in zip(cut(pixels, start, phase), start, phase, strict=True):
        np.testing.assert_array_equal(crop, fixed_point_crop(pixels, *where, cut))


def test_windows_in_the_last_corner_are_read_to_their_last_pixel():
    pixels, windows, _, phase = planned(1.1765, 40, n=1)
    cut = resampler(windows)
    across, down = cut.taps
    small = np.ascontiguousarray(pixels[:down, :across])
    crop = cut(small, np.zeros((1, 2), np.int64), phase)[0]
    np.testing.assert_array_equal(crop, fixed_point_crop(small, (0, 0), phase[0], cut))


@pytest.mark.parametrize("features", ["+sse2", "+sse2,+avx2", ""])
def test_processors_with_narrow_or_without_such_instructions_give_the_same_crops(features, tmp_path):
    pixels, windows, start, phase = planned(1.1765, 40)
    cut = resampler(windows)
    np.savez(tmp_path / "in.npz", pixels=pixels, start=start, phase=phase)
    program = (
        "import sys, numpy as np, lemon_sc.crops.lanes as lanes\n"
        "known = lanes._instructions\n"
        f"lanes._instructions = lambda _: known({features!r})\n"
        "from lemon_sc.crops.resample import Resampler\n"
        "from lemon_sc.crops.tables import axis_table\n"
        "folder, scale, taps = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])\n"
        "given = np.load(folder + '/in.npz')\n"
        "table = axis_table(scale=scale, size_px=40, taps=taps)\n"
        "cut = Resampler(size_px=40, taps=(taps, taps), x=table, y=table)\n"
        "np.save(folder + '/out.npy', cut(given['pixels'], given['start'], given['phase']))\n"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", program, str(tmp_path), repr(windows.scale[0]), str(windows.taps[0])]
    subprocess.run(command, check=True, env=env)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), cut(pixels, start, phase))


@pytest.mark.parametrize("scale", SCALES)
def test_weights_sum_to_one_and_are_the_kernel_up_to_rounding(scale):
    _, windows, _, _ = planned(scale, 40, n=1)
    taps = windows.taps[0]
    table = axis_table(scale=windows.scale[0], size_px=40, taps=taps)
    assert (table.weight.astype(int).sum(axis=2) == 1 << WEIGHT_BITS).all()
    assert table.first.min() >= 0
    where = table.first[..., None] + np.arange(table.weight.shape[2]) + 0.5
    centre = windows.base[0] + (np.arange(PHASES) / PHASES)[:, None] + windows.scale[0] * np.arange(40)
    exact = cubic((where - centre[..., None]) / max(scale, 1))
    exact /= exact.sum(axis=2, keepdims=True)
    assert np.abs(table.weight / 2**WEIGHT_BITS - exact).max() < 8 * 2**-WEIGHT_BITS
    assert (table.weight[where > taps] == 0).all(), "no px beyond the window counts"


def test_weights_of_a_px_do_not_depend_on_the_size_of_the_crop():
    mpp = {"mpp": (0.3, 0.3), "downsamples": [(1.0, 1.0)], "target_mpp": 0.25}
    small, wide = (plan_windows(size_px=s, **mpp) for s in (40, 60))
    a, b = (resampler(w).x for w in (small, wide))
    for at in range(40):
        for phase in range(0, PHASES, 37):
            ours, theirs = (
                {int(k) + 1 - w.taps[0] // 2: int(v) for k, v in zip(keys, values, strict=True) if v}
                for w, keys, values in (
                    (small, a.first[phase, at] + np.arange(a.weight.shape[2]), a.weight[phase, at]),
                    (wide, b.first[phase, at + 10] + np.arange(b.weight.shape[2]), b.weight[phase, at + 10]),
                )
            )
            assert ours == theirs


def test_patches_of_the_border_are_the_padded_image():
    """In blocks of 32 px, with windows beyond all four sides."""
    pixels = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
    xy = np.random.default_rng(2).uniform(-5, [175, 155], (120, 2))
    image = Image([ArrayLevel(pixels, 32)], [(1.0, 1.0)])
    _, plan = plan_blocks(image, xy, mpp=(0.3, 0.3), size_px=40, target_mpp=0.25, block_px=32)
    border, pad = Border(plan), 80
    padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    across, down = plan.cut.taps
    seen = []
    for block in plan.order:
        y0, y1, x0, x1 = plan.bounds(block)
        index, part = border.due(block), pixels[y0:y1, x0:x1]
        patches = border.patches(plan.place(xy[index])[0], border.around(block, part))
        border.keep(block, border.parts(block, part))
        for i, patch in zip(index, patches, strict=True):
            x, y = plan.place(xy[[i]])[0][0] + pad
            np.testing.assert_array_equal(patch.reshape(down, across, 3), padded[y : y + down, x : x + across])
        seen += index.tolist()
    assert sorted(seen) == plan.crossing()[0].tolist()
    assert border.strips == [], "nothing is kept that nobody waits for"


def test_what_waits_is_bounded_by_the_image_not_by_the_nuclei():
    """Strips of one row of blocks and one column, whatever lies in them; of few windows no more than their own px."""
    pixels = np.zeros((512, 640, 3), dtype=np.uint8)
    image, most = Image([ArrayLevel(pixels, 128)], [(1.0, 1.0)]), {}
    for n in (20, 2_000, 20_000):
        xy = np.random.default_rng(2).uniform(0, [640, 512], (n, 2))
        _, plan = plan_blocks(image, xy, mpp=(0.3, 0.3), size_px=40, target_mpp=0.25, block_px=128)
        border, held = Border(plan), []
        for block in plan.order:
            y0, y1, x0, x1 = plan.bounds(block)
            border.keep(block, border.parts(block, pixels[y0:y1, x0:x1]))
            held.append(sum(strip.lines.nbytes for strip in border.strips))
        most[n] = max(held)
    across, down = plan.cut.taps
    bound = 3 * ((down - 1) * (640 + 128) + (across - 1) * 128)
    patches = len(plan.crossing()[0]) * across * down * 3
    assert most[20] < most[2_000] <= most[20_000] <= bound < patches / 50


def test_numbers_of_windows_in_reading_order_are_kept_as_their_ends():
    rng, values = np.random.default_rng(0), np.arange(500, dtype=np.int32)
    in_order = np.sort(rng.integers(0, 6, 500)).astype(np.int32)
    for keys in (in_order, rng.permutation(in_order)):
        found = grouped(keys, values)
        assert sorted(found) == sorted(set(keys.tolist()))
        for key, group in found.items():
            np.testing.assert_array_equal(numbers(group), np.flatnonzero(keys == key))
            assert isinstance(group, range) == (keys is in_order)
            assert isinstance(group, range) or group.base is None, "not a part of all of them"
    assert numbers(None).size == 0
