"""The corpus: what is cut, what is counted, and that it survives."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lemon_sc.train import corpus as corpus_module
from lemon_sc.train.corpus import balanced_counts, build_corpus, level_out
from lemon_sc.train.corpus_images import label_centroids
from lemon_sc.train.corpus_reader import export_corpus, open_corpus
from lemon_sc.train.corpus_sources import FolderSource, SlideSource, SpatialDataSource


def write_images(folder, n=3, side=150, seed=0):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    pixels = {f"im{k}": rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for k in range(n)}
    for name, array in pixels.items():
        Image.fromarray(array).save(folder / f"{name}.png")
    return pixels


def centres(n_images=3, side=150):
    """Two whole windows, one beyond the border and one without a centre in every image."""
    xy = [(50.0, 60.0), (80.0, 90.0), (10.0, 75.0), (np.nan, 4.0)]
    return pd.DataFrame([(f"im{k}", x, y) for k in range(n_images) for x, y in xy], columns=["image", "x", "y"])


def source(folder, name="a", **more):
    return FolderSource(
        **({"name": name, "licence": "CC0", "images": folder, "mpp": 0.25, "centroids": centres()} | more)
    )


def test_crops_are_the_pixels_around_the_centres_and_what_is_lost_is_counted(tmp_path):
    pixels = write_images(tmp_path / "i")
    made = build_corpus([source(tmp_path / "i", organ="skin")], tmp_path / "c.zarr")
    corpus = open_corpus(tmp_path / "c.zarr")
    assert corpus.crops.shape == (6, 60, 60, 3)
    truth = [pixels[f"im{k}"][y - 30 : y + 30, x - 30 : x + 30] for k in range(3) for x, y in [(50, 60), (80, 90)]]
    np.testing.assert_array_equal(corpus.crops, truth)
    assert made == corpus.manifest
    counts = {"n_nuclei": 12, "n_window_outside": 3, "n_without_centre": 3, "n_crops": 6}
    assert made["sources"] == [{"name": "a", "licence": "CC0", **counts}]
    assert [s["name"] for s in made["slides"]] == ["a/im0", "a/im1", "a/im2"]
    assert corpus.slide.tolist() == [0, 0, 1, 1, 2, 2]
    assert set(corpus.organ) == {"skin"}
    np.testing.assert_array_equal(corpus.read(np.array([4, 1])), [truth[4], truth[1]])


def test_files_are_known_by_their_sha256(tmp_path):
    import hashlib

    write_images(tmp_path / "i")
    made = build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    whole = hashlib.sha256((tmp_path / "i" / "im1.png").read_bytes()).hexdigest()
    assert made["images"][1]["sha256"] == {"im1.png": whole}
    assert {p.name for p in tmp_path.iterdir()} == {"i", "c.zarr"}  # nothing is left beside it


def test_another_pixel_size_is_resampled_to_a_quarter_micrometre(tmp_path):
    (tmp_path / "i").mkdir()
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None] * 2, (100, 100))
    for k in range(3):
        Image.fromarray(np.dstack([ramp] * 3)).save(tmp_path / "i" / f"im{k}.png")
    build_corpus([source(tmp_path / "i", mpp=0.5)], tmp_path / "c.zarr")
    column = open_corpus(tmp_path / "c.zarr").crops[0, 5:-5, 30, 0].astype(float)
    np.testing.assert_allclose(np.diff(column).mean(), 1.0, atol=0.02)  # 2 per px of 0.5 um, 1 per px of 0.25


def test_masks_give_centroids_as_a_loop_does(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 50), dtype=np.uint16)
    labels[3:9, 4:11], labels[20:31, 30:33], labels[35, 2] = 7, 2, 900
    labels[rng.integers(0, 40, 30), rng.integers(0, 50, 30)] = 55
    rows = [(np.nonzero(labels == v)[1].mean() + 0.5, np.nonzero(labels == v)[0].mean() + 0.5) for v in (2, 7, 55, 900)]
    np.testing.assert_allclose(label_centroids(labels), rows)
    two = np.zeros((9, 9), dtype=np.uint8)
    two[1:3, 1:3] = two[5:8, 5:8] = 255
    np.testing.assert_allclose(label_centroids(two), [(2, 2), (6.5, 6.5)])
    assert label_centroids(np.zeros((4, 4), dtype=np.uint8)).shape == (0, 2)


def test_images_without_annotation_go_through_the_detector(tmp_path):
    (tmp_path / "i").mkdir()
    y, x = np.mgrid[:150, :150] + 0.5
    for k, (cx, cy) in enumerate([(60, 70), (90, 80)]):
        nucleus = np.hypot(x - cx, y - cy) < 14
        Image.fromarray(np.where(nucleus[..., None], (90, 60, 140), (230, 190, 215)).astype(np.uint8)).save(
            tmp_path / "i" / f"im{k}.png"
        )
    made = build_corpus([source(tmp_path / "i", centroids=None)], tmp_path / "c.zarr")
    assert [i["n_crops"] for i in made["images"]] == [1, 1]
    centre = open_corpus(tmp_path / "c.zarr").crops[:, 30, 30]
    np.testing.assert_array_equal(centre, [(90, 60, 140)] * 2)


def test_an_interrupted_build_goes_on_and_is_the_same(tmp_path, monkeypatch):
    write_images(tmp_path / "i")
    build_corpus([source(tmp_path / "i")], tmp_path / "whole.zarr")
    calls = []

    def failing(entries, todo, size_px):
        calls.append(int(todo.sum()))
        yield from list(real(entries, todo, size_px))[:1]
        raise KeyboardInterrupt

    real = corpus_module.cut
    monkeypatch.setattr(corpus_module, "cut", failing)
    with pytest.raises(KeyboardInterrupt):
        build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()
    monkeypatch.setattr(corpus_module, "cut", real)
    build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    np.testing.assert_array_equal(open_corpus(tmp_path / "c.zarr").crops, open_corpus(tmp_path / "whole.zarr").crops)


def test_a_truncated_shard_is_found_and_made_again(tmp_path):
    write_images(tmp_path / "i")
    build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    before = open_corpus(tmp_path / "c.zarr").crops
    shard = tmp_path / "c.zarr" / "crops" / "c" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is not what was written.*Run `build_corpus` again"):
        open_corpus(tmp_path / "c.zarr")
    build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    np.testing.assert_array_equal(open_corpus(tmp_path / "c.zarr").crops, before)


def test_sharing_is_even_up_to_what_there_is():
    assert level_out(np.array([10, 2, 10]), 12).tolist() == [5, 2, 5]
    assert level_out(np.array([3, 3]), 100).tolist() == [3, 3]
    for n in range(25):
        have = np.array([4, 9, 1, 7, 3])
        got = level_out(have, n)
        assert got.sum() == min(n, 24)
        assert (got <= have).all()
        assert got[got < have].min(initial=99) >= got.max() - 1
    organ = np.array(["lung", "skin", "skin", "skin"])
    assert balanced_counts(np.array([50, 50, 50, 50]), organ, 60).tolist() == [30, 10, 10, 10]
    assert balanced_counts(np.array([6, 50, 50, 50]), organ, 60).tolist() == [6, 18, 18, 18]


def test_the_draw_is_even_without_repeats_and_decided_by_rng(tmp_path):
    write_images(tmp_path / "i", side=400)
    rng = np.random.default_rng(0)
    xy = pd.DataFrame({"image": np.repeat(["im0", "im1", "im2"], 40), "x": rng.uniform(30, 370, 120), "y": 200.0})
    given = {"centroids": xy, "organ": {"im0": "lung", "im1": "skin", "im2": "skin"}}

    def drawn(name, **more):
        build_corpus([source(tmp_path / "i", **given)], tmp_path / name, **more)
        import zarr

        return np.asarray(zarr.open_group(tmp_path / name, mode="r")["xy"])

    made = build_corpus([source(tmp_path / "i", **given)], tmp_path / "even.zarr", n=40, per_slide=30)
    assert [s["n_crops"] for s in made["slides"]] == [20, 10, 10]
    first = drawn("a.zarr", n=40)
    assert len(np.unique(first, axis=0)) == 40
    np.testing.assert_array_equal(first, drawn("b.zarr", n=40, rng=0))
    assert not np.array_equal(first, drawn("c.zarr", n=40, rng=1))


def test_a_slide_with_a_table(tmp_path):
    import tifffile

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (300, 280, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pixels, photometric="rgb", tile=(64, 64))
    xy = np.array([[200.0, 250.0], [60.0, 60.0], [20.0, 100.0]])
    slide = SlideSource(name="s", licence="CC0", image=tmp_path / "s.tif", nuclei=xy, mpp=0.25, organ="lung")
    build_corpus([slide], tmp_path / "c.zarr", least_slides=1)
    crops = open_corpus(tmp_path / "c.zarr").crops
    truth = [pixels[y - 30 : y + 30, x - 30 : x + 30] for x, y in [(60, 60), (200, 250)]]
    assert sorted(c.tobytes() for c in crops) == sorted(t.tobytes() for t in truth)
    silent = SlideSource(name="s", licence="CC0", image=tmp_path / "s.tif", nuclei=xy)
    with pytest.raises(ValueError, match="states no pixel size. Pass `mpp=`"):
        build_corpus([silent], tmp_path / "d.zarr", least_slides=1)


def test_a_spatialdata_gives_the_crops_that_extraction_gives(tmp_path):
    import lemon_sc as lm

    sdata = lm.datasets.phantom(n_cells=60)
    lm.pp.extract_nuclei(sdata, store="memory", size_px=60)
    table = sdata["table"]
    ok = ~table.obs["nucleus_qc"].isin(["no_nucleus", "outside_image", "border"]).to_numpy()
    expected = {c.tobytes() for c in table.obsm["nuclei"][ok]}
    given = SpatialDataSource(name="p", licence="BSD-3-Clause", data=sdata)
    build_corpus([given], tmp_path / "c.zarr", least_slides=1)
    found = {c.tobytes() for c in open_corpus(tmp_path / "c.zarr").crops}
    assert expected
    assert expected <= found  # nuclei without a cell are cut, too


@pytest.mark.parametrize("quality", [None, 95])
def test_plain_forms_hold_the_same_and_notice_damage(tmp_path, quality):
    write_images(tmp_path / "i")
    build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    export_corpus(tmp_path / "c.zarr", tmp_path / "plain", quality=quality)
    first, second = open_corpus(tmp_path / "c.zarr"), open_corpus(tmp_path / "plain")
    apart = np.abs(first.crops.astype(int) - second.crops)
    assert apart.max() == 0 if quality is None else apart.mean() < 8  # noise is what JPEG keeps worst
    assert first.manifest == second.manifest
    np.testing.assert_array_equal(first.slide, second.slide)
    file = tmp_path / "plain" / ("crops.npy" if quality is None else "crops.jpegs")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cut off"):
        open_corpus(tmp_path / "plain")
    with pytest.raises(FileExistsError, match="Remove it"):
        export_corpus(tmp_path / "c.zarr", tmp_path / "plain")


def test_too_few_slides_and_what_else_is_wrong_is_said(tmp_path):
    folder, out = tmp_path / "i", tmp_path / "c.zarr"
    write_images(folder)
    bad = [
        (ValueError, "Only 1 of 1 slides give crops", [source(folder, slide="one")]),
        (ValueError, "Sources share a name: ", [source(folder), source(folder)]),
        (ValueError, "needs a name and a licence", [source(folder, licence="")]),
        (ValueError, "`sources` must hold at least one", []),
        (ValueError, "both `masks` and `centroids`", [source(folder, masks=folder)]),
        (ValueError, "`mpp` must be", [source(folder, mpp=float("nan"))]),
        (KeyError, "'im0' not found in `organ of source 'a'`", [source(folder, organ={"im9": "x"})]),
        (ValueError, "name 1 images that are not in the folder", [source(folder, centroids=centres(4))]),
        (FileNotFoundError, "has no mask", [source(folder, centroids=None, masks=tmp_path)]),
        (
            ValueError,
            "said to be of several organs",
            [source(folder, slide="s", organ={"im0": "a", "im1": "b", "im2": "a"})],
        ),
    ]
    for kind, message, sources in bad:
        with pytest.raises(kind, match=message):
            build_corpus(sources, out)
    with pytest.raises(ValueError, match="`n` must be an int >= 1, got 0"):
        build_corpus([source(folder)], out, n=0)
    assert not out.exists()


def test_damaged_floating_and_grey_images_are_named(tmp_path):
    write_images(tmp_path / "i")
    Image.fromarray(np.full((150, 150), np.nan, dtype=np.float32)).save(tmp_path / "i" / "im1.tif")
    (tmp_path / "i" / "im1.png").unlink()
    with pytest.raises(ValueError, match=r"im1.tif' is floating point; an H&E is RGB"):
        build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    (tmp_path / "i" / "im1.tif").unlink()
    whole = (tmp_path / "i" / "im0.png").read_bytes()
    (tmp_path / "i" / "im1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"im1.png' cannot be read: it is damaged, or cut off"):
        build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_other_things_are_never_overwritten(tmp_path):
    write_images(tmp_path / "i")
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not a corpus"):
        build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    assert (tmp_path / "c.zarr" / "note.txt").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="No corpus at"):
        open_corpus(tmp_path / "none")


def test_the_manifest_is_plain_json(tmp_path):
    write_images(tmp_path / "i")
    made = build_corpus([source(tmp_path / "i")], tmp_path / "c.zarr")
    assert json.loads(json.dumps(made)) == made
