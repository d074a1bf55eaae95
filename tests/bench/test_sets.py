"""Adapters read what is published, proved on small imitations of each layout."""

import bench_sets
import numpy as np
import pandas as pd
import pytest
from bench_sets import COLOURS

import lemon_sc as lm
from lemon_sc.bench.features import parts
from lemon_sc.bench.sets import her2st, hest, mitoses, nuclei_csv, nucls, pannuke


def centre_colours(labelled, window_px=40):
    """Mean colour of the middle of each crop, with its row of the table."""
    made = list(parts(labelled, labelled.nuclei, size_px=40, window_px=window_px))
    rows = np.concatenate([rows for rows, _ in made])
    crops = np.concatenate([crops for _, crops in made])
    return labelled.nuclei.loc[rows], crops[:, 17:23, 17:23].mean(axis=(1, 2))


def check_colours(labelled, order, **options):
    """The crop of every nucleus shows the colour of its class."""
    table, colours = centre_colours(labelled, **options)
    expected = np.array([COLOURS[order.index(label)] for label in table["label"]])
    np.testing.assert_allclose(colours, expected, atol=6)
    return table


def test_plain_layout(plain_sets):
    labelled = lm.bench.task("brecahad").adapter(plain_sets)
    table = check_colours(labelled, ["Tumor_nuclei", "Apoptosis", "Mitosis"])
    assert labelled.nuclei["slide"].nunique() == 4  # of 8, those that are held out
    assert len(table) == 4 * 12  # one nucleus of each image is at its border
    assert len(labelled.nuclei) == 4 * 13


def test_the_slides_that_are_held_out_never_change():
    """Released scores hold for this split only."""
    cases = ["Case_10", "Case_11", "Case_12", "Case_13"]
    assert nuclei_csv.held_out("brecahad", cases) == {"Case_11", "Case_12"}
    assert nuclei_csv.held_out("brecahad", [*cases[::-1], "Case_10"]) == {"Case_11", "Case_12"}
    assert len(nuclei_csv.held_out("amibr", [f"s{k}" for k in range(101)])) == 50
    assert nuclei_csv.held_out("consep", cases) == set(cases)
    assert nuclei_csv.held_out("tnbc", cases) == set()


@pytest.mark.parametrize("dots", [False, True])
def test_nucls(tmp_path, dots):
    bench_sets.nucls(tmp_path, dots=dots)
    found = nucls.read_nucls(tmp_path, level="super")
    table = check_colours(found, ["tumor_any", "sTIL", "nonTIL_stromal"])
    assert len(table) == 27  # 3 of 12 per image are ambiguous
    assert sorted(set(table["slide"])) == ["TCGA-A1-A0SK-DX1", "TCGA-A2-A0CM-DX1"]
    assert set(table["patient"]) == {"TCGA-A1-A0SK", "TCGA-A2-A0CM"}
    check_colours(nucls.read_nucls(tmp_path, level="raw"), ["tumor", "lymphocyte", "fibroblast"])
    check_colours(nucls.read_nucls(tmp_path, level="main"), ["tumor_nonMitotic", "lymphocyte", "nonTILnonMQ_stromal"])


def test_the_published_classes_of_nucls_are_all_there():
    assert {level: len(names) for level, names in nucls.CLASSES.items()} == {"super": 3, "main": 6, "raw": 12}


def test_a_table_of_another_data_set_is_refused(tmp_path):
    bench_sets.nucls(tmp_path)
    pd.DataFrame({"x": [1]}).to_csv(tmp_path / "nucls" / "csv" / "TCGA-A1-A0SK-DX1_id-1.csv", index=False)
    with pytest.raises(ValueError, match=r"lacks the columns \['super_classification', 'xmin'"):
        nucls.read_nucls(tmp_path, level="super")


def test_an_image_that_is_missing_is_named(tmp_path):
    bench_sets.nucls(tmp_path)
    (tmp_path / "nucls" / "rgb" / "TCGA-A2-A0CM-DX1_id-3.png").unlink()
    with pytest.raises(ValueError, match=r"1 images of the table are not in .*A0CM-DX1_id-3"):
        nucls.read_nucls(tmp_path, level="super")


def test_pannuke_maps_classes_by_name_and_not_by_size(tmp_path):
    bench_sets.pannuke(tmp_path)
    found = pannuke.read_pannuke(tmp_path)
    table = check_colours(found, list(pannuke.CHANNELS))
    counts = found.nuclei["label"].value_counts().to_dict()
    assert counts == {"Neoplastic": 54, "Inflammatory": 30, "Connective": 24, "Epithelial": 18, "Dead": 12}
    assert set(table["slide"]) == {f"fold{f}/{k}" for f in (1, 2, 3) for k in (0, 1)}
    assert found.nuclei[["x", "y"]].iloc[0].tolist() == [33.0, 33.0]  # centres of px lie at halves
    whole, _ = centre_colours(found, window_px=60)
    assert len(whole) == len(table)
    assert len(centre_colours(found, window_px=70)[0]) < len(table)


def test_midog25(tmp_path):
    bench_sets.midog25(tmp_path)
    found = mitoses.read_midog25(tmp_path)
    assert check_colours(found, ["NMF", "AMF"])["slide"].nunique() == 7
    assert len(found.nuclei) == 40  # without the one that has no vote
    assert len(centre_colours(found, window_px=128)[0]) == 36
    assert lm.bench.task("midog25_128").window_px == 128


@pytest.mark.parametrize(("part", "slides"), [("AMi-Br", 3), ("AtNorM-Br", 12)])
def test_ami_br(tmp_path, part, slides):
    bench_sets.ami_br(tmp_path)
    found = mitoses.read_ami_br(tmp_path, part=part)
    assert check_colours(found, ["NMF", "AMF"])["slide"].nunique() == slides


def test_a_class_of_neither_kind_is_refused(tmp_path):
    bench_sets.ami_br(tmp_path)
    path = tmp_path / "ami_br" / "AtNorM-Br" / "AtNorM-Br.csv"
    pd.read_csv(path).replace("Normal", "prophase").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"neither normal nor atypical: \['prophase'\]"):
        mitoses.read_ami_br(tmp_path, part="AtNorM-Br")
    pd.DataFrame({"file": ["0.png"]}).to_csv(path, index=False)
    with pytest.raises(ValueError, match="No column of .* says the class"):
        mitoses.read_ami_br(tmp_path, part="AtNorM-Br")


def test_hest(tmp_path, monkeypatch):
    slides = ("TENX147", "TENX148", "NCBI783")
    monkeypatch.setitem(hest.SLIDES, "bowel", slides)
    bench_sets.hest(tmp_path, slides)
    found = hest.read_hest(tmp_path, organ="bowel")
    assert found.genes == ("A", "B")  # of all panels, without controls
    assert found.mpp["NCBI783"] == (0.2, 0.2)
    assert found.nuclei.groupby("slide")["patient"].unique().map(list).to_dict() == {
        "NCBI783": ["a study/Patient 2"],
        "TENX147": ["Patient 1"],
        "TENX148": ["Patient 1"],
    }
    counts = found.expression.toarray()
    assert set(counts[:, 0]) == {2, 11}  # transcripts of low quality and without a cell do not count
    table, colours = centre_colours(found)
    is_dark = counts[table.index, 0] == 11
    np.testing.assert_allclose(colours, np.array(COLOURS)[is_dark.astype(int)], atol=6)
    np.testing.assert_allclose(found.nuclei[["x", "y"]].iloc[0], [40, 40], atol=1e-6)


def test_hest_never_guesses_a_pixel_size(tmp_path, monkeypatch):
    monkeypatch.setitem(hest.SLIDES, "bowel", ("TENX147",))
    bench_sets.hest(tmp_path, ["TENX147"])
    (tmp_path / "hest" / "metadata" / "TENX147.json").write_text("{}")
    with pytest.raises(ValueError, match="gives no pixel size"):
        hest.read_hest(tmp_path, organ="bowel")


def test_the_published_slides_of_hest():
    assert {organ: len(slides) for organ, slides in hest.SLIDES.items()} == {"bowel": 5, "breast": 5, "lung": 20}


def test_her2st(tmp_path):
    bench_sets.her2st(tmp_path)
    found = her2st.read_her2st(tmp_path)
    assert found.genes == ("A", "B")
    assert found.expression.shape == (4 * 35, 2)  # one spot of each section is not selected
    assert len(found.nuclei) == 4 * 35 * 16
    middle = found.nuclei.groupby("item")[["x", "y"]].mean()
    assert middle.iloc[0].tolist() == [200, 100]
    spread = found.nuclei[found.nuclei["item"] == 0][["x", "y"]] - middle.iloc[0]
    assert np.hypot(*spread.T.to_numpy()).max() * 0.69 < 50  # inside the spot of 100 um
    assert found.nuclei.groupby("slide")["patient"].unique().map(list).to_dict() == {
        "B4": ["B"], "C2": ["C"], "C3": ["C"], "C5": ["C"]
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in lm.bench.tasks() if lm.bench.task(name).adapter])
def test_data_that_are_missing_are_said_to_be(tmp_path, name):
    task = lm.bench.task(name)
    with pytest.raises(lm.bench.MissingDataError, match="are published at .* Lay them out as") as caught:
        task.adapter(tmp_path)
    assert task.source.url in str(caught.value)
    assert task.source.layout in str(caught.value)


def test_the_real_xenium_crop(xenium_outs):
    found = lm.bench.task("xenium_markers").adapter(xenium_outs.parents[1])
    assert found.nuclei.shape[0] == found.expression.shape[0] == 107
    assert len(found.genes) == 313
    np.testing.assert_allclose(found.mpp["he_image"], 0.3639, atol=5e-4)


def test_the_real_small_sets(data_dir):
    sizes = {name: len(lm.bench.task(name).adapter(data_dir).nuclei) for name in ("amibr_all", "atnorm", "consep")}
    assert sizes == {"amibr_all": 3720, "atnorm": 709, "consep": 15555}
