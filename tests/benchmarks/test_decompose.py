"""The decomposition of HER2ST: spots, patches and nuclei lie where they should; the control shuffles in sections."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image

decompose = pytest.importorskip("decompose")

STEP, TYPES = 280, ["Epithelial", "T-cells"]
PLANTED = {"10x10": 9, "11x10": 4, "10x11": 0, "11x11": 1}


def write_section(home):
    """Four spots far from the corner of the image, with a known number of dark nuclei in each."""
    rng = np.random.default_rng(0)
    pixels = np.full((900, 1000, 3), (225, 160, 200), dtype=np.int16)
    rows, columns = np.mgrid[:900, :1000] + 0.5
    places = []
    for name, n in PLANTED.items():
        x, y = (int(v) for v in name.split("x"))
        px, py = 480 + (x - 10) * STEP, 380 + (y - 10) * STEP
        places.append({"x": x, "y": y, "pixel_x": px, "pixel_y": py, "selected": 1})
        for i in range(n):
            at = px + 26 * (i % 3 - 1), py + 26 * (i // 3 - 1)
            pixels[np.hypot(columns - at[0], rows - at[1]) < 6] = (80, 50, 130)
    home.mkdir()
    noisy = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(home / "he.jpg", quality=95)
    pd.DataFrame([*places, {"x": 3, "y": 3, "pixel_x": 5, "pixel_y": 5, "selected": 0}]).to_csv(
        home / "selection.tsv", sep="\t", index=False
    )
    shares = pd.DataFrame([[0.25, 0.75]] * 5, index=[*PLANTED, "3x3"], columns=TYPES)
    shares.to_csv(home / "celltype_proportions.tsv", sep="\t")


def test_nuclei_are_counted_in_the_spot_they_lie_in(tmp_path):
    write_section(tmp_path / "B4")
    made = decompose.describe("B4", tmp_path / "B4", "morphometry")
    assert list(made.obs_names) == [f"B4_{name}" for name in PLANTED]
    assert made.obs["X_nuclei_n"].tolist() == list(PLANTED.values())
    assert np.isnan(made.obsm["X_nuclei"]).all(axis=1).tolist() == [n == 0 for n in PLANTED.values()]
    dark = made.obsm["colours"][:, :16][:, :8].sum(axis=1)  # share of px with little red
    assert dark.argmax() == 0
    assert set(made.obs["patient"]) == {"B"}
    assert made.obsm[decompose.TRUTH].columns.tolist() == TYPES


def test_the_control_shuffles_within_sections():
    section = np.repeat(decompose.SECTIONS, 20)
    spots = ad.AnnData(obs=pd.DataFrame({"section": section}, index=map(str, range(80))))
    truth = np.random.default_rng(0).random((80, 3))
    spots.obsm[decompose.TRUTH] = pd.DataFrame(truth, index=spots.obs_names)
    mixed = decompose.shuffled(spots, np.random.default_rng(1)).obsm[decompose.TRUTH].to_numpy()
    assert not np.array_equal(mixed, truth)
    for name in decompose.SECTIONS:
        rows = section == name
        np.testing.assert_array_equal(np.sort(mixed[rows], axis=0), np.sort(truth[rows], axis=0))
