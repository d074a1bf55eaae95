"""A panel: names, controls, duplicates, missing genes, and counts that are none."""

import logging

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from lemon_sc.models.gene_panel import GenePanel, check_counts, clean_genes, log_normalised


def panel(*genes):
    return GenePanel(genes=genes, mean=np.zeros(len(genes), np.float32), sd=np.ones(len(genes), np.float32))


def test_controls_are_dropped_and_duplicates_added_up():
    genes = ["Epcam", "BLANK_0001", "CD3E", "NegControlProbe_1", "epcam", "ambiguous1", "UnassignedCodeword_3", "TGFB1"]
    counts = np.arange(16).reshape(2, 8)
    cleaned, names = clean_genes(check_counts(counts, genes), genes)
    assert names == ["EPCAM", "CD3E", "TGFB1"]
    np.testing.assert_array_equal(cleaned.toarray(), [[0 + 4, 2, 7], [8 + 12, 10, 15]])
    with pytest.raises(ValueError, match="None of the 1 names is a gene.*BLANK_1"):
        clean_genes(check_counts([[1]], ["Blank_1"]), ["Blank_1"])


def test_normalisation_is_scanpys():
    counts = np.random.default_rng(0).poisson(2.0, (20, 30)).astype(np.float32)
    counts[3] = 0
    adata = AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    made = log_normalised(sparse.csr_matrix(counts)).toarray()
    np.testing.assert_allclose(made, adata.X, rtol=1e-5)
    assert (made[3] == 0).all(), "a row without counts is no NaN"


def test_a_table_is_brought_onto_the_panel_in_its_order(caplog):
    counts = np.array([[3, 0, 7, 5], [0, 0, 0, 0], [1, 2, 3, 4]])
    values, present = panel("D", "X", "A").values(sparse.csr_matrix(counts), ["a", "b", "c", "d"])
    np.testing.assert_array_equal(present, [True, False, True])
    expected = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    np.testing.assert_allclose(values.toarray(), np.c_[expected[:, 3], np.zeros(3), expected[:, 0]], rtol=1e-6)
    other, _ = panel("D", "X", "A").values(counts[:, ::-1], ["d", "C", "b", "A"])
    np.testing.assert_allclose(other.toarray(), values.toarray(), rtol=1e-6)
    with caplog.at_level(logging.WARNING):
        panel("A", "X", "Y").values(counts, ["a", "b", "c", "d"])
    assert "Of the panel's 3 genes the table has 1" in caplog.text


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([[1, np.nan]], r"1 values of `counts` are not finite.*\['B'\].*raw counts"),
        ([[1, -2]], r"negative.*\['B'\]"),
        ([[0.5, 1]], r"no whole numbers: they look normalised.*\['A'\]"),
        ([[1, 2, 3]], "3 columns and `genes` 2 names"),
    ],
)
def test_what_are_no_counts(values, match):
    with pytest.raises(ValueError, match=match):
        panel("A").values(np.array(values, float), ["A", "B"])


def test_no_gene_in_common():
    match = r"None of the panel's 2 genes \(\['EPCAM', 'CD3E'\]\) is in the table.*ENSG01"
    with pytest.raises(ValueError, match=match):
        panel("EPCAM", "CD3E").values([[1]], ["ENSG01"])
