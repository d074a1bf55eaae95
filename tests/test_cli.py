import numpy as np
import pytest
import spatialdata as sd

import lemon_sc as lm
from lemon_sc.cli import main


def test_demo_leaves_a_page_with_its_pictures(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--cells", "300"]) == 0
    page = (tmp_path / "demo" / "index.html").read_text()
    pictures = {p.stem for p in (tmp_path / "demo").glob("*.png")}
    assert pictures >= {"outlines", "qc", "nuclei", "nuclei_area", "morphology_map", "markers", "morans_i", "probe"}
    assert all(f'src="{name}.png"' in page for name in pictures)
    assert "um per px of the H&amp;E" in page
    assert "index.html" in capsys.readouterr().out


def test_run_on_the_real_folder(xenium_outs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", str(xenium_outs), "--out", str(out)]) == 0
    table = sd.read_zarr(out / "annotated.zarr")["table"]
    assert np.isfinite(table.obsm["X_lemon"]).all(axis=1).sum() == 107
    assert table.uns["moranI"]["I"].nlargest(5).index.isin(["CD3E", "IL7R", "PTPRC", "CXCR4", "CYTIP"]).sum() >= 3, (
        "small, round, dark nuclei are T cells"
    )
    assert main(["run", str(xenium_outs), "--out", str(out)]) == 1
    assert "exists already. Pass --overwrite" in capsys.readouterr().err


def test_run_on_a_store_with_an_image_added(tmp_path):
    from spatialdata_io import xenium

    lm.datasets.write_phantom(lm.datasets.phantom(n_cells=200), path=tmp_path / "outs")
    image = next((tmp_path / "outs").rglob("*he_image.ome.tif"))
    alignment = next((tmp_path / "outs").rglob("*he_imagealignment.csv"))
    xenium(tmp_path / "outs", aligned_images=False, transcripts=False).write(tmp_path / "in.zarr")
    command = ["run", str(tmp_path / "in.zarr"), "--out", str(tmp_path / "out")]
    command += ["--image", str(image), "--alignment", str(alignment)]
    assert main(command) == 0
    assert main([*command, "--overwrite"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {"annotated.zarr"}
    again = sd.read_zarr(tmp_path / "out" / "annotated.zarr")
    assert "he_image" in again.images
    assert "morphology" in again["table"].obs


def test_embed_writes_the_tables_back(tmp_path, capsys):
    paths = [tmp_path / f"s{k}.zarr" for k in range(2)]
    for k, path in enumerate(paths):
        lm.datasets.phantom(n_cells=80, rng=k).write(path)
    command = ["embed", *map(str, paths), "--key-added", "X_morph", "--store", str(tmp_path / "rows")]
    assert main(command) == 0
    for k, path in enumerate(paths):
        expected = lm.datasets.phantom(n_cells=80, rng=k)
        lm.pp.extract_nuclei(expected)
        lm.tl.embed(expected)
        table = sd.read_zarr(path)["table"]
        np.testing.assert_array_equal(table.obsm["X_morph"], expected["table"].obsm["X_lemon"])
        assert set(table.obs.columns) >= {"nucleus_qc", "X_morph_encoder"}
    assert {p.name for p in tmp_path.iterdir()} == {"s0.zarr", "s1.zarr", "rows"}
    (paths[0] / "images").rename(tmp_path / "lost")
    assert main(command) == 1
    assert "1 of 2 slides were not embedded (slide 's0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "nowhere", "--out", "x"], "'nowhere' does not exist. Pass the Xenium output folder"),
        (["run", ".", "--out", "x"], "holds neither 'experiment.xenium' nor a SpatialData zarr store"),
        (["demo", "--out", "x", "--cells", "3"], "n_cells"),
        (["embed", "nowhere.zarr"], "'nowhere.zarr' does not exist, or is no folder"),
        (["embed", ".", "--key-added", "a/b"], "`--key-added` must hold only letters"),
    ],
)
def test_errors_are_one_line_and_exit_1(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("lemon-sc: ")
    assert message in error
    assert not (tmp_path / "x" / "index.html").exists()


def test_a_run_without_an_image_says_how_to_add_one(xenium_outs, tmp_path, capsys):
    assert main(["run", str(xenium_outs), "--out", str(tmp_path / "o"), "--image-key", "HE"]) == 1
    assert "Add the H&E with --image and --alignment" in capsys.readouterr().err


def test_traceback_on_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "run", "nowhere", "--out", "x"])


def test_doctor_says_what_is_there_and_what_is_missing(capsys, monkeypatch):
    import importlib.metadata

    monkeypatch.delenv("LEMON_SC_WEIGHTS", raising=False)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"torch           {importlib.metadata.version('torch')}" in text
    assert "morphometry     ready" in text
    assert "lemon           not ready" in text
    assert "aliceblondel/LEMON" in text
    version = importlib.metadata.version

    def without_timm(name):
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_timm)
    assert main(["doctor"]) == 1
    assert "timm            MISSING: pip install timm" in capsys.readouterr().out


def test_help_and_version(capsys):
    for flag in ("--help", "--version"):
        with pytest.raises(SystemExit, match="0"):
            main([flag])
    assert lm.__version__ in capsys.readouterr().out
