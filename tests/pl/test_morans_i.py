import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lemon_sc import pl
from lemon_sc.pl._morans_i import moran_rows


@pytest.fixture
def table():
    return pd.DataFrame(
        {"I": [0.1, np.nan, 0.5, 0.3, -0.2], "var_norm": 0.01, "pval_norm_fdr_bh": [0.2, np.nan, 0.001, 0.04, 0.9]},
        index=["b", "constant", "top", "second", "last"],
    )


def test_genes_fall_and_the_rest_is_read_not_computed(table):
    shown = moran_rows(table, n_cells=101, n_top=3)
    assert shown.genes == ["top", "second", "b"]
    assert shown.I.tolist() == [0.5, 0.3, 0.1]
    assert shown.significant.tolist() == [True, True, False]
    assert shown.n_genes == 4
    assert shown.band == pytest.approx((-0.01 - 0.196, -0.01 + 0.196), abs=1e-4)


def test_permutation_rates_go_before_analytic_ones(table):
    table["pval_sim_fdr_bh"] = [0.01, np.nan, 0.2, 0.2, 0.2]
    assert moran_rows(table, n_cells=101, n_top=3).significant.tolist() == [False, False, True]


def test_a_bare_table_is_drawn_without_band(table):
    shown = moran_rows(table[["I"]], n_cells=101, n_top=9)
    assert shown.band is None
    assert shown.significant.all()


def test_picture_shows_the_values_top_down(adata, table, unchanged):
    adata.uns["moranI"] = table
    adata.uns["lemon_sc"]["moranI"] = {"moranI": {"n_cells": 51}}
    before = unchanged(adata)
    ax = pl.morans_i(adata, n_top=3)
    dots = ax.collections[-1]
    assert np.allclose(dots.get_offsets(), [[0.5, 0], [0.3, 1], [0.1, 2]])
    assert [to_hex(c) for c in dots.get_facecolor()] == ["#0072b2", "#0072b2", "#ffffff"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["top", "second", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first gene stands on top
    (band,) = ax.patches
    assert band.get_x() + band.get_width() / 2 == pytest.approx(-1 / 50)  # of 51 cells, not of all 300
    assert ax.get_title("left").startswith("3 of 4 genes")
    assert unchanged(adata) == before


def test_reads_what_the_verb_stores(adata):
    from lemon_sc.tl._morans_i import morans_i

    adata.obsm["X_lemon"] = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    adata.X = np.column_stack([adata.obsm["X_lemon"][:, 0], np.arange(300) % 7, np.ones(300)]).astype(np.float32)
    morans_i(adata)
    ax = pl.morans_i(adata)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["EPCAM", "CD3E"]
    assert ax.collections[-1].get_offsets()[0, 0] == pytest.approx(adata.uns["moranI"].loc["EPCAM", "I"])
    (band,) = ax.patches
    assert band.get_x() + band.get_width() < adata.uns["moranI"].loc["EPCAM", "I"]


def test_missing_table_says_what_to_run(adata, table):
    adata.uns["moranI"] = table
    with pytest.raises(KeyError, match="'moran' not found in `adata.uns`.*Did you mean 'moranI'.*lm.tl.morans_i"):
        pl.morans_i(adata, key="moran")


def test_another_kind_of_entry_is_refused(adata):
    adata.uns["moranI"] = {"I": 1}
    with pytest.raises(ValueError, match="must be a DataFrame with a column 'I', got dict"):
        pl.morans_i(adata)


def test_all_constant_is_an_error(adata, table):
    adata.uns["moranI"] = table.assign(I=np.nan)
    with pytest.raises(ValueError, match="NaN for every gene"):
        pl.morans_i(adata)


def test_n_top_is_checked(adata, table):
    adata.uns["moranI"] = table
    with pytest.raises(ValueError, match="`n_top` must be an int >= 1, got True"):
        pl.morans_i(adata, n_top=True)
