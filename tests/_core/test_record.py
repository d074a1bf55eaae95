"""Records of provenance: ids that survive files, and what is out of date after a step was run again."""

import logging

import anndata as ad
import numpy as np
import pytest

from lemon_sc._core.record import digest, read_record, record_id, write_record


@pytest.fixture
def adata():
    return ad.AnnData(np.zeros((3, 2), np.float32))


def nuclei(adata, *, mask="", note="x"):
    write_record(adata, "nuclei", {"mask": mask, "affine": np.eye(3), "note": note}, decides=["mask", "affine"])


def embedding(adata, key="X", *, model="a"):
    made_from = record_id(adata, "nuclei")
    write_record(adata, "embed", {"model": model}, key=key, decides=["model"], made_from=made_from)


def probe(adata, key="probe", *, of="X"):
    write_record(adata, "probe", {"score": 1.0}, key=key, made_from=record_id(adata, "embed", of))


def stale(adata, verb, key):
    return adata.uns["lemon_sc"][verb][key].get("stale", "")


def test_a_step_run_again_with_other_settings_marks_all_that_hangs_on_it(adata, caplog):
    nuclei(adata)
    embedding(adata, "X")
    embedding(adata, "Y")
    probe(adata, of="X")
    with caplog.at_level(logging.WARNING):
        nuclei(adata, mask="nucleus")
    assert all(
        "mask: '' -> 'nucleus'" in stale(adata, *at) for at in [("embed", "X"), ("embed", "Y"), ("probe", "probe")]
    )
    assert "mask: '' -> 'nucleus'" in caplog.text
    assert 'uns["lemon_sc"]["probe"]["probe"]' in caplog.text


def test_the_same_settings_mark_nothing(adata, caplog):
    nuclei(adata)
    embedding(adata)
    probe(adata)
    with caplog.at_level(logging.WARNING):
        nuclei(adata, note="another remark")
        embedding(adata)
    assert not caplog.records
    assert not stale(adata, "embed", "X")
    assert not stale(adata, "probe", "probe")


def test_going_back_to_the_earlier_settings_takes_the_mark_off(adata):
    nuclei(adata)
    embedding(adata)
    probe(adata)
    nuclei(adata, mask="ring")
    nuclei(adata)
    assert not stale(adata, "embed", "X")
    assert not stale(adata, "probe", "probe")


def test_only_what_was_made_from_the_changed_step_is_marked(adata):
    nuclei(adata)
    embedding(adata, "X")
    embedding(adata, "Y")
    probe(adata, "of_x", of="X")
    probe(adata, "of_y", of="Y")
    embedding(adata, "X", model="b")
    assert "model: 'a' -> 'b'" in stale(adata, "probe", "of_x")
    assert not stale(adata, "probe", "of_y")
    assert not stale(adata, "embed", "X")


def test_running_the_dependent_step_again_takes_its_mark_off(adata):
    nuclei(adata)
    embedding(adata)
    nuclei(adata, mask="ring")
    embedding(adata)
    assert not stale(adata, "embed", "X")


def test_reading_a_record_that_is_out_of_date_says_why(adata, caplog):
    nuclei(adata)
    embedding(adata)
    nuclei(adata, mask="ring")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read_record(adata, "embed", key="X", fix="")
    assert "out of date" in caplog.text
    assert "mask: '' -> 'ring'" in caplog.text


def test_ids_survive_a_file(adata, tmp_path):
    nuclei(adata)
    embedding(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    before = record_id(again, "nuclei")
    nuclei(again)
    assert record_id(again, "nuclei") == before == record_id(adata, "nuclei")
    assert not stale(again, "embed", "X")


@pytest.mark.parametrize(
    ("one", "other"),
    [(40, 40.0), (np.float32(0.25), 0.25), ((1, 2), np.array([1, 2])), ({"a": 1, "b": 2}, {"b": 2, "a": 1})],
)
def test_a_digest_is_that_of_the_value(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(("one", "other"), [(40, 41), ("40", 40), ("a", "b"), ([1, 2], [2, 1]), ("", 0)])
def test_different_values_have_different_digests(one, other):
    assert digest(one) != digest(other)


def test_a_record_may_be_called_id(adata):
    nuclei(adata)
    embedding(adata, "id")
    probe(adata, of="id")
    nuclei(adata, mask="ring")
    assert stale(adata, "embed", "id")
    assert stale(adata, "probe", "probe")


def test_a_view_does_not_write_into_its_parent(adata):
    nuclei(adata)
    embedding(adata)
    view = adata[:2]
    with pytest.warns(ad.ImplicitModificationWarning):
        nuclei(view, mask="ring")
    assert stale(view, "embed", "X")
    assert not stale(adata, "embed", "X")
