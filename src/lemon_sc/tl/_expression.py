"""What the analysis verbs read from a table: the genes asked for, their expression, the cells with an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from lemon_sc._core.errors import missing_key
from lemon_sc._core.table import get_rep
from lemon_sc.analysis.panel import is_gene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray


def all_genes(adata: AnnData) -> list[str]:
    """Names of all features that are no controls.

    Parameters
    ----------
    adata
        The table.

    Returns
    -------
    Names, in the order of the table.
    """
    types = adata.var["feature_types"].tolist() if "feature_types" in adata.var else None
    return [str(name) for name in adata.var_names[is_gene(list(adata.var_names), types)]]


def check_genes(adata: AnnData, genes: str | Sequence[str]) -> list[str]:
    """The names as a list, each once in ``adata.var_names``, or an error that names the nearest gene.

    Parameters
    ----------
    adata
        The table.
    genes
        One name or several.

    Returns
    -------
    The names.

    Raises
    ------
    MissingKeyError
        If one is not there.
    ValueError
        If names repeat, here or in the table, or there are none.
    """
    names = [genes] if isinstance(genes, str) else [str(g) for g in genes]
    if not adata.var_names.is_unique:
        msg = "`adata.var_names` must be unique to select genes by name. Run `adata.var_names_make_unique()`."
        raise ValueError(msg)
    if not names or len(set(names)) < len(names):
        msg = f"The list of genes must be non-empty and name each gene once, got {names[:12]}."
        raise ValueError(msg)
    for name in names:
        if name not in adata.var_names:
            raise missing_key(name, where="adata.var_names", have=adata.var_names)
    return names


def expression(
    adata: AnnData, genes: list[str], *, layer: str | None, rows: NDArray[np.bool_]
) -> NDArray[np.floating] | sparse.spmatrix:
    """Expression of `genes` in the cells `rows`, sparse if it is stored so; an error if a value is not finite.

    Parameters
    ----------
    adata
        The table.
    genes
        Names, all there.
    layer
        Where the values are; None takes ``X``.
    rows
        Which cells, bool (n_obs,).

    Returns
    -------
    Values, (number of rows, number of genes).

    Raises
    ------
    MissingKeyError
        If there is no such layer.
    ValueError
        If a value is not finite.
    """
    if layer is not None and layer not in adata.layers:
        raise missing_key(layer, where="adata.layers", have=adata.layers, fix="`layer=None` takes adata.X.")
    view = adata[:, genes] if rows.all() else adata[rows, genes]  # in one step: two are an error in a file
    x = view.X if layer is None else view.layers[layer]
    if x is None:
        msg = "`adata.X` is empty. Pass `layer=` (a key of `adata.layers`) that holds the expression."
        raise ValueError(msg)
    if x.dtype.kind not in "biuf":
        where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        msg = f"Expression must be numbers, got {x.dtype} in {where}."
        raise ValueError(msg)
    if sparse.issparse(x):
        x = sparse.csc_matrix(x)
        wrong = np.array([not np.isfinite(x.data[a:b]).all() for a, b in zip(x.indptr[:-1], x.indptr[1:], strict=True)])
    else:
        x = np.asarray(x)
        wrong = ~np.isfinite(x).all(axis=0)
    if wrong.any():
        bad = [gene for gene, w in zip(genes, wrong, strict=True) if w]
        msg = (
            f"Expression must be finite, found NaN or infinite values in {len(bad)} genes: {bad[:12]}. "
            "A gene that is not in every panel is NaN after an outer join; `anndata.concat(join='inner')` keeps those "
            "that are."
        )
        raise ValueError(msg)
    return x


def dense(x: NDArray[np.floating] | sparse.spmatrix) -> NDArray[np.floating]:
    """`x` as an array.

    Parameters
    ----------
    x
        Dense or sparse.

    Returns
    -------
    Dense.
    """
    return np.asarray(x.toarray() if isinstance(x, sparse.spmatrix | sparse.sparray) else x)


def embedded_rows(
    adata: AnnData, use_rep: str, *, owner: str = "adata"
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """The embedding, and which cells have one; an error if none has.

    Parameters
    ----------
    adata
        The table.
    use_rep
        Name of the embedding in ``obsm``.
    owner
        What the user calls the table.

    Returns
    -------
    Array (n_obs, D), and bool (n_obs,).

    Raises
    ------
    ValueError
        If no row is free of NaN.
    """
    rep = get_rep(adata, use_rep, owner=owner)
    rows = np.asarray(np.isfinite(rep).all(axis=1))
    if not rows.any():
        msg = (
            f"No row of `{owner}.obsm[{use_rep!r}]` {rep.shape} is free of NaN, so there is no cell to work with. "
            f"`{owner}.obs['nucleus_qc']` says why a cell has no usable nucleus."
        )
        raise ValueError(msg)
    return rep, rows
