"""Moran's I of genes on a graph of the cells, global and local."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, missing_key
from lemon_sc._core.log import logger
from lemon_sc._core.record import record_id, write_record
from lemon_sc._core.rng import RNG, as_generator
from lemon_sc._core.table import as_table, check_key
from lemon_sc.analysis import moran
from lemon_sc.analysis.knn import knn_graph
from lemon_sc.analysis.local_moran import QUADRANTS
from lemon_sc.analysis.local_moran import local_morans_i as local_kernel
from lemon_sc.tl._expression import all_genes, check_genes, dense, embedded_rows, expression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

K = 15
"""Neighbours of a cell in the graph built from an embedding."""

RECORD_LOCAL = "local_moranI"


@doc
def morans_i(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    connectivity_key: str | None = None,
    genes: str | Sequence[str] | None = None,
    layer: str | None = None,
    n_perms: int | None = None,
    two_tailed: bool = False,
    rng: RNG = 0,
    key_added: str = keys.MORAN,
) -> None:
    """Moran's I: is a gene smooth over a graph of the cells, for instance over the morphology manifold?

    On the graph of an embedding, I > 0 says that cells which look alike express the gene alike. The table has squidpy's
    columns, and on the same graph squidpy's values of ``I``, ``var_norm`` and, for positive I, ``pval_norm``. The
    one-sided p-values here are of the upper tail throughout, where squidpy takes the lower tail for negative I; and a
    permutation here relabels the cells (values and their neighbours' values move together), where squidpy shuffles the
    rows of the graph only, which makes the null too narrow.

    Use normalised, log-transformed expression: with raw counts, I also reports that cell size is smooth.

    The p-values test against cells that are independent of each other. Neighbours in tissue are not: on a graph of an
    embedding, a gene that only follows the position in the section can come out significant where morphology follows
    the position, too. Read I and its order, and compare with genes that should not follow morphology.

    Parameters
    ----------
    %(adata)s
    use_rep
        Embedding in ``adata.obsm`` to build the graph from: 15 nearest neighbours, exact, Euclidean on z-scored
        columns, directed, equal weights. Cells with NaN are left out and counted. The default where `connectivity_key`
        is not given is ``"X_lemon"``. This is not the graph of ``sc.pp.neighbors``, and I is another number on that
        one: scanpy's ``n_neighbors=15`` counts the cell itself, so that 14 others are left; it takes the columns as
        they are; and its connectivities are UMAP's, weighted and in both directions. Memory does not grow with the
        square of the number of cells, time does: where there is no GPU and more than a few 100,000 cells, an
        approximate graph is quicker, of ``sc.pp.neighbors(adata, use_rep="X_lemon", key_added="lemon",
        transformer=lm.tl.KNNTransformer(method="approximate"))``.
    connectivity_key
        Graph in ``adata.obsp`` instead, such as ``"spatial_connectivities"`` or ``"lemon_connectivities"``. Rows are
        normalised to sum 1 and the diagonal is ignored. Distances are refused.
    genes
        One gene or a list; ``None`` takes all features that are no controls.
    %(layer)s
        It is used as it is.
    n_perms
        Permutations for ``pval_sim``; ``None`` gives analytic p-values only.
    two_tailed
        Whether p-values count both tails.
    %(rng)s
    %(key_added)s

    Returns
    -------
    Nothing. Adds to the table:

    ``.uns[key_added]``
        DataFrame indexed by gene, by falling I: ``I``, ``pval_norm``, ``var_norm`` (values are normal), ``pval_rand``,
        ``var_rand`` (all placements of the values), with permutations ``pval_z_sim``, ``pval_sim``, ``var_sim``, and
        for each p-value its Benjamini-Hochberg rate, ``*_fdr_bh``. A constant gene is NaN and does not count as a test.
    ``.uns["lemon_sc"]["moranI"][key_added]``
        Graph, cells left out, constant genes, settings.

    Raises
    ------
    MissingKeyError
        If the embedding, graph, layer or a gene is not there.
    ValueError
        If both graphs are given, the graph holds distances or no edges, values are not finite, no more than 15 cells
        have an embedding, or all have the same.
    """
    adata = as_table(adata)
    check_key(key_added)
    names = check_genes(adata, all_genes(adata) if genes is None else genes)
    perms, generator = _n_perms(n_perms), as_generator(rng)
    graph = _graph(adata, use_rep=use_rep, connectivity_key=connectivity_key)
    x = expression(adata, names, layer=layer, rows=graph.rows)

    result = moran.morans_i(graph.w, x, rng=generator, n_perms=perms, two_tailed=two_tailed)

    table = _table(result, names)
    made = graph.record | {
        "layer": "X" if layer is None else layer,
        "n_perms": perms,
        "two_tailed": two_tailed,
        "n_constant": int(np.isnan(result.I).sum()),
        "rng": "generator" if isinstance(rng, np.random.Generator) else int(rng),
    }
    adata.uns[key_added] = table
    write_record(adata, keys.MORAN, made, key=key_added, made_from=_embedding_id(adata, graph))
    logger.info(
        "morans_i: %d genes (%d constant) on %d cells, %d left out",
        len(names),
        made["n_constant"],
        made["n_cells"],
        made["n_left_out"],
    )


@doc
def local_morans_i(
    adata: AnnData,
    *,
    gene: str,
    use_rep: str | None = None,
    connectivity_key: str | None = None,
    layer: str | None = None,
    n_perms: int | None = None,
    rng: RNG = 0,
    key_added: str | None = None,
) -> None:
    """Local Moran's I of one gene: where on the graph it is smooth, and which cells stand out from their neighbours.

    Computed by esda. The values add up to ``(n - 1) * I`` of `morans_i` where each cell has neighbours.

    Parameters
    ----------
    %(adata)s
    gene
        Name in ``adata.var_names``.
    use_rep
        As for `morans_i`.
    connectivity_key
        As for `morans_i`.
    %(layer)s
    n_perms
        Permutations of the other cells' values, per cell; ``None`` takes the moments of the same null in closed form,
        which is quick but rough for rarely expressed genes.
    %(rng)s
    key_added
        Beginning of the names of the columns (letters, digits, ``_``, ``.``, ``-``); ``None`` is
        ``local_moranI_<gene>``.

    Returns
    -------
    Nothing. Adds to the table:

    ``.obs[key_added]``
        Local I; NaN for cells that were left out.
    ``.obs[key_added + "_pval"]``
        P-value of the smaller tail, not corrected for the number of cells.
    ``.obs[key_added + "_quadrant"]``
        Categorical: own value and neighbours' mean against the mean, ``high-high``, ``low-high``, ``low-low``,
        ``high-low``.
    ``.uns["lemon_sc"]["local_moranI"][key_added]``
        Gene, graph, cells left out, settings.

    Raises
    ------
    MissingKeyError
        If the gene, embedding, graph or layer is not there.
    ValueError
        If the gene is constant, or as for `morans_i`.

    References
    ----------
    Anselin, Geographical Analysis 27 (1995) 93-115.
    """
    adata = as_table(adata)
    name = check_key(f"local_moranI_{gene}" if key_added is None else key_added)
    column = check_genes(adata, gene)
    perms, generator = _n_perms(n_perms), as_generator(rng)
    graph = _graph(adata, use_rep=use_rep, connectivity_key=connectivity_key)
    values = dense(expression(adata, column, layer=layer, rows=graph.rows)).ravel()

    local = local_kernel(graph.w, values, rng=generator, n_perms=perms)

    codes = np.full(adata.n_obs, -1)
    codes[graph.rows] = local.quadrant
    adata.obs[name] = _spread(local.I, graph.rows)
    adata.obs[f"{name}_pval"] = _spread(local.pvalue, graph.rows)
    adata.obs[f"{name}_quadrant"] = pd.Categorical.from_codes(codes, categories=list(QUADRANTS))
    made = graph.record | {
        "gene": gene,
        "layer": "X" if layer is None else layer,
        "n_perms": perms,
        "rng": "generator" if isinstance(rng, np.random.Generator) else int(rng),
    }
    write_record(adata, RECORD_LOCAL, made, key=name, made_from=_embedding_id(adata, graph))


@dataclass(frozen=True, kw_only=True)
class _Graph:
    w: sparse.csr_matrix
    """Row-normalised, between the cells `rows` only."""
    rows: NDArray[np.bool_]
    record: dict[str, Any]


def _graph(adata: AnnData, *, use_rep: str | None, connectivity_key: str | None) -> _Graph:
    if use_rep is not None and connectivity_key is not None:
        msg = f"Pass `use_rep` or `connectivity_key`, not both, got {use_rep!r} and {connectivity_key!r}."
        raise ValueError(msg)
    if connectivity_key is not None:
        return _stored_graph(adata, connectivity_key)
    name = keys.X_LEMON if use_rep is None else use_rep
    rep, rows = embedded_rows(adata, name)
    w = knn_graph(rep if rows.all() else rep[rows], k=K)
    return _Graph(w=w, rows=rows, record={"use_rep": name, "n_neighbors": K} | _counts(w, rows))


def _stored_graph(adata: AnnData, key: str) -> _Graph:
    if key not in adata.obsp:
        fix = "Run `sq.gr.spatial_neighbors` or `sc.pp.neighbors` first."
        raise missing_key(key, where="adata.obsp", have=adata.obsp, fix=fix)
    if "distance" in key.lower():
        raise bad_value(
            "connectivity_key",
            must="name a graph of similarities; distances are large for cells that are far apart",
            got=key,
            fix=f"Did you mean {key.replace('distances', 'connectivities')!r}?",
        )
    w = sparse.csr_matrix(adata.obsp[key], dtype=np.float64, copy=True)
    n_self = int(np.count_nonzero(w.diagonal()))
    w = moran.row_normalise(w - sparse.diags(w.diagonal(), format="csr"))
    rows = np.ones(adata.n_obs, dtype=bool)
    record = {"connectivity_key": key, "n_self_edges_ignored": n_self}
    return _Graph(w=w, rows=rows, record=record | _counts(w, rows))


def _embedding_id(adata: AnnData, graph: _Graph) -> str:
    """Id of the embedding that the graph was built from; empty for a graph from elsewhere."""
    return record_id(adata, keys.EMBED, graph.record["use_rep"]) if "use_rep" in graph.record else ""


def _counts(w: sparse.csr_matrix, rows: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "n_cells": int(rows.sum()),
        "n_left_out": int((~rows).sum()),
        "n_isolated": int((np.diff(w.indptr) == 0).sum()),
    }


def _n_perms(n_perms: int | None) -> int:
    if n_perms is None:
        return 0
    if isinstance(n_perms, bool) or not isinstance(n_perms, int | np.integer) or n_perms < 1:
        raise bad_value("n_perms", must="be None or an int >= 1", got=n_perms)
    return int(n_perms)


def _table(result: moran.MoranResult, genes: list[str]) -> pd.DataFrame:
    """Squidpy's columns in squidpy's order, with those of randomisation after those of normality."""
    columns = {
        "I": result.I,
        "pval_norm": result.pvalue_norm,
        "var_norm": result.var_norm,
        "pval_rand": result.pvalue_rand,
        "var_rand": result.var_rand,
    }
    if result.simulated is not None:
        columns |= {
            "pval_z_sim": result.simulated.pvalue_z,
            "pval_sim": result.simulated.pvalue,
            "var_sim": result.simulated.var,
        }
    rates = {f"{c}_fdr_bh": moran.benjamini_hochberg(p) for c, p in columns.items() if c.startswith("pval")}
    table = pd.DataFrame(columns | rates, index=pd.Index(genes, dtype=object))
    return table.sort_values("I", ascending=False, kind="stable", na_position="last")


def _spread(values: NDArray[np.float64], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    out = np.full(len(rows), np.nan)
    out[rows] = values
    return out
