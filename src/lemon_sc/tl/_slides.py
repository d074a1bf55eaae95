"""Embedding of many slides: one after the other, or on the workers of a Dask cluster.

A slide goes to a worker by reference: images stay on disk, and of outlines and table only what the embedding needs is
sent. Dask runs a slide again whose worker was lost; with a store, it goes on where that worker stopped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anndata as ad
import spatialdata as sd

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value
from lemon_sc._core.log import logger, progress
from lemon_sc._core.table import as_table, check_free
from lemon_sc._objects.nuclei import extraction
from lemon_sc.io.replace import recover, replace_table
from lemon_sc.tl._embed_table import embed_table, write_embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client

    from lemon_sc.tl._embed_table import Embedded

    Slide: TypeAlias = ad.AnnData | sd.SpatialData | str | os.PathLike[str]


def embed_slides(
    slides: Sequence[Slide], *, key_added: str, table_key: str, store: str | os.PathLike[str] | None, **options: Any
) -> None:
    """Embed slides in place, those given by path on disk; options are those of `lm.tl.embed`.

    Raises
    ------
    ExceptionGroup
        If slides fail, after all others are done.
    """

    def write(k: int, made: Embedded | None) -> None:
        if made is not None:
            write_embedded(as_table(slides[k], table_key=table_key), made, key_added=key_added)

    jobs = [
        {**options, "slide": slide, "table_key": table_key, "key_added": key_added, "store": at}
        for slide, at in zip(slides, stores_of(slides, store), strict=True)
    ]
    run_each(embed_slide, jobs, names=slide_names(slides), write=write)


def run_each(
    function: Callable[..., Any],
    jobs: Sequence[dict[str, Any]],
    *,
    names: Sequence[str],
    write: Callable[[int, Any], None],
) -> None:
    """Call `function` for each slide, here or on the workers of the active Dask client, and `write` what it returns.

    Parameters
    ----------
    function
        Called with the keywords of a job.
    jobs
        One per slide; ``slide`` is the slide.
    names
        Of the slides, for messages.
    write
        Called here, with number and result, as they come.

    Raises
    ------
    ExceptionGroup
        If slides fail, after all others are done.
    """
    client = active_client()
    results = in_turn(function, jobs) if client is None else on_workers(client, function, jobs)
    errors: list[Exception] = []
    with progress(total=len(jobs), desc="Embedding slides", unit="slides") as bar:
        for k, result in results:
            failure = result if isinstance(result, Exception) else attempt(write, k, result)
            if failure is not None:
                failure.add_note(f"slide {names[k]!r}")
                errors.append(failure)
            bar.update()
    if errors:
        msg = (
            f"{len(errors)} of {len(jobs)} slides were not embedded ({', '.join(failed(errors))}); the others are done"
        )
        raise ExceptionGroup(msg, errors)


def failed(errors: Sequence[Exception]) -> list[str]:
    """What happened to which slide, in short."""
    return [f"{error.__notes__[-1]}: {error}" for error in errors]


def stores_of(slides: Sequence[Slide], store: str | os.PathLike[str] | None) -> list[Path | None]:
    """Where the embeddings of each slide are kept: a store of its own in the folder `store`.

    Parameters
    ----------
    slides
        The slides.
    store
        A folder, or None where nothing is kept.

    Returns
    -------
    One path, or None, for each slide.
    """
    return [None if store is None else Path(store) / f"{name}.zarr" for name in slide_names(slides)]


def slide_names(slides: Sequence[Slide]) -> list[str]:
    """A name for each slide: of its file, else its number; an error for what is no slide.

    Parameters
    ----------
    slides
        The slides.

    Returns
    -------
    One name for each; a number tells equal ones apart.
    """
    if not len(slides):
        raise bad_value("data", must="hold at least one slide", got="an empty list")
    names = []
    for k, slide in enumerate(slides):
        path = slide if isinstance(slide, str | os.PathLike) else getattr(slide, "path", None)
        if not isinstance(slide, ad.AnnData | sd.SpatialData | str | os.PathLike):
            raise bad_value(
                "data", must="hold SpatialData, AnnData, or paths of SpatialData stores", got=type(slide).__name__
            )
        names.append(f"slide{k}" if path is None else Path(path).name.removesuffix(".zarr"))
    twice = sorted({name for name in names if names.count(name) > 1})
    return [f"{name}-{k}" if name in twice else name for k, name in enumerate(names)]


def active_client() -> Client | None:
    """The Dask client that the user has started, if any."""
    if "distributed" not in sys.modules:  # then there is none, and importing it takes a while
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def attempt(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """What the function returns, or the error that it raises: `run_each` raises it when the other slides are done."""
    try:
        return function(*args, **keywords)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide, the others go on
        return error


def in_turn(function: Callable[..., Any], jobs: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
    """Do one job after the other: (number, result or error)."""
    for k, job in enumerate(jobs):
        yield k, attempt(function, **job)


def on_workers(
    client: Client, function: Callable[..., Any], jobs: Sequence[dict[str, Any]]
) -> Iterator[tuple[int, Any]]:
    """Do the jobs on the workers of a cluster: (number, result or error), as they come."""
    from distributed import as_completed

    logger.info("%d slides on the cluster %s", len(jobs), client.dashboard_link or client)
    futures = {}
    for k, job in enumerate(jobs):
        outlines = bool(job.get("mask"))
        slide = attempt(lean, job["slide"], job["table_key"], key_added=job["key_added"], outlines=outlines)
        if isinstance(slide, Exception):
            yield k, slide
        else:
            futures[client.submit(function, pure=False, **{**job, "slide": slide})] = k
    for future in as_completed(futures):
        error = future.exception()
        yield futures[future], future.result() if error is None else error


def embed_slide(*, slide: Slide, key_added: str, table_key: str, **options: Any) -> Embedded | None:
    """Embed one slide; one on disk gets its new table there, and nothing is returned.

    Parameters
    ----------
    slide
        Object, or path of a SpatialData store.
    key_added, table_key, options
        As for `lm.tl.embed`.
    """
    if not isinstance(slide, str | os.PathLike):
        check_free(as_table(slide, table_key=table_key), key_added, verb=keys.EMBED)
        return embed_table(slide, table_key=table_key, **options)
    recover(slide, table_key=table_key)
    sdata = sd.read_zarr(slide)
    adata = as_table(sdata, table_key=table_key)
    check_free(adata, key_added, verb=keys.EMBED)
    write_embedded(adata, embed_table(sdata, table_key=table_key, **options), key_added=key_added)
    replace_table(slide, adata, table_key=table_key)
    return None


def lean(data: Slide, table_key: str, *, key_added: str = keys.X_LEMON, outlines: bool = False) -> Slide:
    """What a worker needs of a slide: the image by reference, how the elements are placed, where the nuclei lie.

    Parameters
    ----------
    data, table_key
        Slide and table.
    key_added
        Where the embedding is to be stored, which only the whole table can tell to be free.
    outlines
        Whether crops are to be masked, for which all outlines are needed.

    Returns
    -------
    The slide, with what it needs.
    """
    if isinstance(data, str | os.PathLike):
        return data
    full = as_table(data, table_key=table_key)
    check_free(full, key_added, verb=keys.EMBED)
    record = extraction(full)
    crops = [keys.NUCLEI] if keys.NUCLEI in full.obsm else []
    table = ad.AnnData(
        obs=full.obs[[keys.NUCLEUS_QC, keys.NUCLEUS_ID]],
        obsm={name: full.obsm[name] for name in (keys.NUCLEUS_XY, *crops)},
        uns={keys.UNS: {keys.NUCLEI: {**record, "mpp_given": True}}},  # what it followed from stays here
    )
    if not isinstance(data, sd.SpatialData):
        return table
    masked = record["shapes_key"] if record["mask"] or outlines else None
    shapes = {n: s if n == masked else s.iloc[:1] for n, s in data.shapes.items()}  # one says how all are placed
    image = {record["image_key"]: data.images[record["image_key"]]}
    labels = {n: element for n, element in data.labels.items() if n == record["shapes_key"]}
    return sd.SpatialData(
        images=image,
        labels=labels,
        shapes=shapes,
        tables={table_key: table},
        attrs=data.attrs,
    )
