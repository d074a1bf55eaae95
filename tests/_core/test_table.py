import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from lemon_sc._core.errors import MissingKeyError
from lemon_sc._core.optional import require
from lemon_sc._core.record import read_record, write_record
from lemon_sc._core.table import as_table, check_key, get_rep


def test_both_containers_lead_to_the_table(scene):
    sdata, _ = scene
    assert as_table(sdata) is sdata["table"]
    assert as_table(sdata["table"]) is sdata["table"]


@pytest.mark.parametrize("name", ["spatial", "nuclei", "nucleus_xy", "lemon_sc", "spatialdata_attrs"])
def test_names_that_hold_something_else(name):
    with pytest.raises(ValueError, match="`key_added` must not be a name that holds something else"):
        check_key(name)


@pytest.mark.parametrize("name", ["a/b", "H&E", "", "__x", "a b", ".", "..", None])
def test_names_that_spatialdata_cannot_write(name):
    with pytest.raises(ValueError, match="`key_added` must hold only letters, digits"):
        check_key(name)


def test_representations():
    adata = ad.AnnData(np.zeros((3, 2)), obsm={"X_a": np.ones((3, 4)), "text": np.array([["a"], ["b"], ["c"]])})
    assert get_rep(adata, "X_a").shape == (3, 4)
    with pytest.raises(MissingKeyError, match="Did you mean 'X_a'"):
        get_rep(adata, "X_b")
    for bad in (
        adata.obsm["text"],
        np.ones((3, 2), np.complex64),
        pd.DataFrame({"a": ["x", "y", "z"]}, index=list("012")),
    ):
        adata.obsm["text"] = bad
        with pytest.raises(ValueError, match="must be a numeric 2-D array"):
            get_rep(adata, "text")


def test_representations_of_other_kinds():
    """Sparse ones, and data frames with columns that can be NA."""
    values = np.array([[1.0, 0.0], [0.0, 2.0], [np.nan, 3.0]])
    adata = ad.AnnData(np.zeros((3, 2)), obs=pd.DataFrame(index=list("abc")))
    adata.obsm["sparse"] = sparse.csr_matrix(values)
    adata.obsm["frame"] = pd.DataFrame(values, index=list("abc"), columns=["x", "y"]).convert_dtypes()
    adata.obsm["frame"]["x"] = adata.obsm["frame"]["x"].astype("Float32")
    for name in ("sparse", "frame"):
        np.testing.assert_array_equal(get_rep(adata, name), values)


def test_records_are_found_again_or_say_what_to_run(tmp_path):
    adata = ad.AnnData(np.zeros((3, 2)))
    with pytest.raises(MissingKeyError, match="'embed' not found .*Run it"):
        read_record(adata, "embed", fix="Run it.")
    write_record(adata, "embed", {"dim": 3}, key="X_a")
    write_record(adata, "nuclei", {"mpp": np.array([0.25, 0.25])})
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert read_record(again, "embed", key="X_a", fix="")["dim"] == 3
    assert read_record(again, "nuclei", fix="")["mpp"].tolist() == [0.25, 0.25]
    with pytest.raises(MissingKeyError, match=r"'X_b' not found in `adata.uns\[\"lemon_sc\"\]\[\"embed\"\]`"):
        read_record(again, "embed", key="X_b", fix="")


def test_a_view_does_not_write_into_its_parent():
    adata = ad.AnnData(np.zeros((3, 2)))
    write_record(adata, "probe", {"n": 3}, key="probe")
    view = adata[:2]
    with pytest.warns(ad.ImplicitModificationWarning, match="view"):  # anndata's own, of every write into a view
        write_record(view, "probe", {"n": 2}, key="probe")
    assert adata.uns["lemon_sc"]["probe"]["probe"]["n"] == 3
    assert view.uns["lemon_sc"]["probe"]["probe"]["n"] == 2


def test_an_optional_package_names_its_extra():
    with pytest.raises(ImportError, match=r'The gizmo needs no_such_package: pip install "lemon_sc\[squidpy\]"'):
        require("no_such_package", extra="squidpy", purpose="The gizmo")
    assert require("numpy", extra="x", purpose="y") is np
