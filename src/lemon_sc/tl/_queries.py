"""What `lm.tl.retrieve` is asked: names or vectors in, vectors in the space of an embedding out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, listing, missing_key
from lemon_sc.tl._expression import all_genes, check_genes, expression

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    Rows = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Queries:
    """M queries.

    Attributes
    ----------
    names
        One per query.
    vectors
        (M, D).
    own
        Row of the table that the query is made of and must not find, (M,), -1 without.
    target
        Row whose rank is asked for, (M,); None where no row is the right one.
    genes
        Genes that the queries ask for, one per query; None where they ask for none.
    encoder
        Digest of the image encoder that the encoder of expression belongs to; empty where none was asked.
    """

    names: list[str]
    vectors: NDArray[np.floating]
    own: NDArray[np.int64]
    target: NDArray[np.int64] | None = None
    genes: list[str] | None = None
    encoder: str = ""


def image_queries(adata: AnnData, query: Any, *, rep: NDArray[np.floating], rows: Rows) -> Queries:
    """Rows of the table, which must not find themselves; or vectors."""
    if is_vectors(query):
        if np.ndim(query) < 2 and np.asarray(query).dtype.kind in "iu":
            fix = "Rows are asked by name: `query=adata.obs_names[[...]]`."
            raise bad_value("query", must="be names of rows, or vectors of floats", got=in_short(query), fix=fix)
        vectors = np.atleast_2d(np.asarray(query, dtype=np.float64))
        return Queries(names=[f"query_{i}" for i in range(len(vectors))], vectors=vectors, own=_none(len(vectors)))
    names, at = _rows_by_name(adata, query, rows)
    return Queries(names=names, vectors=rep[at], own=at)


def profile_queries(adata: AnnData, query: Any, *, rows: Rows, model: Any, layer: str | None) -> Queries:
    """Expression of rows of the table, whose own image is the right one; or profiles as a data frame."""
    if isinstance(query, pd.DataFrame):
        try:
            counts = query.to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise bad_value("query", must="hold counts, numbers alone", got=str(error)) from error
        vectors = model.encode_expression(counts, [str(c) for c in query.columns])
        return Queries(names=[str(name) for name in query.index], vectors=vectors, own=_none(len(query)))
    names, at = _rows_by_name(adata, query, rows)
    genes = all_genes(adata)
    chosen = np.zeros(adata.n_obs, dtype=np.bool_)
    chosen[at] = True
    counts = expression(adata, genes, layer=layer, rows=chosen)  # in the order of the table
    place = np.cumsum(chosen)[at] - 1
    vectors = model.encode_expression(counts.tocsr()[place] if hasattr(counts, "tocsr") else counts[place], genes)
    return Queries(names=names, vectors=vectors, own=_none(len(names)), target=at)


def gene_queries(adata: AnnData, query: Any, *, model: Any) -> Queries:
    """Genes, encoded as the mean profile with one of them raised; or vectors by gene."""
    if isinstance(query, dict):
        genes = check_genes(adata, list(query))
        given = [np.asarray(query[gene], dtype=np.float64) for gene in genes]
        shapes = {v.shape for v in given}
        if len(shapes) > 1 or given[0].ndim != 1:
            raise bad_value("query", must="hold one vector (D,) for each gene", got=sorted(shapes))
        vectors = np.stack(given)
    else:
        genes = check_genes(adata, query)
        vectors = model.encode_genes(genes)
    return Queries(names=genes, vectors=vectors, own=_none(len(genes)), genes=genes)


def is_vectors(query: Any) -> bool:
    """Whether a query is numbers and not names."""
    if query is None or isinstance(query, str | dict):
        return False
    values = np.asarray(query)
    return bool(values.size) and values.dtype.kind in "fiu"


def in_short(query: Any) -> str | None:
    """Type and shape of a query, for a message."""
    return None if query is None else f"{type(query).__name__} {np.shape(query)}"


def expression_encoder(model: Any, *, by: str) -> Any:
    """What encodes expression: `model` itself, or what lies at that path."""
    if isinstance(model, str | os.PathLike):
        from lemon_sc.models.expression import load_expression

        return load_expression(model)
    if not (hasattr(model, "encode_expression") and hasattr(model, "encode_genes")):
        fix = "`lm.train.seal` trains one; without it, ask by image, or give vectors."
        raise bad_value(
            "model", must=f"be an encoder of expression, or its path, to retrieve by {by}", got=model, fix=fix
        )
    return model


def check_same_space(adata: AnnData, use_rep: str, model: Any) -> None:
    """Raise if the rows were embedded by another encoder than the one that the encoder of expression belongs to."""
    made = adata.uns.get(keys.UNS, {}).get(keys.EMBED, {}).get(use_rep)
    wanted = getattr(model, "encoder_sha256", "")
    if made is None or not wanted or made["weights_sha256"] == wanted:
        return
    msg = (
        f"`adata.obsm[{use_rep!r}]` was made by {made['model']!r} (weights {made['weights_sha256'][:12] or '?'}), "
        f"but the encoder of expression was trained with weights {wanted[:12]}: their spaces differ. Embed with the "
        "adapted encoder of the same run, `lm.tl.embed(model=lm.models.load(...))`."
    )
    raise ValueError(msg)


def _none(n: int) -> NDArray[np.int64]:
    return np.full(n, -1, dtype=np.int64)


def _rows_by_name(adata: AnnData, query: Any, rows: Rows) -> tuple[list[str], NDArray[np.int64]]:
    if query is None or np.asarray(query).dtype.kind == "b":
        fix = "A mask becomes names with `adata.obs_names[mask]`."
        raise bad_value("query", must="be names of rows", got=in_short(query), fix=fix)
    names = [query] if isinstance(query, str) else [str(name) for name in query]
    if not names:
        raise bad_value("query", must="name at least one row", got=query)
    if not adata.obs_names.is_unique:
        msg = "`adata.obs_names` must be unique to ask by name. Run `adata.obs_names_make_unique()`."
        raise ValueError(msg)
    at = np.asarray(adata.obs_names.get_indexer(names), dtype=np.int64)
    if (at < 0).any():
        raise missing_key(names[int(np.argmin(at))], where="adata.obs_names", have=adata.obs_names)
    if not rows[at].all():
        without = [name for name, has in zip(names, rows[at], strict=True) if not has]
        raise bad_value("query", must="name rows that have an embedding", got=listing(without, most=5))
    return names, at
