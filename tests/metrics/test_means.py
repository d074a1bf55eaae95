import numpy as np

from lemon_sc.metrics.means import nanmean, nanstd


def test_nan_means_without_warnings():
    x = np.array([[1.0, np.nan, 3], [np.nan, np.nan, 5]])
    np.testing.assert_array_equal(nanmean(x, axis=0), [1, np.nan, 4])
    np.testing.assert_allclose(nanstd(x, axis=0), [np.nan, np.nan, np.sqrt(2)])
    np.testing.assert_array_equal(nanmean(x, axis=1), [2, 5])
