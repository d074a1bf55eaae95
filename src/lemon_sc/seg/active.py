"""Which tiles to annotate next: different ones, ones that may hold rare types, ones that models disagree about.

The three arms by which HistoPLUS chose its training tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans

from lemon_sc._core.errors import bad_value
from lemon_sc._core.rng import RNG, as_generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    Rows = NDArray[np.intp]

CLUSTERS = 20
MIN_PROBABILITY = 0.4
QUANTILE = 0.9
"""An uncertain tile has a larger mean probability, and a larger BALD than this part of its slide."""
FEW, MOST = 5, 20
"""Of up to `FEW` uncertain tiles of a slide all are taken; of more, between `FEW` and `MOST`."""
TILES_PER_CLUSTER = 10
SLIDE_WEIGHT = (0.5, 2.0)
"""A slide with many uncertain tiles counts up to twice, one with few at least half."""


def diverse_tiles(
    features: ArrayLike, slide: ArrayLike, *, n: int | None = None, n_clusters: int = CLUSTERS, rng: RNG = 0
) -> Rows:
    """Tiles that differ: of each slide, one at random of each of its clusters; then `n` of all of these at random.

    Parameters
    ----------
    features
        (N, D) tile embeddings.
    slide
        (N,) slide of each tile.
    n
        How many to return; ``None`` is one per cluster and slide.
    n_clusters
        Clusters of K-means per slide; all tiles of a slide with fewer.
    rng
        Seed or generator.

    Returns
    -------
    Rows of the chosen tiles, ascending.

    Raises
    ------
    ValueError
        If shapes do not fit or features are not finite, or more tiles are asked for than there are clusters.
    """
    x, names = checked(features, slide)
    if n_clusters < 1:
        raise bad_value("n_clusters", must="be at least 1", got=n_clusters)
    generator = as_generator(rng)
    pool: list[int] = []
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        cluster, _ = _clusters(x[rows], n_clusters, generator)
        pool += [int(generator.choice(rows[cluster == k])) for k in np.unique(cluster)]
    if n is None:
        return np.sort(pool)
    if not 1 <= n <= len(pool):
        raise bad_value("n", must=f"be from 1 to {len(pool)}, the number of clusters of all slides", got=n)
    return np.sort(generator.choice(pool, size=n, replace=False))


@dataclass(frozen=True, eq=False, kw_only=True)
class Uncertainty:
    """What M models say about N tiles, each whether it holds a type."""

    mean: Array
    """(N,) mean probability."""
    entropy: Array
    """(N,) entropy of the mean, in nats: 0 to ln 2."""
    variation_ratio: Array
    """(N,) share of the models outvoted: 0 to a half."""
    bald: Array
    """(N,) entropy of the mean less the mean entropy: what the models do not know, 0 to ln 2, reached where half of
    them are sure of one answer and half of the other."""


def uncertainty(probability: ArrayLike) -> Uncertainty:
    """How unsure an ensemble is, and how much of that is disagreement (BALD, Houlsby et al. 2011).

    Parameters
    ----------
    probability
        (M, N) of M models for N tiles.

    Returns
    -------
    `Uncertainty`.

    Raises
    ------
    ValueError
        If it is not (M, N) with M >= 1 and values from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from lemon_sc.seg.active import uncertainty
    >>> made = uncertainty([[1.0, 0.5], [0.0, 0.5]])
    >>> bool(np.allclose(made.bald, [np.log(2), 0])), bool(np.allclose(made.entropy, np.log(2)))
    (True, True)
    """
    p = np.asarray(probability, dtype=np.float64)
    if p.ndim != 2 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise bad_value("probability", must="be (M, N) with M >= 1 and values from 0 to 1", got=f"shape {p.shape}")
    mean = p.mean(axis=0)
    votes = (p >= 0.5).mean(axis=0)
    entropy = _entropy(mean)
    return Uncertainty(
        mean=mean,
        entropy=entropy,
        variation_ratio=1 - np.maximum(votes, 1 - votes),
        bald=np.clip(entropy - _entropy(p).mean(axis=0), 0, np.log(2)),  # rounding may pass the bounds
    )


def uncertain_tiles(
    probability: ArrayLike,
    features: ArrayLike,
    *,
    slide: ArrayLike,
    n: int = 50,
    per_cluster: int = TILES_PER_CLUSTER,
    rng: RNG = 0,
) -> Rows:
    """Tiles that models disagree about, different from each other, from all slides.

    Of each slide those tiles count whose mean probability is above `MIN_PROBABILITY` and whose BALD is above the
    90th percentile of the slide. They are clustered, and the tile nearest to each centre stands for its cluster. Of
    these, `n` are drawn; the weight of a slide goes with its number of uncertain tiles.

    Parameters
    ----------
    probability
        (M, N) of M models, that a tile holds the type.
    features
        (N, D) tile embeddings.
    slide
        (N,) slide of each tile.
    n
        How many tiles to return at most.
    per_cluster
        Uncertain tiles per cluster, with 5 to 20 clusters a slide.
    rng
        Seed or generator.

    Returns
    -------
    Rows of the chosen tiles, ascending; fewer than `n` where fewer are uncertain.

    Raises
    ------
    ValueError
        If shapes do not fit, or values are out of range.
    """
    x, names = checked(features, slide)
    sure = uncertainty(probability)
    if len(sure.mean) != len(x):
        raise bad_value("probability", must=f"have a column for each of {len(x)} tiles", got=len(sure.mean))
    if n < 1 or per_cluster < 1:
        raise bad_value("n", must="be at least 1, as `per_cluster`", got=(n, per_cluster))
    generator = as_generator(rng)
    pool: list[Rows] = []
    n_uncertain: list[int] = []
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        is_high = sure.bald[rows] > np.quantile(sure.bald[rows], QUANTILE)
        rows = rows[is_high & (sure.mean[rows] > MIN_PROBABILITY)]
        if len(rows):
            pool.append(_representatives(x, rows, per_cluster, generator))
            n_uncertain.append(len(rows))
    if not pool:
        return np.zeros(0, dtype=np.intp)
    weight = np.clip(np.array(n_uncertain) / np.mean(n_uncertain), *SLIDE_WEIGHT)
    each = np.concatenate([np.full(len(rows), w / len(rows)) for rows, w in zip(pool, weight, strict=True)])
    rows = np.concatenate(pool)
    return np.sort(generator.choice(rows, size=min(n, len(rows)), replace=False, p=each / each.sum()))


def top_tiles(probability: ArrayLike, slide: ArrayLike, *, n: int = 2) -> Rows:
    """The tiles of each slide that most probably hold a type.

    Parameters
    ----------
    probability
        (N,).
    slide
        (N,) slide of each tile.
    n
        Tiles per slide.

    Returns
    -------
    Rows of the chosen tiles, ascending; of equals, the first.

    Raises
    ------
    ValueError
        If lengths differ, or `n` is below 1.
    """
    p, names = checked(np.asarray(probability)[:, None], slide)
    if n < 1:
        raise bad_value("n", must="be at least 1", got=n)
    best = [np.flatnonzero(names == name) for name in np.unique(names)]
    return np.sort(np.concatenate([rows[np.argsort(-p[rows, 0], kind="stable")[:n]] for rows in best]))


def checked(features: ArrayLike, slide: ArrayLike) -> tuple[Array, NDArray[np.str_]]:
    """Check features of tiles and the names of their slides.

    Parameters
    ----------
    features
        (N, D).
    slide
        (N,).

    Returns
    -------
    Float64 (N, D), and names (N,).

    Raises
    ------
    ValueError
        If shapes do not fit, there is no tile, or features are not finite.
    """
    x, names = np.asarray(features, dtype=np.float64), np.asarray(slide).astype(str)
    if x.ndim != 2 or not len(x) or names.shape != (len(x),):
        msg = f"`features` must be (N, D) and `slide` (N,), N >= 1, got shapes {x.shape} and {names.shape}."
        raise ValueError(msg)
    if not np.isfinite(x).all():
        raise bad_value("features", must="be finite", got=f"{int((~np.isfinite(x)).any(axis=1).sum())} tiles with NaN")
    return x, names


def _entropy(p: Array) -> Array:
    """Of a yes or no with probability p, in nats."""
    q = np.stack([p, 1 - p])
    return -np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0).sum(axis=0)


def _clusters(x: Array, k: int, rng: np.random.Generator) -> tuple[Rows, Array]:
    """Cluster of each row and squared distance to its centre; with no more rows than clusters, each its own."""
    if len(x) <= k:
        return np.arange(len(x)), np.zeros(len(x))
    made = KMeans(k, n_init=3, random_state=int(rng.integers(2**31))).fit(x)
    return made.labels_, ((x - made.cluster_centers_[made.labels_]) ** 2).sum(axis=1)


def _representatives(x: Array, rows: Rows, per_cluster: int, rng: np.random.Generator) -> Rows:
    """One tile per cluster, nearest to its centre; all of a few."""
    if len(rows) <= FEW:
        return rows
    cluster, far = _clusters(x[rows], int(np.clip(len(rows) // per_cluster, FEW, MOST)), rng)
    order = np.lexsort((far, cluster))
    return rows[order[np.unique(cluster[order], return_index=True)[1]]]
