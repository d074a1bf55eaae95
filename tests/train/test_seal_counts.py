"""Neighbours, smoothing and panels, against loops and scanpy."""

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from lemon_sc.models.gene_panel import log_normalised
from lemon_sc.train.seal_counts import GeneSums, choose_panel, lattice_neighbours, near_units, smooth

RNG = np.random.default_rng


def ring(a, b, lattice):
    """Whether two places touch, by their distance: on Visium's lattice a row is sqrt(3) column steps high."""
    row, column = np.subtract(a, b)
    if lattice == "square":
        return 0 < np.hypot(row, column) <= np.sqrt(2) + 1e-9
    return 0 < np.hypot(row * np.sqrt(3), column) <= 2 + 1e-9


@pytest.mark.parametrize("lattice", ["square", "hexagonal"])
def test_neighbours_on_a_lattice_stay_on_their_slide(lattice):
    places = np.array([(r, c) for r in range(6) for c in range(8) if lattice == "square" or (r + c) % 2 == 0])
    places = places[RNG(0).random(len(places)) < 0.8] - 3  # with holes, and below 0
    array, group = np.concatenate([places, places + 1]), np.repeat([0, 1], len(places))
    order = RNG(1).permutation(len(array))
    array, group = array[order], group[order]
    made = lattice_neighbours(array, group, lattice).toarray()
    n = len(array)
    expected = [[group[i] == group[j] and ring(array[i], array[j], lattice) for j in range(n)] for i in range(n)]
    np.testing.assert_array_equal(made, expected)
    assert made.sum(axis=1).max() == {"square": 8, "hexagonal": 6}[lattice]


def test_a_place_is_taken_once():
    with pytest.raises(ValueError, match=r"hold each place once per slide, got '\[1, 2\] twice'"):
        lattice_neighbours(np.array([[1, 2], [0, 0], [1, 2]]), np.zeros(3, int), "square")
    assert not lattice_neighbours(np.array([[1, 2], [1, 2]]), np.array([0, 1]), "square").nnz


def test_units_whose_squares_touch():
    rng = RNG(0)
    xy, group = rng.uniform(0, 50, (60, 2)), rng.integers(0, 2, 60)
    made = near_units(xy, group, within=8.0).toarray()
    apart = np.abs(xy[:, None] - xy).max(axis=2)
    expected = (apart <= 8) & (group[:, None] == group) & ~np.eye(60, dtype=bool)
    np.testing.assert_array_equal(made, expected)


def test_smoothing_is_half_own_and_half_neighbours():
    counts = RNG(0).poisson(3.0, (5, 4)).astype(np.float32)
    edges = np.array([[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    made = smooth(sparse.csr_matrix(counts), sparse.csr_matrix(edges.astype(np.float32))).toarray()
    for i in range(4):
        np.testing.assert_allclose(made[i], 0.5 * counts[i] + 0.5 * counts[edges[i] > 0].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(made[4], counts[4], "a unit without neighbours stays as it is")


def table(seed, genes, n=300):
    rng = RNG(seed)
    mean = np.exp(rng.normal(0, 1.5, len(genes)))
    return rng.negative_binomial(1 / np.linspace(0.1, 3, len(genes)), 1 / (1 + mean * np.linspace(0.1, 3, len(genes))),
                                 (n, len(genes)))  # fmt: skip


def summed(*tables):
    sums = GeneSums.empty()
    for counts, genes in tables:
        matrix = sparse.csr_matrix(counts.astype(np.float32))
        sums.add(matrix, log_normalised(matrix), genes)
    return sums


def test_the_panel_is_scanpys():
    genes = [f"G{k:03d}" for k in range(200)]
    counts = table(0, genes)
    counts[:, 5], counts[:, 6], counts[0, 6] = 0, 0, 2  # one gene without counts, one with fewer than three
    adata = AnnData(counts.astype(np.float32))
    adata.var_names = genes
    sc.pp.filter_genes(adata, min_counts=3)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=60, flavor="seurat")
    expected = adata.var["dispersions_norm"][adata.var["highly_variable"]].sort_values(ascending=False)
    made = choose_panel(summed((counts, genes)), n_genes=60)
    assert set(made) == set(expected.index)
    np.testing.assert_allclose(adata.var.loc[list(made), "dispersions_norm"], expected, atol=1e-4)
    assert len(choose_panel(summed((counts, genes)), n_genes=1000)) == 198


def test_the_panel_of_several_tables_is_that_of_the_whole():
    genes = [f"G{k:03d}" for k in range(40)]
    counts = table(1, genes)
    shuffled = RNG(0).permutation(40)
    parts = (counts[:100], genes), (counts[100:, shuffled], [genes[k] for k in shuffled])
    assert choose_panel(summed(*parts), n_genes=12) == choose_panel(summed((counts, genes)), n_genes=12)


@pytest.mark.parametrize("counts", [np.zeros((6, 2)), np.ones((6, 2))], ids=["no counts", "all alike"])
def test_no_gene_varies(counts):
    with pytest.raises(ValueError, match="None of 2 genes has 3 counts and varies"):
        choose_panel(summed((counts, ["A", "B"])), n_genes=5)
