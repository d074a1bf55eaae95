"""Rows of an embedding summed up over groups of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

COLUMNS = 64
"""Columns that are pooled at once: what is held beside the result, in float64."""


class Pooled(NamedTuple):
    """Of M groups."""

    mean_MD: NDArray[np.float32]
    """NaN without members."""
    sd_MD: NDArray[np.float32]
    """Standard deviation over the members (ddof 0): 0 for one member, NaN without."""
    n_M: NDArray[np.int64]
    """Members."""


def pool(z_ND: NDArray[np.floating], members_MN: csr_matrix) -> Pooled:
    """Mean, standard deviation and number of the rows in each group.

    Parameters
    ----------
    z_ND
        Rows, finite.
    members_MN
        Which rows belong to which group, ones and zeros; a row may belong to several groups.

    Returns
    -------
    One row per group.
    """
    n = np.asarray(members_MN.sum(axis=1)).ravel().astype(np.int64)
    mean, sd = (np.full((len(n), z_ND.shape[1]), np.nan, dtype=np.float32) for _ in range(2))
    has = np.flatnonzero(n)
    groups, count = members_MN[has], n[has, None]
    for start in range(0, z_ND.shape[1], COLUMNS):
        part = slice(start, start + COLUMNS)
        z = z_ND[:, part].astype(np.float64)
        shift = z.mean(axis=0) if len(z) else 0.0  # so that the squares below lose no digits
        z -= shift
        average = groups @ z / count
        mean[has, part] = average + shift
        sd[has, part] = np.sqrt(np.maximum(groups @ np.square(z) / count - average**2, 0.0))
    return Pooled(mean_MD=mean, sd_MD=sd, n_M=n)
