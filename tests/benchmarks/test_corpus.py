"""What the shipped encoder is trained on, and what it never sees."""

import numpy as np
import pandas as pd
import pytest

from lemon_sc.bench.sets.nuclei_csv import held_out

corpus = pytest.importorskip("corpus")


def test_images_of_unknown_slides_are_held_out(planted):
    table = corpus.table_of(planted, "amibr")
    assert table.loc[table["image"] == "AtNorM-Br_5", ["held_out", "slide"]].to_numpy().tolist() == [
        [True, "AtNorM-Br_5"]
    ]
    named = table[table["image"] != "AtNorM-Br_5"].groupby("slide")["held_out"]
    assert named.nunique().eq(1).all()
    assert named.first().sum() == 2


def test_a_source_lists_only_what_is_not_held_out_and_finds_nuclei_beside_the_labelled_one(planted):
    table = corpus.table_of(planted, "amibr")
    pictures = corpus.folder_source(planted, "amibr", {}).pictures()
    assert {p.name for p in pictures} == set(table.loc[~table["held_out"], "image"])
    for picture in pictures:
        xy = picture.look().xy
        assert xy[0].tolist() == [64, 64]
        np.testing.assert_allclose(xy[1:], [[92, 64]], atol=2)
        assert (picture.slide, picture.organ) == (table.set_index("image")["slide"][picture.name], "human breast")


def test_tubules_are_no_nuclei(planted):
    assert "Tubule" not in set(corpus.table_of(planted, "brecahad")["type"])


def test_glass_becomes_white_and_no_optical_density_changes():
    glass = (166, 151, 161)
    dark = np.random.default_rng(0).integers(30, 150, (9, 9, 3)).astype(np.uint8)
    made = corpus.lit(dark, glass)
    np.testing.assert_allclose(np.log(240 / made), np.log(np.array(glass) / dark), atol=0.02)
    assert corpus.lit(np.array([[[*glass]]], np.uint8), glass).tolist() == [[[240, 240, 240]]]
    assert corpus.lit(np.full((1, 1, 3), 255, np.uint8), glass).max() == 255


def test_only_sets_with_dark_glass_are_lit(planted, monkeypatch):
    monkeypatch.setitem(corpus.GLASS, "amibr", (230, 190, 215))
    part = corpus.folder_source(planted, "amibr", {})
    level = part.pictures()[0].open().levels[0]
    np.testing.assert_allclose(level.read(0, 20, 0, 20), 240, atol=2)
    assert part.name == "amibr_lit"
    assert corpus.folder_source(planted, "brecahad", {}).name == "brecahad"


def test_at_most_so_many_of_a_slide_are_drawn():
    table = pd.DataFrame({"slide": ["a"] * 50 + ["b"] * 3, "x": np.arange(53)})
    drawn = corpus.at_most(table, 10)
    assert drawn.groupby("slide").size().to_dict() == {"a": 10, "b": 3}
    assert drawn["x"].is_monotonic_increasing
    assert drawn["x"].tolist() == corpus.at_most(table, 10)["x"].tolist() != list(range(10)) + [50, 51, 52]


def test_windows_beyond_the_border_of_a_slide_are_seen_by_their_black():
    pixels = np.full((128, 128, 3), 200, np.uint8)
    pixels[:, 90:] = 0
    pixels[20, 20] = 0
    xy = np.array([[40.0, 64.0], [64.0, 64.0], [100.0, 64.0]])
    assert corpus.on_padding(pixels, xy).tolist() == [False, True, True]


def test_crops_are_the_pixels_around_the_labels_in_their_order_and_those_cut_off_are_left_out(planted):
    table = corpus.table_of(planted, "brecahad")
    crops, rows = corpus.crops_of(planted, "brecahad", table, size_px=40)
    assert rows.index.tolist() == [i for i in table.index if table["id"][i] != 99]
    centre = pd.DataFrame(crops[:, 20, 20]).groupby(rows["type"].to_numpy()).median()
    np.testing.assert_allclose(centre.loc["Apoptosis"], (40, 20, 60), atol=4)
    np.testing.assert_allclose(centre.loc["Mitosis"], (60, 90, 200), atol=4)


def test_the_probe_set_holds_held_out_slides_and_nothing_else(planted, tmp_path, capsys):
    corpus.write_probe_set(planted, tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as found:
        crops, labels, groups = found["crops"], found["labels"], found["groups"]
    table = corpus.table_of(planted, "amibr")
    assert set(groups) == held_out("amibr", table["slide"][:5])
    assert crops.shape == (len(groups), 60, 60, 3)
    assert labels.tolist() == ["normal"] * len(groups)
    assert f"of {len(set(groups))} held-out slides" in capsys.readouterr().out


def test_no_slide_of_the_real_data_is_on_both_sides(data_dir):
    for name in ("amibr", "brecahad", "nuinsseg", "tnbc"):
        table = corpus.table_of(data_dir, name)
        assert table.groupby("slide")["held_out"].nunique().eq(1).all()
        assert not table["held_out"].all()
    assert corpus.table_of(data_dir, "nucls_sample")["held_out"].all()
    assert corpus.table_of(data_dir, "consep")["held_out"].all()


def test_missing_data_are_named(monkeypatch):
    monkeypatch.setenv("LEMON_SC_DATA", "nowhere")
    with pytest.raises(FileNotFoundError, match="No data at 'nowhere'.*LEMON_SC_DATA"):
        corpus.home()


def test_the_large_corpus_takes_more_of_a_slide(planted):
    def n(most):
        return sum(len(p.look().xy) for p in corpus.folder_source(planted, "brecahad", most).pictures())

    every = n({})
    assert n({"brecahad": 5}) < n({"brecahad": 9}) < every
    assert corpus.LARGE["brecahad"] > corpus.MOST["brecahad"]
