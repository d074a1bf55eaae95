"""Many slides, here and on the workers of a cluster."""

import os
import shutil
import signal
import threading
import time

import dask
import numpy as np
import pytest
import spatialdata as sd
from children import METHOD, children
from distributed import Client, LocalCluster
from slow import CARD, failing, slow

import lemon_sc as lm
from lemon_sc.tl._embed_table import write_embedded
from lemon_sc.tl._slides import active_client, lean


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three slides on disk, with their nuclei extracted."""
    folder = tmp_path_factory.mktemp("slides")
    paths = []
    for k in range(3):
        sdata = lm.datasets.phantom(n_cells=60 + 20 * k, rng=k)
        lm.pp.extract_nuclei(sdata)
        paths.append(folder / f"s{k}.zarr")
        sdata.write(paths[-1])
    return paths


@pytest.fixture
def slides(written):
    return [sd.read_zarr(path) for path in written]


@pytest.fixture(scope="module")
def expected(written):
    tables = []
    for path in written:
        sdata = sd.read_zarr(path)
        lm.tl.embed(sdata)
        tables.append(sdata["table"])
    return tables


@pytest.fixture(scope="module")
def cluster():
    children()  # workers are children, too
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": METHOD}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def client(cluster):
    with cluster.as_current():
        yield cluster


def check(tables, expected):
    for table, other in zip(tables, expected, strict=True):
        np.testing.assert_array_equal(table.obsm["X_lemon"], other.obsm["X_lemon"])
        assert (table.obs["nucleus_qc"] == other.obs["nucleus_qc"]).all()
        assert table.uns["lemon_sc"]["embed"]["X_lemon"]["id"] == other.uns["lemon_sc"]["embed"]["X_lemon"]["id"]


def test_a_list_is_embedded_slide_by_slide(slides, expected):
    assert active_client() is None
    lm.tl.embed(slides)
    check([s["table"] for s in slides], expected)


def test_no_slides():
    with pytest.raises(ValueError, match="`data` must hold at least one slide, got 'an empty list'"):
        lm.tl.embed([])


def test_workers_give_the_same(slides, expected, client):
    assert active_client() is client
    lm.tl.embed(slides)
    check([s["table"] for s in slides], expected)


@pytest.mark.parametrize("mask", [None, "ring"])
def test_workers_get_what_they_need_and_no_more(slides, client, mask):
    """Outlines travel only where they are needed; the result is that of one process."""
    lm.pp.extract_nuclei(slides[0], mask=mask)
    sent = lean(slides[0], "table")
    n = len(slides[0]["nucleus_boundaries"])
    assert len(sent["nucleus_boundaries"]) == (1 if mask is None else n)
    assert sent["table"].n_vars == 0
    lm.tl.embed(slides[:1])
    on_worker = slides[0]["table"].obsm["X_lemon"]
    lm.tl.embed(slides[0])
    np.testing.assert_array_equal(on_worker, slides[0]["table"].obsm["X_lemon"])


def test_slides_on_disk_get_their_tables_there(written, expected, client, tmp_path):
    paths = [shutil.copytree(path, tmp_path / path.name) for path in written]
    lm.tl.embed([str(path) for path in paths], store=tmp_path / "rows")
    check([sd.read_zarr(path)["table"] for path in paths], expected)
    assert sorted(p.name for p in (tmp_path / "rows").iterdir()) == [path.name for path in paths]


def test_a_slide_that_fails_does_not_take_the_others_with_it(slides):
    bad = slides[1]
    del bad["table"].uns["lemon_sc"]["nuclei"]
    with pytest.raises(ExceptionGroup, match=r"1 of 3 slides were not embedded \(slide 's1'.*extract_nuclei"):
        lm.tl.embed(slides)
    assert "X_lemon" in slides[0]["table"].obsm
    assert "X_lemon" in slides[2]["table"].obsm
    assert "X_lemon" not in bad["table"].obsm


def test_a_slide_that_cannot_be_written_does_not_take_the_others_with_it(slides, monkeypatch):
    names = iter(["first"])

    def full(adata, made, **keywords):
        if next(names, None):
            raise OSError("no space left on device")
        write_embedded(adata, made, **keywords)

    monkeypatch.setattr("lemon_sc.tl._slides.write_embedded", full)
    with pytest.raises(ExceptionGroup, match=r"1 of 3 slides were not embedded .*no space left"):
        lm.tl.embed(slides)
    assert ["X_lemon" in sdata["table"].obsm for sdata in slides] == [False, True, True]


def test_a_failure_on_a_worker_is_reported_here(slides, client):
    del slides[1]["table"].uns["lemon_sc"]["nuclei"]
    with pytest.raises(ExceptionGroup) as raised:
        lm.tl.embed(slides, model=(failing, CARD))
    assert sorted(str(error)[:20] for error in raised.value.exceptions) == [
        "'nuclei' not found i",
        "the scanner was out ",
        "the scanner was out ",
    ]


def test_the_slide_of_a_lost_worker_is_embedded_on_another(slides, client, tmp_path):
    """One worker is killed in the middle of its work."""
    killed = []

    def kill():
        time.sleep(1.0)
        pid = next(iter(client.run(os.getpid).values()))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    lm.tl.embed(slides, model=(slow, CARD), batch_size=5, store=tmp_path / "rows")
    thread.join()
    assert killed
    for slide in slides:
        from_workers = slide["table"].obsm["X_lemon"].copy()
        lm.tl.embed(slide, model=(slow, CARD), batch_size=50)
        np.testing.assert_allclose(from_workers, slide["table"].obsm["X_lemon"], rtol=1e-6)


def test_what_is_no_slide_is_refused_before_anything_runs(slides):
    with pytest.raises(ValueError, match="must hold SpatialData, AnnData, or paths"):
        lm.tl.embed([slides[0], 3])
    assert "X_lemon" not in slides[0]["table"].obsm


def test_slides_of_one_name_are_kept_apart(slides, tmp_path):
    lm.tl.embed([slides[0], slides[0]], store=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s0-0.zarr", "s0-1.zarr"]
