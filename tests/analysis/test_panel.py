from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from lemon_sc.analysis.panel import is_gene, looks_like_counts, mean_by_group, top_genes


def test_controls_by_name_and_by_type():
    names = ["EPCAM", "BLANK_0006", "Blank-1", "NegControlProbe_00031", "antisense_LAG3", "UnassignedCodeword_1"]
    names += ["DeprecatedCodeword_2", "CD3E", "Intergenic_Region_1"]
    assert is_gene(names).tolist() == [True] + [False] * 6 + [True, True]
    types = ["Gene Expression"] * 8 + ["Genomic Control"]
    assert is_gene(names, types).tolist() == [True] + [False] * 6 + [True, False]
    assert is_gene(["A", "B"], ["gene", "gene"]).tolist() == [True, True]  # another vocabulary decides nothing


def test_top_genes_by_summed_rank_ties_by_name():
    mean = np.array([[9.0, 8, 1, 1], [1, 8, 5, 5]])
    # ranks: slide 1: 1, 2, 3.5, 3.5; slide 2: 4, 1, 2.5, 2.5; sums 5, 3, 6, 6
    assert top_genes(mean, ["d", "c", "b", "a"], n=3) == ["c", "d", "a"]
    assert top_genes(mean, ["d", "c", "b", "a"], n=50) == ["c", "d", "a", "b"]
    with pytest.raises(ValueError, match="at least one gene"):
        top_genes(np.empty((2, 0)), [])


def test_means_by_group_leave_rows_out():
    x = np.array([[1.0, 0], [3, 2], [5, 5], [7, 7]])
    codes = np.array([0, 0, -1, 1])
    for matrix in (x, sparse.csr_matrix(x), sparse.csc_matrix(x)):
        assert mean_by_group(matrix, codes, 2).tolist() == [[2, 1], [7, 7]]


def test_counts_are_whole_and_not_negative():
    assert looks_like_counts(np.array([0.0, 3]))
    assert looks_like_counts(np.array([0, 3], dtype=np.uint8))
    assert not looks_like_counts(np.array([0, 1.5]))
    assert not looks_like_counts(np.array([-1, 2]))
