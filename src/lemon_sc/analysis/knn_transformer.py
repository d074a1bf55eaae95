"""Nearest neighbours as a transformer of scikit-learn, which scanpy takes as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc.analysis.nearest import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = ("exact", "approximate")

_SMALL = 10_000  # cells up to which an approximation saves no time to speak of


class KNNTransformer(TransformerMixin, BaseEstimator):
    """Neighbours of cells for `scanpy.pp.neighbors` and scikit-learn, exact or approximate, Euclidean.

    ``sc.pp.neighbors(adata, use_rep="X_lemon", transformer=lm.tl.KNNTransformer())`` builds the graph of the cells that
    are really nearest, whatever their number: in bounded memory, on a GPU where there is one, the same on every
    machine. scanpy alone approximates from 8,192 cells on.

    Parameters
    ----------
    n_neighbors
        Neighbours. As scanpy counts, the cell itself is one of them; as scikit-learn counts, it is not.
        ``sc.pp.neighbors`` takes this number and ignores its own.
    method
        ``"exact"``: time grows with the square of the number of cells. ``"approximate"``: pynndescent, which misses
        some neighbours (about 1 % in embeddings) and saves time on the CPU from about 20,000 cells; up to 10,000 cells
        the search is exact all the same.
    device
        Of the exact search: ``"auto"`` (the first CUDA device if the problem is large, else the CPU) or a name such as
        ``"cuda:1"``.
    rng
        Seed (int) or `numpy.random.Generator` of the approximate search.

    Examples
    --------
    >>> import numpy as np
    >>> import lemon_sc as lm
    >>> x = np.array([[0.0], [1.0], [3.0]])
    >>> lm.tl.KNNTransformer(n_neighbors=1).fit_transform(x).toarray()
    array([[0., 1., 0.],
           [1., 0., 0.],
           [0., 2., 0.]])
    """

    def __init__(self, *, n_neighbors: int = 15, method: str = "exact", device: str = "auto", rng: RNG = 0) -> None:
        self.n_neighbors = n_neighbors
        self.method = method
        self.device = device
        self.rng = rng

    def fit(self, X: NDArray[np.floating], y: None = None) -> Self:
        """Keep the cells that neighbours are looked for among.

        Parameters
        ----------
        X
            (N, D), finite, N above `n_neighbors`.
        y
            Not used.

        Returns
        -------
        The transformer.

        Raises
        ------
        ValueError
            If a parameter is out of range or values are not finite.
        """
        one_of("method", self.method, METHODS)
        x = _rows(X)
        k = self.n_neighbors
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k < len(x):
            raise bad_value("n_neighbors", must=f"be an int between 1 and {len(x) - 1} for {len(x)} cells", got=k)
        self._x = x
        self._index = self._approximate(x) if self.method == "approximate" and len(x) > _SMALL else None
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, X: NDArray[np.floating]) -> sparse.csr_matrix:
        """Distances of points to the cells nearest to them.

        Parameters
        ----------
        X
            (M, D), finite. A point that is one of the cells finds itself, too.

        Returns
        -------
        (M, N) CSR with ``n_neighbors + 1`` entries per row, nearest first, as `sklearn.neighbors.KNeighborsTransformer`
        returns it.
        """
        check_is_fitted(self, "n_features_in_")
        x = _rows(X)
        if x.shape[1] != self.n_features_in_:
            raise bad_value("X", must=f"have {self.n_features_in_} columns, as the cells do", got=x.shape)
        if self._index is not None:
            return _graph(*self._index.query(x, k=self.n_neighbors + 1), n=len(self._x))
        found = nearest(self._x, k=self.n_neighbors + 1, query_MD=x, device=self.device)
        return _graph(*found, n=len(self._x))

    def fit_transform(self, X: NDArray[np.floating], y: None = None, **fit_params: Any) -> sparse.csr_matrix:
        """Distances of the cells to each other.

        Parameters
        ----------
        X
            (N, D), finite, N above `n_neighbors`.
        y
            Not used.
        **fit_params
            None is known.

        Returns
        -------
        (N, N) CSR with ``n_neighbors + 1`` entries per row, nearest first: the first is the cell itself, stored as 0.
        """
        if fit_params:
            raise bad_value("fit_params", must="be empty", got=sorted(fit_params))
        self.fit(X)
        index: NDArray[np.integer]
        distance: NDArray[np.floating]
        if self._index is None:
            index, distance = nearest(self._x, k=self.n_neighbors, device=self.device)
        else:
            index, distance = _without_self(*self._index.neighbor_graph)
        n = len(self._x)
        return _graph(
            np.column_stack([np.arange(n), index]), np.column_stack([np.zeros(n, distance.dtype), distance]), n=n
        )

    def _approximate(self, x: NDArray[np.floating]) -> Any:
        from pynndescent import NNDescent  # compiles for seconds when imported

        n = len(x)
        return NNDescent(
            x,
            n_neighbors=self.n_neighbors + 1,
            # as scanpy and umap choose them
            n_trees=min(64, 5 + round(n**0.5 / 20)),
            n_iters=max(5, round(np.log2(n))),
            random_state=int(as_generator(self.rng).integers(2**31)),
        )


def _rows(X: Any) -> NDArray[np.floating]:
    """Finite floats (N, D), or an error that says which rows are none."""
    if sparse.issparse(X):
        msg = f"`X` must be a dense array, as of an embedding, got a sparse {X.shape} matrix. Use `X.toarray()`."
        raise TypeError(msg)
    x = np.asarray(X)
    if x.ndim != 2 or x.dtype.kind not in "biuf":
        msg = f"`X` must be a numeric array (cells, dimensions), got {x.dtype} with shape {x.shape}."
        raise ValueError(msg)
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        msg = (
            f"`X` must be finite, but {int(bad.sum())} of {len(x)} rows are not: cells without a usable nucleus have "
            "no embedding. Leave them out first, as by `adata[np.isfinite(adata.obsm['X_lemon']).all(axis=1)].copy()`."
        )
        raise ValueError(msg)
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)


def _without_self(
    index: NDArray[np.integer], distance: NDArray[np.floating]
) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """All columns but that of the cell itself, or but the last where it was not found (among its copies, say)."""
    if (index < 0).any():
        n = int((index < 0).any(axis=1).sum())
        msg = f'The approximate search found too few neighbours of {n} cells. Use `method="exact"`.'
        raise ValueError(msg)
    own = index == np.arange(len(index))[:, None]
    out = np.where(own.any(axis=1), own.argmax(axis=1), index.shape[1] - 1)
    keep = np.arange(index.shape[1]) != out[:, None]
    shape = len(index), index.shape[1] - 1
    return index[keep].reshape(shape), distance[keep].reshape(shape)


def _graph(index: NDArray[np.integer], distance: NDArray[np.floating], *, n: int) -> sparse.csr_matrix:
    m, k = index.shape
    return sparse.csr_matrix((distance.ravel(), index.ravel(), np.arange(0, m * k + 1, k)), shape=(m, n))
