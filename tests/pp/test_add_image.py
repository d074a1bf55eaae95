import dask.array as da
import numpy as np
import pytest
import spatialdata as sd
import tifffile
import zarr
from scenes import blob_scene, place
from spatialdata.transformations import get_transformation

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.io.tiff import TiffLevel

MATRIX = place(0.2738, 12.0, flip=True)


@pytest.fixture
def bare():
    """A SpatialData without its H&E, the pixels (h, w, 3), and the alignment that belongs to them."""
    sdata, _ = blob_scene(MATRIX, side=4)
    pixels = np.moveaxis(np.asarray(sdata["he_image"]), 0, 2)
    matrix = get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    lm.pp.extract_nuclei(sdata, store="memory")
    crops = sdata["table"].obsm["nuclei"].copy()
    fresh, _ = blob_scene(MATRIX, side=4)
    del fresh.images["he_image"]
    return fresh, pixels, matrix, crops


def write_tiff(path, pixels):
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate"}
    mpp = {"PhysicalSizeX": 0.2738, "PhysicalSizeY": 0.2738, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(pixels, subifds=1, metadata={"axes": "YXS", **mpp}, **options)
        half = pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]
        half = half.reshape(len(half) // 2, 2, -1, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
        tif.write(half, subfiletype=1, **options)


def write_ome_zarr(path, pixels, version):
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("0", data=np.moveaxis(pixels, 2, 0)[None, :, None], chunks=(1, 1, 1, 64, 64))
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = {"type": "scale", "scale": [1, 1, 1, 0.2738, 0.2738]}
    meta = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}]
    group.attrs.update({"ome": {"version": "0.5", "multiscales": meta}} if version == "0.5" else {"multiscales": meta})


@pytest.mark.parametrize("source", ["tiff", "zarr 0.4", "zarr 0.5", "numpy", "numpy cyx", "dask", "zarr array"])
def test_from_wherever_the_nuclei_are_the_same(bare, tmp_path, source):
    sdata, pixels, matrix, crops = bare
    if source == "tiff":
        image = tmp_path / "he.ome.tif"
        write_tiff(image, pixels)
    elif source.startswith("zarr 0"):
        image = tmp_path / "he.zarr"
        write_ome_zarr(image, pixels, source.removeprefix("zarr "))
    else:
        image = {
            "numpy": pixels,
            "numpy cyx": np.moveaxis(pixels, 2, 0),
            "dask": da.from_array(pixels, chunks=(50, 60, 3)),
            "zarr array": zarr.array(pixels, chunks=(64, 64, 3)),
        }[source]
    np.savetxt(tmp_path / "a.csv", matrix, delimiter=",")
    lm.pp.add_image(sdata, image, alignment=tmp_path / "a.csv")
    lm.pp.extract_nuclei(sdata, store="memory")
    np.testing.assert_array_equal(sdata["table"].obsm["nuclei"], crops)


def test_a_pyramid_is_kept_lazy_and_survives_writing(bare, tmp_path, monkeypatch):
    sdata, pixels, matrix, crops = bare
    write_tiff(tmp_path / "he.ome.tif", pixels)
    decoded = []
    segment = TiffLevel.segment
    monkeypatch.setattr(TiffLevel, "segment", lambda self, page, i: decoded.append(i) or segment(self, page, i))
    lm.pp.add_image(sdata, str(tmp_path / "he.ome.tif"), alignment=matrix)
    assert decoded == [], "adding an image decodes nothing"
    assert list(sdata["he_image"].children) == ["scale0", "scale1"]
    assert sdata.attrs["lemon_sc"]["images"]["he_image"]["mpp"] == [0.2738, 0.2738]
    sdata.write(tmp_path / "all.zarr")
    again = sd.read_zarr(tmp_path / "all.zarr")
    lm.pp.extract_nuclei(again, store="memory")
    np.testing.assert_array_equal(again["table"].obsm["nuclei"], crops)
    assert again.attrs["lemon_sc"]["images"]["he_image"]["path"].endswith("he.ome.tif")


def test_an_image_that_xenium_placed_is_used_as_it_is(xenium_outs):
    spatialdata_io = pytest.importorskip("spatialdata_io")
    placed = spatialdata_io.xenium(xenium_outs, transcripts=False)
    added = spatialdata_io.xenium(xenium_outs, transcripts=False, aligned_images=False)
    lm.pp.add_image(added, xenium_outs / "he_image.ome.tif", alignment=xenium_outs / "he_imagealignment.csv")
    for sdata in (placed, added):
        lm.pp.extract_nuclei(sdata, store="memory")
    np.testing.assert_array_equal(placed["table"].obsm["nuclei"], added["table"].obsm["nuclei"])


def test_an_alignment_that_contradicts_the_file_is_noticed(bare, tmp_path):
    sdata, pixels, matrix, _ = bare
    write_tiff(tmp_path / "he.ome.tif", pixels)
    lm.pp.add_image(sdata, tmp_path / "he.ome.tif", alignment=np.diag([2, 2, 1]) @ matrix)
    with pytest.raises(ValueError, match="its file states 0.2738"):
        lm.pp.extract_nuclei(sdata)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((50, 60, 4), np.uint8), "The array passed as `image` has 4 channels; .* Leave the alpha channel out"),
        (np.zeros((50, 60, 3), np.uint16), "The array passed as `image` is uint16; an H&E is uint8"),
        (np.zeros((50, 60), np.uint8), "The array passed as `image` has 1 channel; an H&E has 3"),
        (np.zeros((50, 60, 70), np.uint8), "colours along the first or the last axis"),
        (np.zeros((3, 60, 3), np.uint8), "colours along the first or the last axis"),
        ("none.tif", "No image at 'none.tif'"),
        (42, "must be a path, or an array"),
    ],
)
def test_bad_images_change_nothing(bare, image, message):
    sdata, _, matrix, _ = bare
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        lm.pp.add_image(sdata, image, alignment=matrix)
    assert list(sdata.images) == []
    assert sdata.attrs == {}


def test_a_file_that_is_no_rgb_is_named(bare, tmp_path):
    sdata, pixels, matrix, _ = bare
    path = tmp_path / "he.tif"
    for image, message in (
        (np.concatenate([pixels, pixels[..., :1]], axis=2), "has 4 channels.*an H&E has 3"),
        (pixels.astype(np.uint16), "is uint16"),
    ):
        tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64))
        with pytest.raises(ValueError, match=rf"'.*he\.tif' {message}"):
            lm.pp.add_image(sdata, path, alignment=matrix)
    assert list(sdata.images) == []


@pytest.mark.parametrize("name", ["table", "nucleus_boundaries", "Table"])
def test_the_name_of_another_element_is_refused(bare, name):
    sdata, pixels, matrix, _ = bare
    kind = "shapes" if name == "nucleus_boundaries" else "tables"
    message = rf"`key_added` must be a name of its own.*got '{name}'. There is `sdata.{kind}\['{name.lower()}'\]`"
    with pytest.raises(ValueError, match=message):
        lm.pp.add_image(sdata, pixels, alignment=matrix, key_added=name)
    assert list(sdata.images) == []
    assert sdata.attrs == {}


@pytest.mark.filterwarnings("ignore:Key `he_image` already exists")
def test_an_image_is_replaced_by_one_of_its_name_but_not_of_another_case(bare):
    sdata, pixels, matrix, crops = bare
    lm.pp.add_image(sdata, 255 - pixels, alignment=matrix)
    lm.pp.add_image(sdata, pixels, alignment=matrix)
    lm.pp.extract_nuclei(sdata, store="memory")
    np.testing.assert_array_equal(sdata["table"].obsm["nuclei"], crops)
    with pytest.raises(ValueError, match=r"There is `sdata.images\['he_image'\]`"):
        lm.pp.add_image(sdata, pixels, alignment=matrix, key_added="HE_image")


def test_bad_folders(bare, tmp_path):
    sdata, _, matrix, _ = bare
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not an OME-Zarr image"):
        lm.pp.add_image(sdata, tmp_path / "empty", alignment=matrix)
    zarr.open_group(tmp_path / "plain", mode="w")
    with pytest.raises(ValueError, match="no 'multiscales' metadata"):
        lm.pp.add_image(sdata, tmp_path / "plain", alignment=matrix)
    group = zarr.open_group(tmp_path / "deep", mode="w")
    group.create_array("0", data=np.zeros((3, 4, 8, 8), np.uint8))
    axes = [{"name": a} for a in "czyx"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    with pytest.raises(ValueError, match=r"\{'z': 4\} deep; an H&E is a single plane"):
        lm.pp.add_image(sdata, tmp_path / "deep", alignment=matrix)


def test_other_bad_arguments(bare):
    sdata, pixels, matrix, _ = bare
    with pytest.raises(ValueError, match="`key_added` must hold only letters"):
        lm.pp.add_image(sdata, pixels, alignment=matrix, key_added="H&E")
    with pytest.raises(MissingKeyError, match=r"'globl' not found in `sdata.coordinate_systems`.*'global'"):
        lm.pp.add_image(sdata, pixels, alignment=matrix, coordinate_system="globl")
    assert list(sdata.images) == []


def test_without_alignment_a_warning_says_what_is_assumed(bare, caplog):
    sdata, pixels, _, _ = bare
    lm.pp.add_image(sdata, pixels)
    assert "no alignment" in caplog.text
    np.testing.assert_array_equal(
        get_transformation(sdata["he_image"]).to_affine_matrix(("x", "y"), ("x", "y")), np.eye(3)
    )
