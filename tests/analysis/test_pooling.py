"""Pooled rows against pandas."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from lemon_sc.analysis.pooling import pool


def test_groups_are_those_of_pandas():
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(500, 150)) + 1e4).astype(np.float32)
    group = rng.integers(0, 40, 500)
    group[group == 7] = 8  # one group is empty
    members = csr_matrix((np.ones(500), (group, np.arange(500))), shape=(41, 500))
    made = pool(z, members)
    frame = pd.DataFrame(z.astype(np.float64)).groupby(group)
    has = np.unique(group)
    np.testing.assert_allclose(made.mean_MD[has], frame.mean(), rtol=1e-7)
    np.testing.assert_allclose(made.sd_MD[has], frame.std(ddof=0), atol=1e-6)
    np.testing.assert_array_equal(made.n_M, np.bincount(group, minlength=41))
    assert np.isnan(made.mean_MD[[7, 40]]).all()
    assert np.isnan(made.sd_MD[[7, 40]]).all()


def test_a_row_may_count_in_several_groups_and_one_row_has_no_spread():
    made = pool(np.array([[1.0], [3.0]]), csr_matrix([[1, 1], [0, 1], [0, 0]]))
    np.testing.assert_array_equal(made.mean_MD, [[2], [3], [np.nan]])
    np.testing.assert_array_equal(made.sd_MD, [[1], [0], [np.nan]])
    assert made.n_M.tolist() == [2, 1, 0]
