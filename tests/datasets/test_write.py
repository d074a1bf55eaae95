import numpy as np
import pytest
import spatialdata_io
import tifffile
from anndata import AnnData
from shapely import get_coordinates
from spatialdata.transformations import get_transformation

from lemon_sc._core.errors import MissingKeyError
from lemon_sc.datasets import _write, write_phantom


@pytest.fixture(scope="module", params=["run", "old_run"])
def pair(request, tmp_path_factory):
    """A phantom, and what the Xenium reader makes of its files."""
    made = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("xenium") / "outs"
    write_phantom(made, path=folder)
    return made, spatialdata_io.xenium(folder, gex_only=False), folder


def test_reader_finds_the_same_elements(pair):
    made, read, _ = pair
    for kind in ("images", "labels", "points", "shapes", "tables"):
        assert set(getattr(read, kind)) == set(getattr(made, kind))


def test_reader_finds_the_same_pixels_and_labels(pair):
    made, read, _ = pair
    for name in [*made.images, *made.labels]:
        mine, theirs = made[name]["scale0"].image, read[name]["scale0"].image
        np.testing.assert_array_equal(theirs.to_numpy(), mine.to_numpy())
        assert theirs.dtype == mine.dtype
    assert list(read["he_image"]["scale0"].c.values) == list("rgb")
    affine = [get_transformation(s["he_image"]).to_affine_matrix(("x", "y"), ("x", "y")) for s in (made, read)]
    np.testing.assert_allclose(*affine, rtol=1e-14)


def test_reader_finds_the_same_polygons(pair):
    made, read, _ = pair
    for name in made.shapes:
        assert read[name].index.equals(made[name].index)
        assert list(read[name].columns) == list(made[name].columns) or set(read[name]) == set(made[name])
        mine, theirs = (get_coordinates(s[name].geometry.to_numpy()) for s in (made, read))
        np.testing.assert_allclose(theirs, mine, atol=1e-4)
        assert get_transformation(read[name]) == get_transformation(made[name])


def test_reader_finds_the_same_table_without_the_truth(pair):
    made, read, _ = pair
    mine, theirs = made["table"], read["table"]
    assert (theirs.X != mine.X).nnz == 0
    assert theirs.obs_names.tolist() == mine.obs_names.tolist()
    assert theirs.var_names.tolist() == mine.var_names.tolist()
    assert theirs.uns["spatialdata_attrs"] == mine.uns["spatialdata_attrs"]
    np.testing.assert_allclose(theirs.obsm["spatial"], mine.obsm["spatial"])
    seen = [c for c in mine.obs if not c.startswith("truth_")]
    assert set(theirs.obs) == set(seen)
    for column in seen:
        assert theirs.obs[column].tolist() == pytest.approx(mine.obs[column].tolist(), nan_ok=True)
        assert theirs.obs[column].dtype == mine.obs[column].dtype


def test_reader_drops_the_controls_unless_asked(pair):
    _, _, folder = pair
    names = spatialdata_io.xenium(folder, transcripts=False, aligned_images=False)["table"].var_names
    assert len(names) == 61
    assert not names.str.startswith("NegControl").any()


def test_reader_finds_the_same_transcripts(pair):
    made, read, _ = pair
    mine, theirs = (s["transcripts"].compute().set_index("transcript_id").sort_index() for s in (made, read))
    for column in ("x", "y", "z", "qv", "cell_id"):
        assert theirs[column].tolist() == mine[column].tolist()
    assert theirs["feature_name"].astype(str).tolist() == mine["feature_name"].astype(str).tolist()


def test_image_file_is_a_tiled_pyramid_with_its_pixel_size(pair):
    made, _, folder = pair
    with tifffile.TiffFile(folder / "he_image.ome.tif") as file:
        series = file.series[0]
        assert len(series.levels) == 5
        assert all(page.is_tiled for page in file.pages)
        assert series.axes == "YXS"
        meta = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        np.testing.assert_array_equal(
            np.moveaxis(series.levels[2].asarray(), -1, 0), made["he_image"]["scale2"].image.to_numpy()
        )
    assert (meta["PhysicalSizeX"], meta["PhysicalSizeXUnit"]) == (0.2738, "µm")


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(run, tmp_path):
    (tmp_path / "outs").mkdir()
    write_phantom(run, path=str(tmp_path / "outs"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        write_phantom(run, path=tmp_path / "outs")
    assert sorted(tmp_path.rglob("*")) == before


def test_failure_leaves_nothing_behind(run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(_write, "write_ome_tiff", fail)
    with pytest.raises(OSError, match="disk full"):
        write_phantom(run, path=tmp_path / "outs")
    assert list(tmp_path.iterdir()) == []


def test_only_phantoms_can_be_written(tmp_path):
    with pytest.raises(MissingKeyError, match=r"Pass what `lm.datasets.phantom\(\)` returned"):
        write_phantom(AnnData(np.zeros((3, 2))), path=tmp_path / "outs")
    assert list(tmp_path.iterdir()) == []
