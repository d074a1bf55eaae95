"""The scripts of label transfer: what they take of the data, what they write, and that it is what ships."""

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from real_data import there

import lemon_sc as lm
from lemon_sc.tl import _label_references as references

type_reference = pytest.importorskip("type_reference")
type_transfer = pytest.importorskip("type_transfer")

COLOURS = {"sTIL": (40, 20, 90), "tumor_any": (130, 80, 170), "nonTIL_stromal": (190, 120, 180)}
NAMES = {
    "sTIL": "inflammatory",
    "tumor_any": "epithelial",
    "nonTIL_stromal": "spindle",
    "other_nucleus": "miscellaneous",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three tiles of NuCLS and two images of CoNSeP, whose types differ in colour, and some of no use."""
    folder = tmp_path_factory.mktemp("data")
    for name, images in (("nucls_sample", "abc"), ("consep", "de")):
        home, rows = folder / "nuclei" / name, []
        (home / "images").mkdir(parents=True)
        for image in images:
            pixels = np.full((220, 220, 3), (235, 200, 220), np.uint8)
            for k in range(16):
                x, y, kind = 35 + 50 * (k % 4), 35 + 50 * (k // 4), list(NAMES)[k % 4]
                colour = COLOURS.get(kind, (0, 0, 0))
                pixels[y - 9 : y + 9, x - 9 : x + 9] = np.add(colour, k)
                kind = kind if name == "nucls_sample" else NAMES[kind]
                rows.append({"image": image, "id": k, "x": x, "y": y, "type": kind, "slide": image})
            rows.append({"image": image, "id": 99, "x": 4, "y": 90, "type": rows[0]["type"], "slide": image})  # border
            Image.fromarray(pixels).save(home / "images" / f"{image}.png")
        pd.DataFrame(rows).to_csv(home / "nuclei.csv", index=False)
    return folder


def test_what_is_written_is_what_embedding_the_nuclei_gives(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEMON_SC_DATA", str(data))
    monkeypatch.setattr(sys, "argv", ["type_reference.py", "--model", "morphometry", "--out", str(tmp_path)])
    type_reference.main()
    assert "36 nuclei of 3 tiles" in capsys.readouterr().out
    made = references.read_reference(tmp_path / "nucls-morphometry.npz")
    assert {name: int((made.labels == name).sum()) for name in COLOURS} == dict.fromkeys(COLOURS, 12)
    assert made.encoder == "morphometry, 40 px at 0.25 um"
    crops, rows = type_reference.nuclei_of(data)
    wanted = lm.models.encode(crops, "morphometry", device="cpu")
    np.testing.assert_allclose(made.x, wanted, rtol=1e-3, atol=1e-3)
    assert made.slides.tolist() == rows["slide"].tolist()


def test_planted_types_carry_over_and_tables_keep_other_encoders(data, tmp_path, monkeypatch):
    monkeypatch.setenv("LEMON_SC_DATA", str(data))
    monkeypatch.setattr(sys, "argv", ["type_transfer.py", "--model", "histogram", "--out", str(tmp_path)])
    before = pd.DataFrame([{"encoder": "other", "metric": "auc", "value": 0.5}, {"encoder": "histogram", "value": 0.1}])
    before.to_csv(tmp_path / "type_transfer.csv", index=False)
    type_transfer.main()
    made = pd.read_csv(tmp_path / "type_transfer.csv")
    assert made["encoder"].eq("other").sum() == 1
    assert not made["value"].eq(0.1).any()
    own = made[(made["tested_on"] == "consep") & made["shuffled"].isna()].set_index(["standardize", "metric"])
    assert own.loc[("reference", "balanced_accuracy"), ["value", "low", "high"]].tolist() == [1, 1, 1]
    assert own["n"].eq(24).all()
    confusion = pd.read_csv(tmp_path / "type_transfer_confusion.csv")
    assert confusion[list(COLOURS)].to_numpy().sum() == 3 * 24


def test_what_ships_is_what_the_data_give(data_dir):
    there(data_dir / "nuclei" / "nucls_sample", "NuCLS")
    made = references.read_reference(references.FOLDER / "nucls-morphometry.npz")
    crops, rows = type_reference.nuclei_of(data_dir)
    assert made.labels.tolist() == rows["type"].tolist()
    again = lm.models.encode(crops[::40], "morphometry", device="cpu")
    np.testing.assert_allclose(made.x[::40], again, rtol=2e-3, atol=1e-3)
