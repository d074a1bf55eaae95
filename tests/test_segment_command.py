"""`lemon-sc segment`: a slide file in, a store and a file for QuPath out."""

import json

import numpy as np
import pytest
import spatialdata as sd
import tifffile
from coded_slides import field

from lemon_sc.cli import main

N = 30


@pytest.fixture
def slide(tmp_path):
    labels = field((256, 320), n=N, radius=(11, 14))
    image = np.where((labels > 0)[..., None], (110, 80, 150), (225, 180, 210)).astype(np.uint8)
    path = tmp_path / "slide.ome.tif"
    tifffile.imwrite(path, image, tile=(128, 128), photometric="rgb")
    return path


def run(*arguments):
    return main(["segment", *map(str, arguments)])


def test_a_slide_becomes_a_store_and_a_file_for_qupath(slide, tmp_path, capsys):
    out, geojson = tmp_path / "nuclei.zarr", tmp_path / "nuclei.geojson"
    options = [slide, "--out", out, "--mpp", 0.25, "--model", "haematoxylin", "--geojson", geojson]
    assert run(*options) == 0
    assert "To embed them" in capsys.readouterr().out
    sdata = sd.read_zarr(out)
    assert [name for _, name, _ in sdata.gen_elements()] == ["he_nuclei", "he_nuclei_table"]
    assert abs(sdata["he_nuclei_table"].n_obs - N) <= 2
    assert sdata.attrs["lemon_sc"]["images"]["he_image"]["path"] == str(slide)
    features = json.loads(geojson.read_text())["features"]
    assert len(features) == sdata["he_nuclei_table"].n_obs
    corners = np.array(features[0]["geometry"]["coordinates"][0])
    assert corners[:, 0].mean() == pytest.approx(sdata["he_nuclei"].geometry.iloc[0].centroid.x / 0.25, abs=3)
    assert run(*options) == 1
    assert "exists already. Pass --overwrite" in capsys.readouterr().err
    assert run(*options, "--overwrite") == 0
    assert not list(tmp_path.glob(".*part*"))


def test_errors_leave_no_files(slide, tmp_path, capsys):
    out = tmp_path / "nuclei.zarr"
    assert run(slide, "--out", out, "--model", "haematoxylin") == 1
    assert "Pass `mpp=`" in capsys.readouterr().err
    assert run(tmp_path / "absent.tif", "--out", out, "--mpp", 0.25) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["slide.ome.tif"]
