import numpy as np
import pytest

from lemon_sc import pl
from lemon_sc.pl._map import FRAME_PX, map_grid, paint


def brute_force(xy, grid, usable):
    """Straight from the definition, bin by bin and cell by cell."""
    good = [i for i in range(len(xy)) if usable[i] and np.isfinite(xy[i]).all()]
    low = [np.percentile([xy[i][d] for i in good], 1) for d in (0, 1)]
    high = [np.percentile([xy[i][d] for i in good], 99) for d in (0, 1)]
    side = max(high[0] - low[0], high[1] - low[1])
    width = side / grid
    chosen = {}
    for ix in range(grid):
        for iy in range(grid):
            cx = (low[0] + high[0]) / 2 - side / 2 + (ix + 0.5) * width
            cy = (low[1] + high[1]) / 2 - side / 2 + (iy + 0.5) * width
            away = [(np.hypot(xy[i][0] - cx, xy[i][1] - cy), i) for i in good]
            nearest, i = min(away)
            if nearest <= width / 2:
                chosen[iy, ix] = i
    return chosen


@pytest.mark.parametrize(("n", "grid"), [(400, 12), (30, 10), (800, 5)])
def test_bins_equal_the_definition(n, grid):
    rng = np.random.default_rng(n)
    xy = rng.normal(size=(n, 2)) * [5, 2] + [100, -3]
    xy[3] = np.nan
    usable = rng.random(n) < 0.9
    cells = map_grid(xy, grid=grid, usable=usable)
    found = {(iy, ix): cells.rows[iy, ix] for iy, ix in zip(*np.nonzero(cells.rows >= 0), strict=True)}
    assert found == brute_force(xy, grid, usable)
    shown = cells.rows[cells.rows >= 0]
    assert len(set(shown)) == len(shown)
    x0, x1, y0, y1 = cells.extent
    assert x1 - x0 == pytest.approx(y1 - y0)


def test_many_cells_on_a_lattice_each_stand_once():
    """Points on bin borders are as near to two centres; they must not be shown twice."""
    xy = np.stack(np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101)), axis=-1).reshape(-1, 2)
    shown = map_grid(xy, grid=50, usable=np.ones(len(xy), bool)).rows
    shown = shown[shown >= 0]
    assert len(set(shown)) == len(shown)


def test_a_single_point_is_drawn():
    assert (map_grid(np.ones((1, 2)), grid=3, usable=np.ones(1, bool)).rows >= 0).sum() == 1


def test_a_million_cells_need_no_more_images_than_bins():
    xy = np.random.default_rng(0).normal(size=(1_000_000, 2))
    rows = map_grid(xy, grid=40, usable=np.ones(len(xy), bool)).rows
    assert rows.shape == (40, 40)
    assert (rows >= 0).sum() > 1200


def test_each_image_lies_where_its_cell_does_in_a_scatter_plot(adata, asked, pixel_at):
    adata.obsm["X_umap"] = np.random.default_rng(1).uniform(size=(300, 2)) * [40, 15]
    ax = pl.morphology_map(adata, grid=12)
    cells = map_grid(adata.obsm["X_umap"], grid=12, usable=(adata.obs["nucleus_qc"] == "ok").to_numpy())
    width = (cells.extent[1] - cells.extent[0]) / 12
    iy, ix = np.nonzero(cells.rows >= 0)
    assert len(iy) > 20
    for y, x in zip(iy, ix, strict=True):
        at = cells.extent[0] + (x + 0.5) * width, cells.extent[2] + (y + 0.5) * width
        row = cells.rows[y, x]
        assert np.hypot(*(adata.obsm["X_umap"][row] - at)) <= width / 2
        assert np.abs(pixel_at(ax, *at).astype(int) - adata.obsm["nuclei"][row, 0, 0]).max() <= 1
    assert ax.get_xlim()[0] < ax.get_xlim()[1]
    assert ax.get_ylim()[0] < ax.get_ylim()[1]


def test_empty_bins_are_white_and_frames_have_the_color(adata):
    cells = np.array([[0, -1], [-1, 1]])  # bottom row first
    crops = adata.obsm["nuclei"][[5, 9]]
    frame = np.array([[1.0, 0, 0, 1], [0, 0, 1.0, 1]])
    canvas = paint(cells, crops, frame)
    size = crops.shape[1]
    assert canvas.shape == (2 * size, 2 * size, 3)
    assert (canvas[:size, :size] == 255).all()
    bottom_left, top_right = canvas[size:, :size], canvas[:size, size:]
    inner = slice(FRAME_PX, -FRAME_PX)
    assert np.array_equal(bottom_left[inner, inner], crops[0][inner, inner])
    assert (bottom_left[:FRAME_PX] == [255, 0, 0]).all()
    assert (top_right[:, -FRAME_PX:] == [0, 0, 255]).all()
    assert np.array_equal(paint(cells, crops, None)[size:, :size], crops[0])


def test_color_legend_and_unchanged_table(adata, asked, unchanged):
    before = unchanged(adata)
    ax = pl.morphology_map(adata, grid=6, color="cell_type")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["rare", "stroma", "tumour"]
    assert unchanged(adata) == before


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"basis": "X_tsn"}, "'X_tsn' not found in `adata.obsm`.*Compute a map first"),
        ({"basis": "X_uma"}, "Did you mean 'X_umap'"),
        ({"grid": 0}, "`grid` must be an int >= 1, got 0"),
        ({"color": "EPCAN"}, "'EPCAN' not found in `adata.obs` or `adata.var_names`.*Did you mean 'EPCAM'"),
    ],
)
def test_errors_name_the_cure(adata, asked, kwargs, message):
    with pytest.raises((KeyError, ValueError), match=message):
        pl.morphology_map(adata, **kwargs)
    assert not asked


def test_nothing_to_draw_is_an_error(adata, asked):
    adata.obsm["X_umap"][:] = np.nan
    with pytest.raises(ValueError, match="both a place on the map and a usable nucleus"):
        pl.morphology_map(adata)


def test_a_map_of_one_column_is_refused(adata, asked):
    adata.obsm["X_one"] = np.zeros((300, 1))
    with pytest.raises(ValueError, match=r"must have two columns to be drawn, got shape \(300, 1\)"):
        pl.morphology_map(adata, basis="X_one")


def test_no_map_at_all_says_how_to_make_one(adata, asked):
    del adata.obsm["X_umap"]
    with pytest.raises(KeyError, match=r"'X_umap' not found.*sc.tl.umap"):
        pl.morphology_map(adata)
