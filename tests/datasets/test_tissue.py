import numpy as np
import pytest
import shapely

from lemon_sc.datasets import _structures as st
from lemon_sc.datasets import _tissue as ti
from lemon_sc.datasets._cells import cell_polygons, grow


@pytest.fixture(scope="module")
def tissue():
    return ti.make_tissue(np.random.default_rng(0), 800, multinucleate=True)


@pytest.mark.parametrize("n", [50, 173, 800])
def test_cell_count_is_exact_and_every_nucleus_has_a_cell(n):
    tissue = ti.make_tissue(np.random.default_rng(3), n, multinucleate=True)
    assert len(tissue.cell_type) == n
    assert set(tissue.cell_of) == set(range(n))
    assert set(tissue.structures.kind) == {st.DUCT, st.NEST, st.LYMPHOID, st.VESSEL}


def test_shares_of_cells_without_and_with_two_nuclei(tissue):
    count = np.bincount(tissue.cell_of[: tissue.n_nuclei], minlength=800)
    assert np.bincount(count).tolist() == [32, 744, 24]


def test_without_multinucleate_no_cell_has_two():
    tissue = ti.make_tissue(np.random.default_rng(0), 100, multinucleate=False)
    assert np.bincount(tissue.cell_of).max() == 1


def test_nuclei_lie_in_the_field_and_hardly_overlap(tissue):
    drawn = shapely.polygons(tissue.nuclei.polygons()[: tissue.n_nuclei])
    assert shapely.box(0, 0, tissue.side, tissue.side).contains(shapely.union_all(drawn))
    assert shapely.union_all(drawn).area > 0.995 * shapely.area(drawn).sum()


def test_density_is_that_of_a_tissue(tissue):
    assert 3000 < 800 / tissue.side**2 * 1e6 < 7000


def test_types_differ_in_size_elongation_and_chromatin(tissue):
    kind = tissue.cell_type[tissue.cell_of]

    def mean(values, k):
        return values[kind == k].mean()

    area, long = tissue.nuclei.area, tissue.nuclei.a / tissue.nuclei.b
    assert mean(area, ti.TUMOUR) > 1.5 * mean(area, ti.EPITHELIAL) > 1.9 * mean(area, ti.LYMPHOCYTE)
    assert mean(long, ti.FIBROBLAST) > 1.7 * mean(long, ti.EPITHELIAL) > 1.2 * mean(long, ti.LYMPHOCYTE)
    assert mean(tissue.chromatin, ti.LYMPHOCYTE) > 1.5 * mean(tissue.chromatin, ti.EPITHELIAL)
    assert mean(tissue.chromatin, ti.EPITHELIAL) > 1.2 * mean(tissue.chromatin, ti.TUMOUR)


def test_size_and_chromatin_vary_within_a_type(tissue):
    tumour = tissue.cell_type[tissue.cell_of] == ti.TUMOUR
    assert np.log(tissue.nuclei.area[tumour]).std() == pytest.approx(0.26, abs=0.05)
    assert np.log(tissue.chromatin[tumour]).std() == pytest.approx(ti.CHROMATIN_SD, abs=0.04)


def test_fibroblasts_follow_the_collagen(tissue):
    rows = np.flatnonzero(tissue.cell_type[tissue.cell_of] == ti.FIBROBLAST)
    along = tissue.collagen.direction(*tissue.nuclei.centre[rows].T)
    turn = tissue.nuclei.angle[rows] - along
    assert np.mean(np.cos(2 * turn)) > 0.6  # 0 if they lay at random


def test_epithelium_stands_upright_in_the_walls_of_ducts(tissue):
    wall = tissue.wall[tissue.cell_of]
    for s in np.flatnonzero(tissue.structures.kind == st.DUCT):
        rows = np.flatnonzero((wall == s) & (tissue.cell_type[tissue.cell_of] == ti.EPITHELIAL))
        d = tissue.structures.distance(s, *tissue.nuclei.centre[rows].T)
        assert np.all((d > -st.WALL[st.DUCT]) & (d < 0))
        ray = tissue.nuclei.centre[rows] - tissue.structures.centre[s]
        turn = tissue.nuclei.angle[rows] - np.arctan2(ray[:, 1], ray[:, 0])
        assert np.mean(np.cos(2 * turn)) > 0.7


def test_cells_hold_their_nuclei_and_do_not_share_ground(tissue):
    body = grow(tissue)
    cells = cell_polygons(tissue, body)
    nuclei = shapely.polygons(tissue.nuclei.polygons())
    assert shapely.is_valid(cells).all()
    outside = shapely.area(shapely.difference(nuclei, cells[tissue.cell_of])) / shapely.area(nuclei)
    assert outside.max() < 0.06  # chords of two different polygons
    assert shapely.union_all(cells).area > 0.98 * shapely.area(cells).sum()


def test_structure_distance_is_zero_on_the_outline_and_radial():
    structures = st.place_structures(np.random.default_rng(0), 400.0)
    x, y = structures.centre[0] + [1e-9, 0]
    inner = structures.distance(0, np.array([x]), np.array([y]))[0]
    on = structures.distance(0, np.array([x - inner]), np.array([y]))[0]
    out = structures.distance(0, np.array([x - inner + 3]), np.array([y]))[0]
    assert inner < -10
    assert (on, out) == pytest.approx((0, 3), abs=1e-6)


def test_structures_do_not_touch():
    structures = st.place_structures(np.random.default_rng(5), 700.0)
    free = slice(len(st.RADIUS), None)
    centre, radius = structures.centre[free], structures.radius[free]
    gap = np.hypot(*(centre[:, None] - centre[None]).transpose(2, 0, 1)) - radius[:, None] - radius
    assert len(radius) > 10
    assert gap[np.triu_indices(len(radius), 1)].min() > st.GAP


def test_two_nuclei_of_a_cell_stay_together(tissue):
    real = tissue.cell_of[: tissue.n_nuclei]
    drawn = shapely.polygons(tissue.nuclei.polygons()[: tissue.n_nuclei])
    pairs = [np.flatnonzero(real == c) for c in np.flatnonzero(np.bincount(real) == 2)]
    assert len(pairs) == 24
    assert max(drawn[i].distance(drawn[j]) for i, j in pairs) < 3.0
