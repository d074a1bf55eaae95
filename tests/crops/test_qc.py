import numpy as np
import pandas as pd
import pytest
from PIL import Image as PILImage
from scipy.ndimage import gaussian_filter, laplace

from lemon_sc._core.keys import QC_FROM_PIXELS
from lemon_sc.crops.qc import judge, measure
from lemon_sc.crops.stream import stream_crops
from lemon_sc.io.image import array_image

GLASS, EOSIN, NUCLEUS, PYKNOTIC = [238, 238, 238], [225, 165, 200], [110, 80, 150], [45, 28, 72]
SIDE = np.arange(40) + 0.5 - 20
RADIUS = np.hypot(SIDE[:, None], SIDE)


def flat(color, size=40):
    return np.full((1, size, size, 3), color, dtype=np.uint8)


def tissue(nucleus=NUCLEUS, seed=0):
    """A nucleus of 3 um radius in eosin, with chromatin and fibres finer than a blur leaves them."""
    crop = flat(EOSIN).astype(float)[0]
    crop[RADIUS < 12] = nucleus
    grain = gaussian_filter(np.random.default_rng(seed).normal(size=(40, 40, 1)), (1.2, 1.2, 0))
    return np.clip(crop + 30 * grain, 0, 250).astype(np.uint8)[None]


def inked(crop, passed, rows=40):
    out = crop.astype(float)
    out[:, :rows] *= passed
    return out.astype(np.uint8)


def test_measurements_are_those_of_an_oracle():
    """The same definitions in optical densities, logarithms and scipy's Laplacian, crop by crop."""
    rng = np.random.default_rng(1)
    crops = np.concatenate([rng.integers(0, 256, (20, 40, 40, 3)), rng.integers(0, 60, (20, 40, 40, 3))]).astype(
        np.uint8
    )
    crops[3:6, :20] = [20, 22, 19]
    crops[6:9] = np.clip(crops[6:9] + 120.0, 0, 255)
    found = measure(crops)
    for k, crop in enumerate(crops.astype(float)):
        od = -np.log(np.maximum(crop, 1e-9) / 240)
        stained = od.max(axis=2) > 0.15
        cool, warm = od[..., 0] - od[..., 1] > 0.25, od[..., 2] - od[..., 0] > 0.7
        black = (crop.max(axis=2) < 60) & (np.ptp(crop, axis=2) < 14)
        faint = crop.min(axis=2) < 230
        clipped = faint & ((crop <= 1) | (crop >= 254)).any(axis=2)
        grey = (crop @ [0.299, 0.587, 0.114]).reshape(20, 2, 20, 2).mean(axis=(1, 3))
        assert found.stained[k] == pytest.approx(stained.mean())
        assert found.centre_stained[k] == pytest.approx(stained[RADIUS < 10].mean())
        assert found.ink[k] == pytest.approx(
            ((stained & (cool | warm)) | black).mean(), abs=2 / 1600
        )  # 1/1024 in ratios
        assert found.clipped[k] == pytest.approx(clipped.sum() / max(faint.sum(), 80))
        assert found.focus[k] == pytest.approx(laplace(grey)[1:-1, 1:-1].var() / grey[1:-1, 1:-1].var(), rel=1e-6)


def test_focus_of_white_noise_has_its_closed_form():
    """The Laplacian's coefficients 1, 1, 1, 1, -4 have squares that add up to 20."""
    noise = np.random.default_rng(0).normal(128, 20, (300, 20, 1, 20, 1, 1)).repeat(2, axis=2).repeat(2, axis=4)
    crops = np.clip(noise.reshape(300, 40, 40, 1), 0, 255).astype(np.uint8).repeat(3, axis=3)
    assert measure(crops).focus.mean() == pytest.approx(20, rel=0.05)


def test_focus_does_not_depend_on_contrast():
    noise = np.random.default_rng(0).normal(0, 1, (8, 40, 40, 1)).repeat(3, axis=3)
    weak, strong = (np.round(128 + s * noise).astype(np.uint8) for s in (15, 30))
    np.testing.assert_allclose(measure(weak).focus, measure(strong).focus, rtol=0.05)


def test_a_flat_crop_has_no_focus():
    assert measure(flat([100, 100, 100])).focus.tolist() == [0.0]


@pytest.mark.parametrize("nucleus", [NUCLEUS, PYKNOTIC, [80, 82, 130]], ids=["plain", "pyknotic", "bluish"])
def test_nuclei_are_ok(nucleus):
    assert judge(tissue(nucleus)).tolist() == ["ok"]


def test_glass_is_blank_and_a_tenth_of_tissue_beside_it_is_off_tissue():
    crop = flat(GLASS)
    assert judge(crop).tolist() == ["blank"]
    crop[:, :4] = EOSIN
    assert judge(crop).tolist() == ["off_tissue"]
    np.testing.assert_allclose(measure(crop).stained, 0.1)


def test_a_small_nucleus_on_glass_is_ok():
    crop = tissue()
    crop[0, RADIUS > 8] = GLASS
    assert judge(crop).tolist() == ["ok"]


def test_a_hole_in_the_tissue_is_off_tissue():
    crop = tissue()
    crop[0, RADIUS < 13] = GLASS
    assert judge(crop).tolist() == ["off_tissue"]


INKS = {"green": (0.3, 0.8, 0.45), "blue": (0.2, 0.35, 0.9), "red": (0.85, 0.15, 0.2), "black": (0.1, 0.1, 0.1)}


@pytest.mark.parametrize("rows", [40, 20], ids=["all over", "half"])
@pytest.mark.parametrize("color", INKS)
def test_ink_is_pen(color, rows):
    assert judge(inked(tissue(), INKS[color], rows)).tolist() == ["pen"]
    opaque = flat(np.multiply(INKS[color], 200))
    assert judge(opaque).tolist() == ["pen"]


def test_a_speck_of_ink_is_not():
    assert judge(inked(tissue(), INKS["green"], 5)).tolist() == ["ok"]


def test_burnt_out_tissue_is_saturated_and_burnt_out_glass_is_not():
    burnt = np.clip(tissue() * 1.4, 0, 255).astype(np.uint8)
    assert judge(burnt).tolist() == ["saturated"]
    on_white = tissue()
    on_white[0, RADIUS > 12] = 255
    assert judge(on_white).tolist() == ["ok"]


def test_tissue_clipped_at_black_is_saturated():
    sunk = np.clip(tissue().astype(float) - [0, 190, 0], 0, 255).astype(np.uint8)
    assert measure(sunk).clipped[0] > 0.8
    assert judge(sunk).tolist() == ["saturated"]


def test_defocus_is_blurred():
    soft = np.stack([gaussian_filter(tissue()[0, ..., c], 7, mode="nearest") for c in range(3)], axis=-1)
    assert judge(soft[None]).tolist() == ["blurred"]


def test_of_several_faults_the_gravest_counts():
    both = {
        "blank": flat(GLASS),  # no detail either
        "off_tissue": inked(
            np.where((RADIUS < 13)[..., None], GLASS, EOSIN).astype(np.uint8)[None], (0.3, 0.8, 0.45), 6
        ),
        "pen": np.clip(inked(tissue(), (0.3, 1, 0.45)) * [0.0, 2, 1], 0, 255).astype(np.uint8),
        "saturated": flat([255, 120, 200]),  # flat, too
    }
    assert list(both) == list(QC_FROM_PIXELS[:4])
    assert {name: judge(crop).tolist()[0] for name, crop in both.items()} == {name: name for name in both}


@pytest.mark.parametrize("size", [42, 60, 224])
def test_what_lies_around_the_central_10_um_does_not_count(size):
    crops = np.concatenate([tissue(seed=k) for k in range(4)])
    room = (size - 40) // 2
    wide = np.random.default_rng(0).integers(0, 255, (4, size, size, 3), dtype=np.uint8)
    wide[:, room:-room, room:-room] = crops
    for name, values in vars(measure(crops)).items():
        np.testing.assert_array_equal(vars(measure(wide))[name], values)


@pytest.mark.parametrize("size", [38, 41])
def test_a_crop_too_small_or_odd_is_refused(size):
    with pytest.raises(ValueError, match=f"`crops` must be of an even size of at least 40 px, got {size}"):
        measure(np.zeros((1, size, size, 3), dtype=np.uint8))


def test_no_crops_give_no_verdicts():
    assert judge(np.zeros((0, 40, 40, 3), dtype=np.uint8)).shape == (0,)


@pytest.mark.parametrize("name", ["tnbc", "nuinsseg"])
def test_real_nuclei_are_ok_until_they_are_spoilt(data_dir, name):
    folder = data_dir / "nuclei" / name
    table = pd.read_csv(folder / "nuclei.csv")
    plain, soft = [], []
    for image, rows in list(table.groupby("image"))[:6]:
        pixels = np.asarray(PILImage.open(next((folder / "images").glob(f"{image}*"))).convert("RGB"))
        xy = rows[["x", "y"]].to_numpy(float)
        xy = xy[((xy > 25) & (xy < np.array(pixels.shape[1::-1]) - 25)).all(axis=1)][:60]
        if not len(xy):
            continue
        blurred = np.stack([gaussian_filter(pixels[..., c], 1.5 / 0.25) for c in range(3)], axis=-1)
        for found, source in ((plain, pixels), (soft, blurred)):
            found += [crops for _, crops in stream_crops(array_image(source), xy, mpp=(0.25, 0.25))]
    plain = np.concatenate(plain)
    assert (judge(plain) != "ok").mean() < 0.005
    assert (judge(np.concatenate(soft)) == "blurred").mean() > 0.5
    for passed in INKS.values():
        assert (judge(inked(plain, np.square(passed))) == "pen").mean() > 0.75
