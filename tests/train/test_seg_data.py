"""Folders of images with masks, and what is drawn from them."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from seg_fields import write_set

from lemon_sc.train.seg_batches import draw_images, make_batch, seg_batches
from lemon_sc.train.seg_data import NucleiFolder, open_nuclei, rescaled
from lemon_sc.train.seg_recipes import seg_small

CLASSES = ("background", "round", "long")


@pytest.fixture
def folder(tmp_path):
    return NucleiFolder(path=write_set(tmp_path / "drawn", types=True, n=6), licence="CC0")


def test_a_set_is_what_is_in_the_folder(folder):
    data = open_nuclei([folder], classes=CLASSES)
    assert [f.name for f in data.fields] == [f"drawn/f{k}" for k in range(6)]
    assert [f.group for f in data.fields] == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert data.sources == ({"name": "drawn", "licence": "CC0", "n_images": 6},)
    pixels, labels = data.read(1)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(folder.path / "images" / "f1.png")))
    np.testing.assert_array_equal(labels, np.asarray(Image.open(folder.path / "masks" / "f1.png")))
    types = data.fields[1].types
    assert types[0] == 0
    assert {CLASSES[types[i]] for i in range(1, labels.max() + 1, 2)} == {"round"}
    assert data.present().all()
    assert data.present().shape == (6, 2)
    assert open_nuclei([folder]).fields[0].types is None
    assert open_nuclei([folder]).present().shape == (6, 0)


def test_whole_groups_are_split_off(folder, tmp_path):
    other = NucleiFolder(path=write_set(tmp_path / "other", n=4, seed=1), licence="MIT")
    data = open_nuclei([folder, other])
    rest, out = data.split(0.3, rng=0)
    assert sorted([f.name for f in rest.fields] + [f.name for f in out.fields]) == [f.name for f in data.fields]
    for source in ("drawn", "other"):
        groups = [{f.group for f in part.fields if f.source == source} for part in (rest, out)]
        assert not groups[0] & groups[1]
        assert all(groups)
    assert [s["n_images"] for s in out.sources] == [2, 2]
    assert [f.name for f in data.split(0.3, rng=0)[1].fields] == [f.name for f in out.fields]
    assert len({tuple(f.name for f in data.split(0.3, rng=k)[1].fields) for k in range(8)}) > 1


def test_a_single_group_is_not_split(tmp_path):
    data = open_nuclei([NucleiFolder(path=write_set(tmp_path / "a", n=2), licence="CC0")])
    with pytest.raises(ValueError, match="are one group .*cannot be split without a leak"):
        data.split(0.5)
    with pytest.raises(ValueError, match="`share` must lie between 0 and 1"):
        data.split(1)


def test_other_pixel_sizes_are_resampled(folder):
    fine = open_nuclei([NucleiFolder(path=folder.path, licence="CC0", mpp=0.5)])
    pixels, labels = fine.read(0)
    plain = open_nuclei([folder]).read(0)
    assert pixels.shape == (128, 128, 3)
    np.testing.assert_array_equal(labels[::2, ::2], plain[1])
    np.testing.assert_array_equal(labels[1::2, 1::2], plain[1])
    near = open_nuclei([NucleiFolder(path=folder.path, licence="CC0", mpp=0.24)])
    assert near.read(0)[0].shape == (64, 64, 3)
    half = rescaled(*plain, scale=0.5)
    assert half[1].shape == (32, 32)
    counts = [np.bincount(v.ravel(), minlength=9)[1:] for v in (plain[1], half[1])]
    np.testing.assert_allclose(counts[1], counts[0] / 4, rtol=0.15, atol=3)


def test_the_record_knows_masks_and_classes(folder):
    first = open_nuclei([folder], classes=CLASSES).record()
    assert first == open_nuclei([folder], classes=CLASSES).record()
    mask = folder.path / "masks" / "f0.png"
    Image.fromarray(np.asarray(Image.open(mask)) * np.uint16(2)).save(mask)
    assert open_nuclei([folder], classes=CLASSES).record()["sha256"] != first["sha256"]


def test_types_may_be_called_otherwise(folder):
    renamed = NucleiFolder(path=folder.path, licence="CC0", types={"long": "spindle", "round": "spindle"})
    data = open_nuclei([renamed], classes=("background", "spindle"))
    assert data.fields[0].types.tolist()[1:] == [1] * (len(data.fields[0].types) - 1)


def spoil_mask(path):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path / "masks" / "f0.png")


def untyped(path):
    table = pd.read_csv(path / "nuclei.csv")
    table.loc[0, "type"] = None
    table.to_csv(path / "nuclei.csv", index=False)


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (lambda p: (p / "masks" / "f2.png").unlink(), FileNotFoundError, r"1 of 6 images have no mask.*\['f2.png'\]"),
        (spoil_mask, ValueError, "is 9 x 9 px, its image is 64 x 64 px"),
        (lambda p: (p / "masks" / "f0.png").write_bytes(b"x"), OSError, "damaged, or cut off"),
        (lambda p: np.save(p / "masks" / "f0.npy", np.zeros((64, 64))) or (p / "masks" / "f0.png").unlink(),
         ValueError, "must be an instance map"),
        (lambda p: (p / "nuclei.csv").unlink(), FileNotFoundError, "types were asked for"),
        (untyped, ValueError, "1 of .* nuclei of 'drawn' have no type"),
        (lambda p: [f.unlink() for f in (p / "images").iterdir()], FileNotFoundError, "There are no images"),
    ],
    ids=["no mask", "other size", "damaged", "floats", "no table", "no type", "no images"],
)  # fmt: skip
def test_sets_that_cannot_be_used(folder, spoil, error, match):
    spoil(folder.path)
    with pytest.raises(error, match=match):
        open_nuclei([folder], classes=CLASSES).read(0)


def test_classes_that_do_not_match_the_types(folder):
    with pytest.raises(ValueError, match=r"no class: \['long'\] \(classes: \['round', 'oval'\]"):
        open_nuclei([folder], classes=("background", "round", "oval"))
    with pytest.raises(ValueError, match="different names"):
        open_nuclei([folder, folder])
    with pytest.raises(KeyError, match="'type' not found"):
        open_nuclei([NucleiFolder(path=write_set(folder.path.parent / "b"), licence="CC0")], classes=CLASSES)


def small(**changes):
    return seg_small(**{"size_px": 32, "batch": 3, "epoch_length": 12, "epochs": 2, **changes})


def test_a_batch_follows_from_seed_and_step(folder):
    data, recipe = open_nuclei([folder], classes=CLASSES), small()
    whole = list(seg_batches(data, recipe, steps=range(8)))
    assert len(whole) == 8
    for part, batch in zip(seg_batches(data, recipe, steps=range(5, 8)), whole[5:], strict=True):
        assert (part.images == batch.images).all()
        assert (part.hv == batch.hv).all()
    first = whole[0]
    assert first.images.shape == (3, 32, 32, 3)
    assert first.hv.shape == (3, 2, 32, 32)
    assert set(first.types.unique().tolist()) <= {0, 1, 2}
    assert ((first.types > 0) == (first.nuclei > 0)).all()
    assert any((whole[0].images != b.images).any() for b in whole[1:])
    other = make_batch(data, small(seed=1), draw_images(data, recipe, 0)[:3], step=0)
    assert (other.images != first.images).any()


def test_small_sets_are_drawn_more_often(folder, tmp_path):
    few = NucleiFolder(path=write_set(tmp_path / "few", n=2, seed=2), licence="CC0")
    data = open_nuclei([folder, few])
    rows = draw_images(data, small(epoch_length=6000, batch=1), 0)
    share = np.isin(rows, [6, 7]).mean()
    expected = 2 * (1 + 1) / (2 * (1 + 1) + 6 * (1 + (0.85 * 2 + 0.15 * 8) / (0.85 * 6 + 0.15 * 8)))
    assert share == pytest.approx(expected, abs=0.03)
    assert share > 2 / 8
