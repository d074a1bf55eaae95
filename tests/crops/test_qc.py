import numpy as np
import pandas as pd
import pytest
from PIL import Image as PILImage
from scipy.ndimage import gaussian_filter

from lemon_sc.crops.qc import BLURRED_FOCUS, find_blank, find_blurred, focus, stained_fraction
from lemon_sc.crops.stream import stream_crops
from lemon_sc.io.image import array_image


def test_glass_is_blank_and_a_tenth_of_tissue_is_not():
    crops = np.full((2, 40, 40, 3), 238, dtype=np.uint8)
    crops[1, :4] = [160, 100, 170]
    assert find_blank(crops).tolist() == [True, False]
    np.testing.assert_allclose(stained_fraction(crops), [0, 0.1])


def test_focus_of_white_noise_has_its_closed_form():
    """The Laplacian's coefficients 1, 1, 1, 1, -4 have squares that add up to 20."""
    noise = np.random.default_rng(0).normal(128, 20, (64, 80, 80, 1)).repeat(3, axis=3)
    assert focus(np.clip(noise, 0, 255).astype(np.uint8), mpp=0.5).mean() == pytest.approx(20, rel=0.05)


def test_focus_does_not_depend_on_contrast():
    noise = np.random.default_rng(0).normal(0, 1, (8, 40, 40, 1)).repeat(3, axis=3)
    weak, strong = (np.round(128 + s * noise).astype(np.uint8) for s in (15, 30))
    np.testing.assert_allclose(focus(weak, 0.25), focus(strong, 0.25), rtol=0.05)


def test_a_flat_crop_has_no_focus():
    assert focus(np.full((1, 40, 40, 3), 100, dtype=np.uint8), 0.25).tolist() == [0.0]


@pytest.mark.parametrize("name", ["tnbc", "nuinsseg"])
def test_real_nuclei_are_sharp_until_they_are_blurred(data_dir, name):
    folder = data_dir / "nuclei" / name
    table = pd.read_csv(folder / "nuclei.csv")
    sharp, soft = [], []
    for image, rows in list(table.groupby("image"))[:6]:
        pixels = np.asarray(PILImage.open(next((folder / "images").glob(f"{image}*"))).convert("RGB"))
        xy = rows[["x", "y"]].to_numpy(float)
        xy = xy[((xy > 25) & (xy < np.array(pixels.shape[1::-1]) - 25)).all(axis=1)][:60]
        if not len(xy):
            continue
        for found, sigma in ((sharp, 0), (soft, 1.5 / 0.25)):
            blurred = np.stack([gaussian_filter(pixels[..., c], sigma) for c in range(3)], axis=-1)
            crops = [c for _, c in stream_crops(array_image(blurred), xy, mpp=(0.25, 0.25))]
            found.append(find_blurred(np.concatenate(crops), 0.25))
    assert np.concatenate(sharp).mean() < 0.005
    assert np.concatenate(soft).mean() > 0.5
    assert BLURRED_FOCUS == 0.02
