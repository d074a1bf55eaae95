"""`lm.tl.retrieve`: ask the slide for a gene, a profile or an image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import bad_value, listing, one_of
from lemon_sc._core.log import logger
from lemon_sc._core.record import digest, record_id, write_record
from lemon_sc._core.rng import RNG, spawn
from lemon_sc._core.table import as_table, check_key
from lemon_sc.analysis.enrichment import enrichment
from lemon_sc.analysis.retrieval import ranks, search
from lemon_sc.metrics.retrieval import RECALL_AT, median_rank, recall_at
from lemon_sc.tl._expression import dense, embedded_rows, expression
from lemon_sc.tl._queries import (
    Queries,
    check_same_space,
    expression_encoder,
    gene_queries,
    image_queries,
    in_short,
    is_vectors,
    profile_queries,
)

if TYPE_CHECKING:
    import os

    from anndata import AnnData
    from numpy.typing import NDArray

    from lemon_sc.analysis.retrieval import Hits

BY = ("image", "gene", "profile")
DECIDES = ("by", "use_rep", "k", "layer", "queries", "asked")
N_PERMS = 999
"""Draws of random rows that the expression of a gene among the hits is compared with."""


@doc
def retrieve(
    adata: AnnData,
    *,
    query: Any,
    by: str = "image",
    use_rep: str = keys.X_LEMON,
    model: Any | str | os.PathLike[str] | None = None,
    layer: str | None = None,
    k: int = 50,
    rng: RNG = 0,
    key_added: str = keys.RETRIEVE,
) -> None:
    """Find the nuclei or patches that look most like what a query asks for.

    By image: those like given ones. By gene or profile: those that look as the gene or the profile lets expect, through
    an encoder of expression that shares its space with the image encoder (`lm.train.seal`). The search is exact, by
    cosine, over all rows of the table, in bounded memory beside the embedding; large problems run on the first CUDA
    device, if there is one.

    Parameters
    ----------
    %(adata)s
    query
        By image: names of rows, or vectors (n, D). By gene: names of genes, or a dict of a vector for each. By profile:
        names of rows, whose expression is encoded, or a data frame of counts with a column for each gene.
    by
        ``"image"``, ``"gene"`` or ``"profile"``.
    %(use_rep)s
    model
        Encoder of expression, or the path of one, for genes and profiles.
    layer
        Layer with the expression: raw counts for profiles; for genes, the values that are compared. ``None`` takes
        ``adata.X``.
    k
        How many rows each query finds.
    %(rng)s
    %(key_added)s

    Returns
    -------
    Nothing. Adds to the table ``.uns["lemon_sc"]["retrieve"][key_added]``, which holds

    `hits`
        Data frame: query, rank, obs_name, score (cosine) and, for genes, expression.
    `metrics`
        Data frame: query, metric, value, chance. For profiles of rows, over all queries: ``recall@1``, 5, 10 and 50 and
        ``median_rank`` of the row's own image. For genes: ``mean`` expression among the hits, ``fold`` over that of all
        rows, the bounds ``low`` and ``high`` of 95 % of 999 draws of `k` random rows, and their one-sided ``pvalue``.
    `random`
        Names of `k` rows at random, to be shown beside.

    and the settings. A query that is a row of the table does not find itself by image; by profile it may.

    Raises
    ------
    MissingKeyError
        If the table, the embedding, a gene or a row is not there.
    ValueError
        If a query has another width than the embedding, is zero or not finite, a named row has no embedding, fewer
        than `k` rows have one, no model is given where one is needed, or it belongs to another encoder than the
        embedding.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.extract_nuclei(sdata)
    >>> lm.tl.embed(sdata, model="morphometry")
    >>> adata = sdata["table"]
    >>> usable = adata.obs_names[adata.obs["nucleus_qc"] == "ok"]
    >>> lm.tl.retrieve(adata, query=[usable[0]], k=5)
    >>> adata.uns["lemon_sc"]["retrieve"]["retrieve"]["hits"]["rank"].tolist()
    [1, 2, 3, 4, 5]
    """
    check_key(key_added)
    one_of("by", by, BY)
    adata = as_table(adata)
    rep, rows = embedded_rows(adata, use_rep)
    asked = _queries(adata, query, by=by, use_rep=use_rep, rep=rep, rows=rows, model=model, layer=layer)
    if asked.vectors.shape[1] != rep.shape[1]:
        must = f"have {rep.shape[1]} columns, as `adata.obsm[{use_rep!r}]` has"
        raise bad_value("query", must=must, got=asked.vectors.shape)
    _check_directions(asked)
    hits = search(rep, asked.vectors, k=k, rows_N=rows, own_M=asked.own)
    streams = spawn(rng, 2)
    found = _hits_table(adata, asked, hits)
    metrics = _metrics_table([], [], [], [])
    if asked.target is not None:
        place = ranks(rep, asked.vectors, asked.target, rows_N=rows)
        metrics = _recall_table(place, n=int(rows.sum()))
    if asked.genes is not None:
        values = dense(expression(adata, asked.genes, layer=layer, rows=rows)).astype(np.float64)
        at = (np.cumsum(rows) - 1)[hits.index_MK]  # among the rows with an embedding
        found["expression"] = np.take_along_axis(values.T, at, axis=1).ravel()
        metrics = _enrichment_table(asked.genes, values, at, rng=streams[0])
    record = {
        "by": by,
        "use_rep": use_rep,
        "k": int(k),
        "layer": layer or "",
        "n_perms": N_PERMS,
        "n_rows": int(rows.sum()),
        "n_rows_without": int((~rows).sum()),
        "queries": np.array(asked.names, dtype=str),
        "asked": digest(asked.vectors),
        "encoder_sha256": asked.encoder,
        "hits": found,
        "metrics": metrics,
        "random": adata.obs_names.to_numpy(dtype=str)[streams[1].choice(np.flatnonzero(rows), int(k), replace=False)],
    }
    made_from = record_id(adata, keys.EMBED, use_rep)
    write_record(adata, keys.RETRIEVE, record, key=key_added, decides=DECIDES, made_from=made_from)
    logger.info("%d queries by %s among %d rows; %d without embedding", len(hits[0]), by, rows.sum(), (~rows).sum())


def _queries(
    adata: AnnData,
    query: Any,
    *,
    by: str,
    use_rep: str,
    rep: NDArray[np.floating],
    rows: NDArray[np.bool_],
    model: Any,
    layer: str | None,
) -> Queries:
    if sparse.issparse(query):
        fix = "`query.toarray()` has them dense."
        raise bad_value("query", must="be names, or dense vectors", got=in_short(query), fix=fix)
    if by == "image":
        if isinstance(query, dict | pd.DataFrame):
            raise bad_value("query", must="be names of rows or vectors to retrieve by image", got=type(query).__name__)
        return image_queries(adata, query, rep=rep, rows=rows)
    if is_vectors(query) and not isinstance(query, pd.DataFrame):
        must = {
            "gene": "be names of genes, or a dict of vectors by gene",
            "profile": "be names of rows or a data frame",
        }
        raise bad_value("query", must=must[by], got=np.shape(query))
    if by == "gene" and isinstance(query, dict):
        return gene_queries(adata, query, model=None)
    encoder = expression_encoder(model, by=by)
    check_same_space(adata, use_rep, encoder)
    made = (
        gene_queries(adata, query, model=encoder)
        if by == "gene"
        else profile_queries(adata, query, rows=rows, model=encoder, layer=layer)
    )
    return replace(made, encoder=str(getattr(encoder, "encoder_sha256", "")))


def _check_directions(asked: Queries) -> None:
    """Raise if a query is zero or not finite: it has no direction, and so no cosine."""
    none = ~np.isfinite(asked.vectors).all(axis=1) | ~asked.vectors.any(axis=1)
    if none.any():
        names = listing(np.asarray(asked.names, dtype=object)[none], most=5)
        msg = f"{int(none.sum())} of {len(none)} queries are zero or not finite: {names}."
        raise ValueError(msg)


def _hits_table(adata: AnnData, asked: Queries, hits: Hits) -> pd.DataFrame:
    """One row per query and hit."""
    n, k = hits.index_MK.shape
    table = pd.DataFrame(
        {
            "query": np.repeat(np.array(asked.names, dtype=object), k),
            "rank": np.tile(np.arange(1, k + 1), n),
            "obs_name": adata.obs_names.to_numpy(dtype=object)[hits.index_MK.ravel()],
            "score": hits.score_MK.ravel(),
        }
    )
    table.index = table.index.astype(str)
    return table


def _metrics_table(query: Any, metric: Any, value: Any, chance: Any) -> pd.DataFrame:
    """Texts and numbers, whatever their number."""
    table = pd.DataFrame(
        {
            "query": np.array(query, dtype=object),
            "metric": np.array(metric, dtype=object),
            "value": np.array(value, dtype=np.float64),
            "chance": np.array(chance, dtype=np.float64),
        }
    )
    table.index = table.index.astype(str)
    return table


def _recall_table(place: NDArray[np.int64], *, n: int) -> pd.DataFrame:
    """Recall and median rank over all queries, with what chance gives."""
    names = [*(f"recall@{k}" for k in RECALL_AT), "median_rank"]
    value = [*recall_at(place), median_rank(place)]
    return _metrics_table([""] * len(names), names, value, [*(min(k / n, 1.0) for k in RECALL_AT), (n + 1) / 2])


def _enrichment_table(
    genes: list[str], values: NDArray[np.float64], at: NDArray[np.int64], *, rng: np.random.Generator
) -> pd.DataFrame:
    """Expression of each gene among its hits, with what random rows give."""
    made = enrichment(values, at, n_perms=N_PERMS, rng=rng)
    unknown = np.full(len(genes), np.nan)
    columns = {
        "mean": (made.mean_M, made.expected_M),
        "fold": (made.fold_M, np.ones(len(genes))),
        "low": (made.low_M, unknown),
        "high": (made.high_M, unknown),
        "pvalue": (made.pvalue_M, unknown),
    }
    value, chance = (np.concatenate(part) for part in zip(*columns.values(), strict=True))
    return _metrics_table(genes * len(columns), np.repeat(list(columns), len(genes)), value, chance)
