import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import random as sparse_random

from lemon_sc import pl
from lemon_sc.pl._base import MAX_POINTS, subsample
from lemon_sc.pl._markers import highest


def panels(figure):
    return [ax for ax in figure.axes if ax.collections and ax.get_title(loc="left")]


def strips(figure):
    return [ax for ax in figure.axes if ax.images]


def test_points_are_the_cells_and_high_values_lie_on_top(adata, asked):
    figure = pl.markers(adata, genes=["EPCAM", "ACTB"])
    ax = panels(figure)[1]
    x = adata[:, "ACTB"].X.toarray().ravel()
    drawn = np.asarray(ax.collections[0].get_offsets())
    assert np.array_equal(drawn, adata.obsm["X_umap"][np.argsort(x, kind="stable")])
    assert ax.collections[0].get_rasterized()


def test_strip_shows_the_usable_cells_that_express_most(adata, asked):
    figure = pl.markers(adata, genes=["CD3E", "ACTB"], n_nuclei=4)
    for ax, gene in zip(strips(figure), ["CD3E", "ACTB"], strict=True):
        x = pd.Series(adata[:, gene].X.toarray().ravel())
        best = x[(adata.obs["nucleus_qc"] == "ok").to_numpy()].nlargest(4)
        crops = [np.asarray(image.get_array()) for image in ax.images]
        rows = [int(np.flatnonzero((adata.obsm["nuclei"] == c).all((1, 2, 3)))[0]) for c in crops]
        assert x[rows].tolist() == best.tolist()
        assert (adata.obs["nucleus_qc"].iloc[rows] == "ok").all()


def test_cells_without_expression_are_not_shown():
    values = np.array([0, 3, 0, 1, 5.0, np.nan])
    usable = np.array([True, True, True, True, False, True])
    assert highest(values, usable=usable, n=6, rng=0).tolist() == [1, 3]


def test_ties_fall_at_random_but_repeatably():
    values, usable = np.ones(1000), np.ones(1000, bool)
    a, b, c = (highest(values, usable=usable, n=5, rng=r).tolist() for r in (0, 0, 1))
    assert a == b != c
    assert max(a) > 100


def test_title_states_morans_i_where_it_was_computed(adata, asked):
    adata.uns["moranI"] = pd.DataFrame({"I": [0.314, 0.2]}, index=["EPCAM", "ACTB"])
    titles = [
        (ax.get_title("left"), ax.get_title("right")) for ax in panels(pl.markers(adata, genes=["EPCAM", "CD3E"]))
    ]
    assert titles == [("EPCAM", "I = 0.31"), ("CD3E", "")]


def test_without_crops_the_maps_are_drawn_alone(adata, asked):
    del adata.obsm["nuclei"]
    figure = pl.markers(adata, genes="EPCAM")
    assert len(panels(figure)) == 1
    assert not strips(figure)
    assert not asked


def test_a_large_table_is_thinned_and_the_figure_says_so():
    n = MAX_POINTS + 10_000
    table = ad.AnnData(sparse_random(n, 1, 0.2, format="csr", rng=0, dtype=np.float32))
    table.var_names = ["EPCAM"]
    table.obsm["X_umap"] = np.random.default_rng(0).normal(size=(n, 2))
    figure = pl.markers(table, genes=["EPCAM"])
    assert len(panels(figure)[0].collections[0].get_offsets()) == MAX_POINTS
    assert figure.get_supxlabel() == "50,000 of 60,000 cells drawn"


def test_a_million_cells_are_thinned_evenly_and_repeatably():
    rows = np.arange(1_000_000)
    a, b = subsample(rows, most=MAX_POINTS, rng=0), subsample(rows, most=MAX_POINTS, rng=0)
    assert len(set(a)) == MAX_POINTS
    assert np.array_equal(a, b)
    assert abs(a.mean() - 500_000) < 5_000
    assert np.array_equal(subsample(rows[:10], most=10, rng=0), rows[:10])


def test_table_and_settings_are_not_changed(adata, asked, unchanged):
    import matplotlib as mpl

    before, settings = unchanged(adata), dict(mpl.rcParams)
    pl.markers(adata, genes=["EPCAM"])
    assert unchanged(adata) == before
    assert dict(mpl.rcParams) == settings


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"genes": ["EPCAM", "CD3"]}, "'CD3' not found in `adata.var_names`.*Did you mean 'CD3E'"),
        ({"genes": []}, "`genes` must name at least one gene"),
        ({"genes": "EPCAM", "basis": "X_uma"}, "'X_uma' not found in `adata.obsm`.*Did you mean 'X_umap'"),
        ({"genes": "EPCAM", "layer": "log"}, "'log' not found in `adata.layers`"),
    ],
)
def test_errors_name_the_cure(adata, asked, kwargs, message):
    with pytest.raises((KeyError, ValueError), match=message):
        pl.markers(adata, **kwargs)
