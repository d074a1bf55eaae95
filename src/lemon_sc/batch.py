"""Slides on disk, one after the other or on a cluster: what ``lemon-sc embed`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import spatialdata as sd

from lemon_sc import pp
from lemon_sc._core import keys
from lemon_sc._core.log import logger
from lemon_sc._core.table import as_table, check_free
from lemon_sc.io.replace import recover, replace_table
from lemon_sc.tl._embed_table import embed_table, write_embedded
from lemon_sc.tl._slides import run_each, slide_names, stores_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def embed_stores(
    paths: Sequence[Path],
    *,
    key_added: str,
    table_key: str,
    extraction: dict[str, Any],
    store: Path | None,
    **options: Any,
) -> None:
    """Embed SpatialData stores, and write their tables back.

    Parameters
    ----------
    paths
        The stores.
    key_added, table_key, options
        As for `lm.tl.embed`.
    extraction
        Options of `lm.pp.extract_nuclei`, which is run for a table that does not know its nuclei.
    store
        Folder in which embeddings are kept as they come; None keeps none.

    Raises
    ------
    ExceptionGroup
        If slides fail, after all others are done.
    """
    names = slide_names(paths)

    def report(k: int, made: tuple[int, int]) -> None:
        logger.info("%s: %d of %d cells embedded", names[k], *made)

    common = {"key_added": key_added, "table_key": table_key, "extraction": extraction, **options}
    jobs = [
        {"slide": str(path), "store": at, **common} for path, at in zip(paths, stores_of(paths, store), strict=True)
    ]
    run_each(_extract_and_embed, jobs, names=names, write=report)


def _extract_and_embed(
    *, slide: str, key_added: str, table_key: str, extraction: dict[str, Any], **options: Any
) -> tuple[int, int]:
    """Embed one store; parameters are those of `embed_stores`.

    Returns
    -------
    How many cells are embedded, and how many there are.
    """
    recover(slide, table_key=table_key)
    sdata = sd.read_zarr(slide)
    table = as_table(sdata, table_key=table_key)
    check_free(table, key_added, verb=keys.EMBED)
    if keys.NUCLEI not in table.uns.get(keys.UNS, {}):
        pp.extract_nuclei(sdata, table_key=table_key, **extraction)
    made = embed_table(sdata, table_key=table_key, **options)
    write_embedded(table, made, key_added=key_added)
    replace_table(slide, table, table_key=table_key)
    return made.record["n_embedded"], table.n_obs
