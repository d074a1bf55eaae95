"""How much an embedding moves when the picture changes and the nucleus does not: another stain, another scanner.

Letters of array names: N cells, D features, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lemon_sc._core.errors import bad_value
from lemon_sc.analysis.nearest import nearest
from lemon_sc.metrics.correlation import constant_floor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Agreement of two embeddings of the same cells, standardised by the first."""

    rmse: float
    """Root mean squared difference, in standard deviations of the originals. 0 for equal embeddings."""
    cosine: float
    """Mean cosine similarity of a cell with itself. 1 for equal embeddings, 0 for unrelated ones."""
    knn_overlap: float
    """Mean share of a cell's `k` nearest neighbours that stay its neighbours. 1 for equal embeddings."""
    chance: float
    """`knn_overlap` of unrelated embeddings, ``k / (n - 1)``."""
    n: int
    """Cells."""
    k: int
    """Neighbours."""
    n_constant: int
    """Features that are constant in the originals and were left out."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Original:
    """Original embeddings with their neighbours, to compare several others with."""

    mean: Array
    """(D,) of the originals."""
    sd: Array
    """(D,) of the originals (ddof 0); 0 for constant features."""
    z_ND: NDArray[np.float32]
    """Standardised, without the constant features."""
    neighbours: NDArray[np.int64]
    """(N, K), sorted by index."""
    device: str
    """Where neighbours are searched."""

    @classmethod
    def of(cls, original: ArrayLike, *, k: int = 100, device: str = "auto") -> Original:
        """Standardise embeddings and find their neighbours.

        Parameters
        ----------
        original
            (N, D), finite.
        k
            Neighbours of each cell, itself excluded.
        device
            As for `nearest`.

        Returns
        -------
        What others are compared with.
        """
        x = _matrix("original", original)
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k < len(x):
            must = f"be an int between 1 and {len(x) - 1}, as there are {len(x)} cells"
            raise bad_value("k", must=must, got=k)
        mean, sd = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        sd[sd <= constant_floor(x)] = 0.0
        if not sd.any():
            msg = f"The original embedding is the same for all {len(x)} cells: there is nothing to compare with."
            raise ValueError(msg)
        z = _standardised(x, mean, sd)
        return cls(mean=mean, sd=sd, z_ND=z, neighbours=_neighbours(z, int(k), device), device=device)

    def against(self, transformed: ArrayLike) -> Stability:
        """Compare with embeddings of the same cells, in the same order.

        Parameters
        ----------
        transformed
            (N, D), finite.

        Returns
        -------
        `Stability`.
        """
        y = _matrix("transformed", transformed)
        (n, k), n_features = self.neighbours.shape, len(self.mean)
        if y.shape != (n, n_features):
            raise bad_value("transformed", must=f"be ({n}, {n_features}), as the originals are", got=y.shape)
        z = _standardised(y, self.mean, self.sd)
        a, b = self.z_ND.astype(np.float64), z.astype(np.float64)
        length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        there = length > 0  # a cell at the mean has no direction
        return Stability(
            rmse=float(np.sqrt(np.mean((a - b) ** 2))),
            cosine=float(np.mean((a * b).sum(axis=1)[there] / length[there])) if there.any() else float("nan"),
            knn_overlap=_shared(self.neighbours, _neighbours(z, k, self.device)) / (n * k),
            chance=k / (n - 1),
            n=n,
            k=k,
            n_constant=int((self.sd == 0).sum()),
        )


def stability(original: ArrayLike, transformed: ArrayLike, *, k: int = 100, device: str = "auto") -> Stability:
    """How far embeddings of the same cells moved.

    Both are standardised with the mean and standard deviation of the originals, so that features of any scale count
    alike and a shift of the whole cloud is seen.

    Parameters
    ----------
    original
        (N, D), finite.
    transformed
        (N, D), of the same cells in the same order.
    k
        Neighbours of each cell that are compared, itself excluded.
    device
        Where neighbours are searched: ``"auto"``, or a name such as ``"cuda:1"``.

    Returns
    -------
    `Stability`: RMSE, cosine and overlap of neighbours, and the overlap that chance gives.

    Raises
    ------
    ValueError
        If shapes differ, values are not finite, there are not more than `k` cells, or all originals are equal.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((200, 8))
    >>> made = lm.metrics.stability(x, x, k=20)
    >>> made.rmse, round(made.cosine, 6), made.knn_overlap
    (0.0, 1.0, 1.0)
    """
    return Original.of(original, k=k, device=device).against(transformed)


def _matrix(name: str, values: ArrayLike) -> NDArray[np.floating]:
    x = np.asarray(values)
    if x.ndim != 2 or x.dtype.kind != "f":
        raise bad_value(name, must="be a floating point array (N, D)", got=f"{x.dtype} {x.shape}")
    if not np.isfinite(x).all():
        got = f"{int((~np.isfinite(x).all(axis=1)).sum())} rows that are not"
        raise bad_value(name, must="be finite", got=got, fix="Leave out cells without an embedding in both.")
    return x


def _standardised(x: NDArray[np.floating], mean: Array, sd: Array) -> NDArray[np.float32]:
    varies = sd > 0
    return ((x[:, varies] - mean[varies]) / sd[varies]).astype(np.float32)


def _neighbours(z_ND: NDArray[np.float32], k: int, device: str) -> NDArray[np.int64]:
    index, _ = nearest(z_ND, k=k, device=device)
    return np.sort(index, axis=1)


def _shared(a_NK: NDArray[np.int64], b_NK: NDArray[np.int64]) -> int:
    """How many neighbours the rows of two lists share, over all rows."""
    both = np.sort(np.concatenate([a_NK, b_NK], axis=1), axis=1)  # a neighbour comes once in each
    return int((both[:, 1:] == both[:, :-1]).sum())
