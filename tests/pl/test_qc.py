import pytest

from lemon_sc import pl


def test_bars_are_the_counts(adata):
    ax = pl.nucleus_qc(adata)
    ok = int((adata.obs["nucleus_qc"] == "ok").sum())
    assert [bar.get_width() for bar in ax.patches] == [ok, 0, 0, 300 - ok, 0, 0, 0, 0, 0]
    assert [t.get_text() for t in ax.get_yticklabels()][:4] == ["ok", "no nucleus", "outside image", "border"]
    assert [t.get_text() for t in ax.texts][0] == f"{ok} ({ok / 300:.1%})"


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({}, "cells"),
        ({"nuclei": {"image_key": "he"}}, "cells"),
        ({"nuclei": {"image_key": "he"}, "segment": {"model": "m"}}, "nuclei"),
        ({"nuclei": {"unit": "patch"}}, "spots or bins"),
    ],
)
def test_the_axis_says_what_is_counted(adata, record, name):
    adata.uns["lemon_sc"] = record
    assert pl.nucleus_qc(adata).get_xlabel() == name


def test_without_extraction_it_says_what_to_do(adata):
    del adata.obs["nucleus_qc"]
    with pytest.raises(KeyError, match="'nucleus_qc' not found in `adata.obs`.*Run `lm.pp.extract_nuclei` first"):
        pl.nucleus_qc(adata)
