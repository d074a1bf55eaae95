"""Do embeddings of slides fall apart by scanner or stain? Clusters against groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from lemon_sc._core.errors import bad_value
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc.metrics.names import as_names

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

N_INIT = 10


@dataclass(frozen=True, kw_only=True)
class GroupClustering:
    """How much clusters of an embedding say of a group that they should not know. Lower is better."""

    ari: float
    """Adjusted Rand index: 0 by chance, 1 if clusters are the groups."""
    mutual_information: float
    """In nats, 0 to `most`. Not adjusted for chance, so a little above 0 with few rows."""
    n_groups: int
    """Groups, and clusters."""

    @property
    def most(self) -> float:
        """``ln n_groups``: what clusters can tell of groups of equal size."""
        return float(np.log(self.n_groups))


def group_clustering(embedding: ArrayLike, groups: ArrayLike, *, rng: RNG = 0) -> GroupClustering:
    """k-means with as many clusters as there are groups (10 starts), compared with the groups.

    For scanners: the same slides, scanned on several machines, each slide the mean of its embeddings.

    Parameters
    ----------
    embedding
        (N, D), finite; taken as it is. Standardise first where columns differ in scale.
    groups
        (N,) scanner, laboratory or stain of each row.
    rng
        Seed or generator.

    Returns
    -------
    `GroupClustering`.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, groups are missing, there are fewer than two, or rows are too few
        or too much alike for as many clusters.

    Examples
    --------
    >>> import numpy as np
    >>> import lemon_sc as lm
    >>> scanner = np.repeat(["a", "b"], 50)
    >>> z = np.random.default_rng(0).normal(size=(100, 4)) + 9 * (scanner == "b")[:, None]
    >>> made = lm.metrics.group_clustering(z, scanner)
    >>> round(made.ari, 3), round(made.mutual_information, 3)
    (1.0, 0.693)
    """
    x, of = np.asarray(embedding), as_names("groups", groups)
    if x.ndim != 2 or of.shape != (len(x),):
        msg = f"`embedding` must be (N, D) and `groups` (N,), got shapes {x.shape} and {of.shape}."
        raise ValueError(msg)
    if not np.isfinite(x).all():
        raise bad_value(
            "embedding", must="be finite", got=f"{int((~np.isfinite(x)).any(axis=1).sum())} rows that are not"
        )
    k = len(np.unique(of))
    if k < 2:
        raise bad_value("groups", must="name at least two groups", got=np.unique(of).tolist())
    distinct = len(np.unique(x, axis=0))
    if distinct < k or k == len(x):
        msg = f"{len(x)} rows of `embedding`, {distinct} of them distinct, cannot be clustered into {k} groups."
        raise ValueError(msg)
    found = KMeans(k, n_init=N_INIT, random_state=int(as_generator(rng).integers(2**31))).fit_predict(x)
    return GroupClustering(
        ari=float(adjusted_rand_score(of, found)), mutual_information=float(mutual_info_score(of, found)), n_groups=k
    )
