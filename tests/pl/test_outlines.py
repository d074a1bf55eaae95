import geopandas as gpd
import numpy as np
import pytest
import shapely
import spatialdata as sd
from matplotlib.collections import PolyCollection
from spatialdata.models import Image2DModel, ShapesModel
from turned_image import HEIGHT, PX_PER_UM, TO_UM, WIDTH, to_um

from lemon_sc import pl
from lemon_sc.io.image import Image
from lemon_sc.pl import _window
from lemon_sc.pl._colors import MISSING, OKABE_ITO
from lemon_sc.pl._window import check_box, default_box, read_window, shape_outlines


def on_image(xy):
    return np.linalg.solve(TO_UM, np.column_stack([xy, np.ones(len(xy))]).T)[:2].T


def drawn(ax):
    """Rings of the drawn outlines, without the closing vertex."""
    (lines,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    return [path.vertices[:-1] for path in lines.get_paths()], lines


def expected(sdata, box):
    """Outlines in image px through SpatialData's own transformation, of those that reach into the box."""
    moved = sd.transform(sdata["nucleus_boundaries"], to_coordinate_system="global")
    found = {}
    for i, polygon in enumerate(moved.geometry):
        xy = on_image(np.asarray(polygon.exterior.coords)[:-1] / PX_PER_UM)
        x, y = xy.T
        if x.max() >= box[0] and x.min() <= box[2] and y.max() >= box[1] and y.min() <= box[3]:
            found[i] = xy
    return found


def test_outlines_lie_where_the_transformations_say(sdata):
    box = (100, 80, 260, 210)
    rings, _ = drawn(pl.outlines(sdata, box=box))
    wanted = list(expected(sdata, box).values())
    assert 5 < len(wanted) < 50
    assert len(rings) == len(wanted)
    for ring, xy in zip(rings, wanted, strict=True):
        assert np.allclose(ring[: len(xy)], xy, atol=1e-6)


def test_pixels_of_the_window_lie_at_their_coordinates(sdata):
    ax = pl.outlines(sdata, box=(100.5, 80, 260, 210))
    (image,) = ax.images
    whole = np.asarray(sdata["he_image"].data)
    assert np.array_equal(image.get_array(), np.moveaxis(whole[:, 80:210, 100:260], 0, 2))
    assert image.get_extent() == [100, 260, 210, 80]
    assert ax.get_xlim() == (100.5, 260)
    assert ax.get_ylim() == (210, 80)


def test_colors_follow_the_ids_not_the_order(sdata):
    box = (0, 0, WIDTH, HEIGHT)
    _, lines = drawn(pl.outlines(sdata, box=box, color="kind"))
    from matplotlib.colors import to_hex

    colors = [to_hex(c).upper() for c in lines.get_edgecolor()]
    wanted = [MISSING.upper() if i == 7 else OKABE_ITO[i % 2] for i in expected(sdata, box)]
    assert colors == wanted


def test_gene_colors_rise_with_expression(sdata):
    box = (0, 0, WIDTH, HEIGHT)
    ax = pl.outlines(sdata, box=box, color="NUMBER")
    _, lines = drawn(ax)
    green = [g for i, (_, g, _, _) in zip(expected(sdata, box), lines.get_edgecolor(), strict=True) if i != 7]
    assert (np.diff(green) >= 0).all()  # viridis: green rises all the way, and the gene counts the nuclei
    assert np.ptp(green) > 0.5


def test_only_nuclei_near_the_window_are_touched(sdata):
    nuclei = sdata["nucleus_boundaries"]
    x0, y0, x1, y1 = nuclei.geometry.iloc[3].bounds
    found = shape_outlines(nuclei, (x0, y0, x0 + 0.1, y1), circles=False)
    near = [i for i, g in enumerate(nuclei.geometry) if g.intersects(shapely.box(x0, y0, x0 + 0.1, y1).envelope)]
    assert 3 in found.nucleus
    assert set(near) <= set(found.nucleus)
    assert len(found.nucleus) < 10


def test_multipolygons_give_a_ring_each():
    two = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)])
    found = shape_outlines(gpd.GeoDataFrame(geometry=[shapely.box(9, 9, 10, 10), two]), (0, 0, 5, 5), circles=False)
    assert found.nucleus.tolist() == [1, 1]
    assert sorted(p[:, 0].min() for p in found.parts) == [0, 2]


def test_circles_are_drawn_at_their_radius(sdata):
    rings, _ = drawn(pl.outlines(sdata, shapes_key="circles", box=(0, 0, WIDTH, HEIGHT)))
    assert len(rings) == 60
    for ring, (x, y) in zip(rings, sdata["circles"].geometry.apply(lambda p: (p.x, p.y)), strict=True):
        away = np.linalg.norm(to_um(ring) - [x, y], axis=1)
        assert np.allclose(away, 2.0, rtol=0.02)


def test_points_are_drawn_in_the_window(sdata):
    box = (100, 80, 260, 210)
    ax = pl.outlines(sdata, shapes_key="dots", box=box)
    xy = on_image(sdata["dots"][["x", "y"]].compute().to_numpy())
    inside = ((xy >= box[:2]) & (xy <= box[2:])).all(axis=1)
    assert np.allclose(ax.collections[0].get_offsets(), xy[inside])


def test_labels_are_outlined_along_their_pixels(sdata):
    """A label image of 1 px = 1 unit of 'global' = 0.25 um; the rectangle of label 5 has known corners."""
    rings, _ = drawn(pl.outlines(sdata, shapes_key="blobs", box=(0, 0, WIDTH, HEIGHT)))
    assert len(rings) == 2
    corner = (np.array([[30, 10], [50, 10], [50, 20], [30, 20]]) + [400, 250]) / PX_PER_UM
    wanted = shapely.Polygon(on_image(corner))
    got = [shapely.Polygon(r) for r in rings]
    best = max(got, key=lambda g: g.intersection(wanted).area)
    assert best.intersection(wanted).area / best.union(wanted).area > 0.98


class Level:
    """A pyramid level that remembers what was read of it."""

    def __init__(self, height, width):
        self.shape, self.windows = (height, width), []

    def read(self, y0, y1, x0, x1):
        self.windows.append((y0, y1, x0, x1))
        return np.zeros((y1 - y0, x1 - x0, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("box", "level", "window"),
    [
        ((1000, 2000, 2000, 2500), 0, (2000, 2500, 1000, 2000)),
        ((0, 0, 20000, 10000), 2, (0, 625, 0, 1250)),
        ((3, 5, 6003, 4001), 1, (1, 1001, 0, 1501)),
    ],
)
def test_the_level_suits_the_window(box, level, window):
    levels = [Level(10000 // d, 20000 // d) for d in (1, 4, 16)]
    pixels, covered = read_window(Image(levels, [(1, 1), (4, 4), (16, 16)]), box)
    assert [len(v.windows) for v in levels] == [int(k == level) for k in range(3)]
    assert levels[level].windows == [window]
    d = (1, 4, 16)[level]
    assert covered == tuple(v * d for v in (window[2], window[0], window[3], window[1]))
    assert max(pixels.shape) <= 4096


def test_default_window_is_250_um_in_the_tissue(sdata):
    from lemon_sc.io.elements import resolve

    x0, y0, x1, y1 = default_box(resolve(sdata))
    assert (x0, x1) == (0, WIDTH)  # 250 um are 833 px: the whole image
    assert (y0, y1) == (0, HEIGHT)


def test_default_window_of_a_large_image_holds_a_nucleus(sdata, monkeypatch):
    from lemon_sc.io.elements import resolve

    monkeypatch.setattr(_window, "DEFAULT_UM", 30.0)
    x0, y0, x1, y1 = default_box(resolve(sdata))
    assert (x1 - x0, y1 - y0) == pytest.approx((100, 100))
    assert expected(sdata, (x0, y0, x1, y1))


def test_scale_bar_is_as_long_as_it_says(sdata):
    ax = pl.outlines(sdata, box=(0, 0, 200, 200))
    (bar,) = [a for a in ax.artists if hasattr(a, "size_bar")]
    um = float(bar.txt_label.get_text().removesuffix(" µm"))
    assert bar.size_bar.get_children()[0].get_width() * 0.3 == pytest.approx(um)


@pytest.mark.parametrize("box", [(WIDTH + 1, 0, WIDTH + 50, 50), (-50, -50, -1, -1)])
def test_a_window_outside_the_image_is_an_error(sdata, box):
    with pytest.raises(ValueError, match="`box` must overlap the image.*The image is 400 x 300 px"):
        pl.outlines(sdata, box=box)


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (0, 0, 5), (0, np.nan, 5, 5)])
def test_a_window_that_is_none_is_an_error(box):
    with pytest.raises(ValueError, match=r"`box` must be \(x0, y0, x1, y1\) in image px"):
        check_box(box, (HEIGHT, WIDTH))


def test_a_window_across_the_border_is_cut():
    assert check_box((-5, 10, 50, 9999), (HEIGHT, WIDTH)) == (0, 10, 50, HEIGHT)


def test_a_window_too_wide_to_read_is_an_error():
    with pytest.raises(ValueError, match="`box` must be at most 8192 px wide.*with a pyramid"):
        read_window(Image([Level(10000, 20000)], [(1, 1)]), (0, 0, 20000, 10000))


def test_too_many_nuclei_are_an_error(sdata, monkeypatch):
    monkeypatch.setattr(_window, "MAX_NUCLEI", 10)
    with pytest.raises(ValueError, match="holds 60 nuclei, more than the 10 that are drawn"):
        pl.outlines(sdata, box=(0, 0, WIDTH, HEIGHT))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_key": "he"}, "'he' not found in `sdata.images`"),
        ({"shapes_key": "nucleus_boundary"}, "Did you mean 'nucleus_boundaries'"),
        ({"color": "kinds"}, "'kinds' not found in `adata.obs` or `adata.var_names`.*Did you mean 'kind'"),
        ({"color": "kind", "table_key": "tabel"}, "'tabel' not found in `sdata.tables`.*Did you mean 'table'"),
    ],
)
def test_errors_name_the_cure(sdata, kwargs, message):
    with pytest.raises(KeyError, match=message):
        pl.outlines(sdata, **kwargs)


def test_given_pixel_size_is_remembered(sdata):
    """Nuclei in px of the image: `pp.extract_nuclei` was told the pixel size, the plot need not be."""
    image = Image2DModel.parse(np.zeros((3, 50, 60), np.uint8), dims=("c", "y", "x"))
    nuclei = ShapesModel.parse(gpd.GeoDataFrame(geometry=[shapely.box(10, 10, 20, 20)]))
    table = sdata["table"].copy()
    flat = sd.SpatialData(images={"he_image": image}, shapes={"nucleus_boundaries": nuclei}, tables={"table": table})
    with pytest.raises(ValueError, match="Pass `mpp=`"):
        pl.outlines(flat)
    table.uns["lemon_sc"] = {"nuclei": {"image_key": "he_image", "mpp_given": True, "mpp": np.array([0.5, 0.5])}}
    (bar,) = [a for a in pl.outlines(flat).artists if hasattr(a, "size_bar")]
    assert bar.txt_label.get_text() == "5 µm"


def test_nothing_is_changed(sdata, unchanged):
    before = unchanged(sdata["table"])
    pl.outlines(sdata, color="kind")
    assert unchanged(sdata["table"]) == before
