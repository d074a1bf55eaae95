"""The scripts of the folder `benchmarks` as modules, and a data folder of planted nuclei."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

COLOURS = {"Tumor_nuclei": (90, 60, 140), "Apoptosis": (40, 20, 60), "Mitosis": (60, 90, 200), "Tubule": (0, 0, 0)}


def disc(pixels, x, y, colour, radius=13):
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    pixels[np.hypot(rows - y, columns - x) < radius] = colour


def write_set(folder, name, images, rows):
    (folder / "nuclei" / name / "images").mkdir(parents=True)
    for image, pixels in images.items():
        Image.fromarray(pixels).save(folder / "nuclei" / name / "images" / f"{image}.jpg", quality=100, subsampling=0)
    pd.DataFrame(rows).to_csv(folder / "nuclei" / name / "nuclei.csv", index=False)


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """Four cases of brecahad whose classes differ in colour, four slides of amibr, and one image without a slide."""
    folder = tmp_path_factory.mktemp("data")
    images, rows = {}, []
    for case in ("Case_10", "Case_11", "Case_12", "Case_13"):
        pixels = np.full((400, 520, 3), (230, 190, 215), np.uint8)
        for k in range(42):
            x, y, kind = 50.0 + 60 * (k % 7), 50.0 + 60 * (k // 7), list(COLOURS)[k % 4]
            disc(pixels, x, y, COLOURS[kind])
            rows.append({"image": f"Case_{case}-01", "id": k, "x": x, "y": y, "type": kind, "slide": f"Case_{case}"})
        rows.append(
            {"image": f"Case_{case}-01", "id": 99, "x": 5.0, "y": 50.0, "type": "Mitosis", "slide": f"Case_{case}"}
        )
        images[f"Case_{case}-01"] = pixels
    write_set(folder, "brecahad", images, rows)
    images, rows = {}, []
    for k, slide in enumerate(["A", "A", "B", "C", "D", None]):
        pixels = np.full((128, 128, 3), (230, 190, 215), np.uint8)
        for x in (64, 92):
            disc(pixels, x, 64, (90, 60, 140), radius=12)
        name = f"AMi-Br_{k}" if slide else f"AtNorM-Br_{k}"
        images[name] = pixels
        rows.append({"image": name, "id": 1, "x": 64.0, "y": 64.0, "type": "normal", "slide": slide, "set": name[:-2]})
    write_set(folder, "amibr", images, rows)
    return folder
