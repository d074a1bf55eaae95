import numpy as np
import pytest

from lemon_sc.seg.reference import SPLITS, segmentation_reference


def test_published_anchors():
    table = segmentation_reference()
    at = table.set_index(["split", "model", "metric", "class"])["value"]
    assert len(table) == 385
    assert at.index.is_unique
    assert at["external", "H0-mini", "pq", ""] == 0.605
    assert at["cross_validation", "Virchow2", "pq", ""] == 0.633
    assert at["external", "UNI2", "f1", "epithelial"] == 0.570
    assert at["breast", "HistoPLUS", "f1", "lymphocyte"] == 0.799
    assert ("ovary", "HistoPLUS", "f1", "muscle") not in at.index
    assert at["nuinsseg", "Dual decoder U-Net", "pq", ""] == 0.513
    assert at["consep", "HoVer-Net (MONAI)", "pq", ""] == 0.497
    assert set(table["split"]) == set(SPLITS)


def test_the_numbers_hang_together():
    table = segmentation_reference()
    wide = table[table["metric"] != "f1"].pivot(index=["split", "model"], columns="metric", values="value")
    wide = wide.dropna()  # of open sets, only PQ is published
    assert len(wide) == 24
    assert np.abs(wide["pq"] - wide["dq"] * wide["sq"]).max() < 0.015  # a mean of products is not the product of means
    there = table.dropna(subset=["low"])
    assert len(there) == 7
    assert ((there["low"] < there["value"]) & (there["value"] < there["high"])).all()
    assert table.loc[table["note"].str.contains("copying error"), "class"].tolist() == ["mitotic_figure"]


def test_one_split():
    assert len(segmentation_reference(split="cross_validation")) == 7 * (13 + 3)
    with pytest.raises(ValueError, match="Did you mean 'external'"):
        segmentation_reference(split="extern")
