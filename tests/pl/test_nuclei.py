import numpy as np
import pandas as pd
import pytest

from lemon_sc import pl
from lemon_sc._core.keys import QC_CATEGORIES
from lemon_sc.pl._nuclei import choose, quantile_bins, span


def rows_of(adata, **kwargs):
    given = {"by": None, "gene": None, "dim": None, "use_rep": "X_lemon", "layer": None, "n": 12, "rng": 0}
    return choose(adata, **{**given, "has_image": False, **kwargs})


def test_categories_show_their_own_usable_cells(adata):
    gallery = rows_of(adata, by="cell_type", n=7)
    assert [g.label.split("\n")[0] for g in gallery] == ["rare", "stroma", "tumour"]
    for g in gallery:
        name, count = g.label.split("\n")
        members = adata.obs.query("cell_type == @name and nucleus_qc == 'ok'").index
        assert count == f"{len(members)} nuclei"
        assert set(adata.obs_names[g.rows]) <= set(members)
        assert len(set(g.rows)) == min(7, len(members))


@pytest.fixture
def flagged(adata):
    """The table with verdicts of every kind: what lies outside the image has no pixels at all."""
    verdict = np.array(["ok", "pen", "blank", "border", "no_nucleus", "outside_image"])[np.arange(300) % 6]
    adata.obs["nucleus_qc"] = pd.Categorical(verdict, categories=QC_CATEGORIES)
    return adata


@pytest.mark.parametrize("has_image", [True, False])
def test_verdicts_show_what_was_flagged(flagged, has_image):
    gallery = rows_of(flagged, by="nucleus_qc", n=9, has_image=has_image)
    expected = ["ok", "border", "blank", "pen"] if has_image else ["ok", "blank", "pen"]
    assert [g.label for g in gallery] == [f"{name}\n50 nuclei" for name in expected]
    for name, g in zip(expected, gallery, strict=True):
        assert len(g.rows) == 9
        assert (flagged.obs["nucleus_qc"].iloc[g.rows] == name).all()


def test_other_columns_show_usable_nuclei_only(flagged):
    for by in ("cell_type", "area"):
        for g in rows_of(flagged, by=by):
            assert (flagged.obs["nucleus_qc"].iloc[g.rows] == "ok").all()


def test_verdicts_can_be_drawn_where_no_nucleus_is_usable(flagged, asked):
    pen = flagged[flagged.obs["nucleus_qc"] == "pen"].copy()
    ax = pl.nuclei(pen, by="nucleus_qc", n=4)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["pen\n50 nuclei"]
    assert len(ax.images) == 4


def test_category_colors_are_scanpys_where_stored(adata):
    adata.uns["cell_type_colors"] = ["#111111", "#222222", "#333333"]
    assert [g.color for g in rows_of(adata, by="cell_type")] == ["#111111", "#222222", "#333333"]


def test_rows_are_drawn_at_random_but_repeatably(adata):
    first, again, other = (rows_of(adata, by="cell_type", rng=r) for r in (0, 0, 1))
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[2].rows, other[2].rows)
    longer = rows_of(adata, by="cell_type", n=20)
    assert np.array_equal(longer[2].rows[:12], first[2].rows)


def test_bins_have_zeros_apart_and_equal_sizes_elsewhere():
    values = np.r_[np.zeros(50), np.arange(1, 91), np.nan]
    bins = quantile_bins(values, n_bins=4)
    assert [len(b) for b in bins] == [50, 30, 30, 30]
    assert [(values[b].min(), values[b].max()) for b in bins] == [(0, 0), (1, 30), (31, 60), (61, 90)]


def test_bins_never_part_equal_values():
    values = np.r_[np.full(70, 1.0), np.full(5, 2.0), np.full(25, 7.0)]
    bins = quantile_bins(values, n_bins=4)
    assert sorted(np.concatenate(bins).tolist()) == list(range(100))
    kinds = [set(values[b]) for b in bins]
    assert sum(len(k) for k in kinds) == 3
    assert [max(k) for k in kinds] == sorted(max(k) for k in kinds)


def test_gene_rows_hold_the_values_their_labels_say(adata):
    x = adata[:, "EPCAM"].layers["double"].toarray().ravel()
    for g in rows_of(adata, gene="EPCAM", layer="double"):
        low, _, high = g.label.split("\n")[0].removeprefix("EPCAM ").partition(" to ")
        assert (x[g.rows] >= float(low)).all()
        assert (x[g.rows] <= float(high or low)).all()


def test_numeric_column_is_binned(adata):
    gallery = rows_of(adata, by="area")
    means = [adata.obs["area"].iloc[g.rows].mean() for g in gallery]
    assert len(gallery) == 4
    assert means == sorted(means)


@pytest.mark.parametrize("dim", [2, "density"])
def test_extremes_are_the_lowest_and_highest(adata, dim):
    low, high = rows_of(adata, dim=dim, n=5)
    column = pd.Series(adata.obsm["X_lemon"][:, 2]).dropna()
    assert low.rows.tolist() == column.nsmallest(5).index.tolist()
    assert high.rows.tolist() == column.nlargest(5).index.tolist()
    assert low.label.startswith("density\nlowest")


def test_picture_holds_the_crops_in_order(adata, asked):
    ax = pl.nuclei(adata, by="cell_type", n=5)
    gallery = rows_of(adata, by="cell_type", n=5)
    places = [(r, c, row) for r, g in enumerate(gallery) for c, row in enumerate(g.rows)]
    assert len(ax.images) == len(places)
    for image, (r, c, row) in zip(ax.images, places, strict=True):
        assert np.array_equal(image.get_array(), adata.obsm["nuclei"][row])
        x0, x1, y1, y0 = image.get_extent()
        assert c < x0 < x1 < c + 1
        assert r < y0 < y1 < r + 1
    assert [t.get_text() for t in ax.get_yticklabels()] == [g.label for g in gallery]


def test_only_the_shown_crops_are_read(adata, asked, pixel_at):
    ax = pl.nuclei(adata, n=4)
    (rows,) = asked
    assert len(rows) == 4
    assert (adata.obs["nucleus_qc"].iloc[rows] == "ok").all()
    for c, row in enumerate(rows):
        assert np.array_equal(pixel_at(ax, c + 0.5, 0.5), adata.obsm["nuclei"][row, 0, 0])


def test_scale_bar_is_as_long_as_it_says(adata, asked):
    ax = pl.nuclei(adata, n=6)
    (bar,) = [a for a in ax.artists if hasattr(a, "size_bar")]
    um = float(bar.txt_label.get_text().removesuffix(" µm"))
    width = bar.size_bar.get_children()[0].get_width()
    x0, x1, *_ = ax.images[0].get_extent()
    um_per_unit = 10 * 0.25 / (x1 - x0)  # the crop is 10 px of 0.25 um
    assert um == pytest.approx(width * um_per_unit)


def test_table_is_not_changed(adata, asked, unchanged):
    before = unchanged(adata)
    pl.nuclei(adata, by="cell_type")
    pl.nuclei(adata, gene="CD3E")
    assert unchanged(adata) == before


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"by": "cell_typ"}, "'cell_typ' not found in `adata.obs`.*Did you mean 'cell_type'"),
        ({"gene": "EPCAN"}, "'EPCAN' not found in `adata.var_names`.*Did you mean 'EPCAM'"),
        ({"gene": "EPCAM", "layer": "doubel"}, "'doubel' not found in `adata.layers`.*Did you mean 'double'"),
        ({"dim": "densty"}, "'densty' not found.*features.*Did you mean 'density'"),
        ({"dim": 4}, "`dim` must be between 0 and 3 for 'X_lemon', got 4"),
        ({"dim": 0, "use_rep": "X_lemn"}, "'X_lemn' not found in `adata.obsm`.*Did you mean 'X_lemon'"),
        ({"dim": 0, "gene": "EPCAM"}, "one of `by`, `gene` and `dim`, got gene and dim"),
        ({"n": 0}, "`n` must be an int >= 1, got 0"),
        ({"by": "cell_id"}, "`cell_id` must have at most 40 categories to be drawn, got 300"),
        ({"rng": -1, "by": "cell_type"}, "`rng` must be an int >= 0"),
    ],
)
def test_errors_name_the_cure(adata, asked, kwargs, message):
    with pytest.raises((KeyError, ValueError), match=message):
        pl.nuclei(adata, **kwargs)
    assert not asked


def test_a_repeated_gene_name_is_refused(adata, asked):
    adata.var_names = ["EPCAM", "EPCAM", "ACTB"]
    with pytest.raises(ValueError, match="'EPCAM' stands 2 times.*var_names_make_unique"):
        pl.nuclei(adata, gene="EPCAM")


def test_no_usable_nucleus_is_an_error(adata, asked):
    adata.obs["nucleus_qc"] = "blank"
    with pytest.raises(ValueError, match="There are no usable nuclei"):
        pl.nuclei(adata)


def test_no_value_is_an_error(adata, asked):
    adata.obs["empty"] = np.nan
    with pytest.raises(ValueError, match="usable nucleus has a value of 'empty'"):
        pl.nuclei(adata, by="empty")


@pytest.mark.parametrize(
    ("values", "text"), [([2.0, 2.0], "2"), ([0.1234, 15.0], "0.123 to 15"), ([5, 1234], "5 to 1,234")]
)
def test_span(values, text):
    assert span(np.array(values, dtype=float)) == text
