"""What must not stand on both sides does not."""

import numpy as np
import pandas as pd
import pytest

from lemon_sc.bench.folds import class_folds, expression_folds, grouped


@pytest.fixture
def nuclei():
    rng = np.random.default_rng(0)
    slide = rng.integers(0, 40, 2000)
    xy = rng.random((2000, 2)) * 1000
    return pd.DataFrame({
        "slide": slide.astype(str), "patient": (slide // 2).astype(str), "label": rng.choice(["a", "b", "c"], 2000),
        "x": xy[:, 0], "y": xy[:, 1],
    })  # fmt: skip


@pytest.mark.parametrize("protocol", ["slide", "patient"])
def test_no_group_is_on_both_sides_and_folds_have_all_classes(nuclei, protocol):
    folds = class_folds(nuclei, protocol, seed=0)
    table = nuclei.assign(fold=folds.codes)
    assert table.groupby(protocol)["fold"].nunique().eq(1).all()
    assert table.groupby("fold")["label"].nunique().tolist() == [3] * 5
    assert (folds.kind, len(folds.names)) == ("groups", 5)


def test_few_groups_are_few_folds_and_one_is_none():
    labels, groups = np.array(["a", "b"] * 50), np.arange(100) < 30
    assert len(grouped(labels, groups).names) == 2
    with pytest.raises(ValueError, match="`groups` must be at least two"):
        grouped(labels, np.zeros(100))


def test_stratified_folds_share_the_classes_out(nuclei):
    folds = class_folds(nuclei, "stratified", seed=0)
    shares = pd.crosstab(folds.codes, nuclei["label"])
    assert (shares.max() - shares.min()).max() <= 1


def test_expression_leaves_out_each_slide_and_its_patient(nuclei):
    by_slide, by_patient = (expression_folds(nuclei, protocol, seed=0) for protocol in ("slide", "patient"))
    assert len(by_slide.names) == len(by_patient.names) == 40
    assert len(by_slide.training(3)) == 39
    assert len(by_patient.training(3)) == 38


def test_blocks_are_of_one_slide(nuclei):
    with pytest.raises(ValueError, match="`slide` must be one for folds of blocks"):
        expression_folds(nuclei, "blocks", seed=0)
    folds = expression_folds(nuclei.assign(slide="s"), "blocks", seed=0)
    assert folds.kind == "spatial_blocks"
